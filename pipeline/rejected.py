"""What was left out, with its reasons: the files of rejected/."""

import os
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import REJECTED, pack, unpack
from pipeline.reporting.statistics import rejection_statistics
from pipeline.running.counters import REJECTED as REJECTED_REASONS
from pipeline.running.counters import tally_each
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.running.storage import Location, writing
from shards.hashing import keyed_hash


class KeyRejected(beam.DoFn):
    """Rejections -> (number of their file, rejections)."""

    def __init__(self, files: int) -> None:
        self.files = files

    @relayed
    def process(self, packed: bytes) -> list[tuple[int, bytes]]:
        rows = unpack([packed])
        tally_each(REJECTED_REASONS, rows["reason"].to_pylist())
        if self.files == 1:
            return [(0, packed)]
        places = zip(rows["source"].to_pylist(), rows["path"].to_pylist(), strict=True)
        numbers = np.array([keyed_hash("rejected", 0, s.encode(), p.encode()) * self.files >> 64 for s, p in places])
        return [(int(n), pack(rows.filter(pa.array(numbers == n)))) for n in np.unique(numbers)]


class SaveRejected(beam.DoFn):
    """(number, rejections) -> a Parquet file of the set, and their counts and examples by reason in scratch."""

    def __init__(self, files: int, scratch: Scratch) -> None:
        self.files, self.scratch = files, scratch

    @relayed
    def process(self, item: tuple[int, Iterable[bytes]]) -> None:
        number, parts = item
        rows = unpack(parts).sort_by([(name, "ascending") for name in REJECTED.names])
        name = f"rejected/part-{number:05d}-of-{self.files:05d}.parquet"
        write_parquet(self.scratch.staged / name, rows)
        facts = {"path": name, "rows": rows.num_rows, "reasons": rejection_statistics(rows)}
        save_json(self.scratch.rejected_facts(number), facts)


def write_parquet(path: Location, rows: pa.Table) -> None:
    """An ordinary compressed Parquet file, whole or not at all."""
    with writing(path) as temporary:
        pq.write_table(rows, temporary, compression="ZSTD")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
