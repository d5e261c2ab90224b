"""The sample that codecs are fitted on, drawn from a finished set by the rule by which a build draws it.

A build's draws are keyed hashes of ids, and its quotas come of the bytes of each language in train; a set has both. So
the sample is the very one that a build of this set would have fitted on, given the same seed and size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.blocks import lowest_draws
from pipeline.fit import capped, quotas, within_quota
from pipeline.reporting.statistics import UNKNOWN
from pipeline.reuse.rows import raw_lengths, read_raw
from shards.hashing import ID_BYTES, keyed_hash
from shards.reader import ShardSet


def choose_rows(shard_set: ShardSet, seed: int, sample_bytes: int) -> list[int]:
    """The numbers of the train documents to fit on, in order of their draws."""
    table = _candidates(shard_set, seed)
    sizes = table.group_by("language").aggregate([("size", "sum")])
    available = dict(zip(sizes["language"].to_pylist(), sizes["size_sum"].to_pylist(), strict=True))
    chosen: list[tuple[int, int]] = []
    for language, quota in quotas(available, sample_bytes).items():
        lowest = lowest_draws(table.filter(pc.equal(table["language"], language)), sample_bytes)
        count = within_quota(lowest["size"].to_numpy(), quota)
        chosen += zip(lowest["draw"].to_pylist()[:count], lowest["number"].to_pylist()[:count], strict=True)
    return [number for _, number in sorted(chosen)]


def read_rows(shard_set: ShardSet, numbers: Sequence[int]) -> Iterator[bytes]:
    """These train documents; of a huge one the first whole lines."""
    split = shard_set.split("train")
    return (capped(read_raw(split, i)) for i in numbers)


def _candidates(shard_set: ShardSet, seed: int) -> pa.Table:
    """Every train document: number, id, size, language and draw."""
    split, files = shard_set.split("train"), shard_set.manifest.splits["train"]
    columns = [split.payload(group, "id").tobytes() for group in range(split.groups)]
    ids = [column[at : at + ID_BYTES] for column in columns for at in range(0, len(column), ID_BYTES)]
    sizes = [raw_lengths(split, group) for group in range(split.groups)]
    chunks = [chunk for file in files for chunk in _column(shard_set.store.path(file), "language").chunks]
    names = pa.chunked_array(chunks, pa.utf8())
    return pa.table(
        {
            "number": pa.array(np.arange(len(ids)), pa.int64()),
            "id": pa.array(ids, pa.binary(ID_BYTES)),
            "size": np.concatenate(sizes),
            "language": names.fill_null(UNKNOWN),
            "draw": pa.array([keyed_hash("fit", seed, identity) for identity in ids], pa.uint64()),
        }
    )


def _column(path: Path, name: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return file.read(columns=[name])[name]
