"""The last steps of the survey: records go to their blocks, and candidates for the fitting sample are drawn."""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from pipeline.cleaning.dedup import cut_by_range
from pipeline.records import digest_of, pack, save_table, unpack
from pipeline.reporting.statistics import UNKNOWN
from pipeline.running.progress import Counter
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.split import Layout
from shards.hashing import keyed_hash

SAMPLE_CAP = 1 << 20  # bytes that one document may give to the fitting sample


class KeyByBlock(beam.DoFn):
    """Records -> ((split, block), records); those that may be sampled for fitting -> `sample`, by language."""

    def __init__(self, seed: int, sample_bytes: int) -> None:
        self.seed, self.sample_bytes = seed, sample_bytes

    @relayed
    def process(self, packed: bytes, plan: dict[str, Any]) -> list[Any]:
        if "error" in plan:
            return []
        records = unpack([packed])
        in_val = np.isin(records["bucket"].to_numpy(), np.array(plan["val"], np.int32))
        records = records.drop_columns("bucket")
        results: list[Any] = []
        for split, chosen in (("train", ~in_val), ("val", in_val)):
            layout = Layout(*plan["splits"][split])
            part = records.filter(pa.array(chosen))
            results += [((split, block), pack(cut)) for block, cut in cut_by_range(part, layout.blocks)]
            if split == "train":
                draws = [keyed_hash("fit", self.seed, identity) for identity in part["id"].to_pylist()]
                part = part.append_column("draw", pa.array(draws, pa.uint64()))
                for language in part["language"].unique().to_pylist():
                    chosen_language = part.filter(_equals(part["language"], language))
                    lowest = lowest_draws(chosen_language, self.sample_bytes)
                    results.append(TaggedOutput("sample", (language or UNKNOWN, pack(lowest))))
        return results


class SampleFn(beam.CombineFn):
    """Per language: the records with the lowest draws, as many as may be needed for the sample."""

    def __init__(self, sample_bytes: int) -> None:
        self.sample_bytes = sample_bytes

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, parts: list[bytes], packed: bytes) -> list[bytes]:
        parts.append(packed)
        return parts if len(parts) < 64 else self._shrunk(parts)

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        return self._shrunk([part for parts in accumulators for part in parts])

    def extract_output(self, parts: list[bytes]) -> bytes:
        return self._shrunk(parts)[0]

    def _shrunk(self, parts: list[bytes]) -> list[bytes]:
        return [pack(lowest_draws(unpack(parts), self.sample_bytes))] if parts else []


def lowest_draws(records: pa.Table, sample_bytes: int) -> pa.Table:
    """The records with the lowest draws until, each counted with at most SAMPLE_CAP, they hold `sample_bytes`."""
    records = records.sort_by([("draw", "ascending"), ("id", "ascending")])
    ends = np.cumsum(np.minimum(records["size"].to_numpy(), SAMPLE_CAP))
    return records.slice(0, int(np.searchsorted(ends, sample_bytes)) + 1)


class SaveSample(beam.DoFn):
    """(language, candidates) -> scratch."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch

    @relayed
    def process(self, item: tuple[str, bytes]) -> None:
        language, packed = item
        save_table(self.scratch.sample(language), unpack([packed]))


class SaveIndex(beam.DoFn):
    """((split, block), records) -> scratch, sorted by id, and the block's facts beside it."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch

    def setup(self) -> None:
        self.counter = Counter(self.scratch.progress, "split")

    @relayed
    def process(self, item: tuple[tuple[str, int], Iterable[bytes]]) -> None:
        (split, block), parts = item
        records = unpack(parts).sort_by("id")
        save_table(self.scratch.index(split, block), records)
        columns = [records[name].to_pylist() for name in ("id", "source", "path", "language", "licence", "size")]
        digest = 0
        languages: dict[str, list[int]] = {}
        for identity, *described, size in zip(*columns, strict=True):
            digest += digest_of(identity, *described)
            sums = languages.setdefault(described[2] or UNKNOWN, [0, 0])
            sums[0] += 1
            sums[1] += size
        facts = {"split": split, "block": block, "documents": records.num_rows, "bytes": sum(columns[5])}
        facts |= {"digest": f"{digest % 2**128:032x}", "languages": languages}
        save_json(self.scratch.index_facts(split, block), facts)
        self.counter.add(records.num_rows, facts["bytes"])

    def finish_bundle(self) -> None:
        self.counter.flush()

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()


def _equals(column: pa.ChunkedArray, value: str | None) -> pa.Array:
    return pa.array([item == value for item in column.to_pylist()], pa.bool_())
