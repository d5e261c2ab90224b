"""The steps of the survey: read every document once, leave out what must be, and say where each of the others goes.

Beam's elements are batches here; `records.py` says why. What they hand to the parent lies in scratch, and is small.
"""

import os
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.admit import Row
from pipeline.config import BuildConfig
from pipeline.counters import REJECTED as REJECTED_REASONS
from pipeline.counters import SURVEY, note, tally, tally_each
from pipeline.dedup import cut_by_range, deduplicate
from pipeline.faults import stop_at_fault
from pipeline.filters import Filters
from pipeline.inputs import Files, Lines, Packed, line_ranges
from pipeline.intake import Batch
from pipeline.near import shelve
from pipeline.progress import Counter, Portion
from pipeline.records import RECORD, REJECTED, digest_of, pack, save_table, table, unpack
from pipeline.relay import relayed
from pipeline.scratch import Scratch, save_json
from pipeline.sources import read_files, read_lines
from pipeline.spares import save_spares
from pipeline.split import BUCKETS, VAL_MIN, Layout, bucket_bytes, choose_val, group_buckets
from pipeline.spool import spool_name, unpack_file
from pipeline.statistics import UNKNOWN, rejection_statistics
from pipeline.storage import Location, name_of, writing
from pipeline.unsought import ReadOptions, read_unsought, size_of_item
from pipeline.versions import expect_versions, versions_here
from shards.errors import ByteproxyError
from shards.hashing import keyed_hash

SIZE = RECORD.get_field_index("size")
SAMPLE_CAP = 1 << 20  # bytes that one document may give to the fitting sample
GATHERED = 30_000  # records that a reader holds before it hands them on, by range of ids


class Unpack(beam.DoFn):
    """A compressed input -> ranges of its lines in scratch; faults -> `rejected`, `found`. Other items as they are."""

    def __init__(self, scratch: Scratch, options: ReadOptions) -> None:
        self.scratch, self.options = scratch, options

    def setup(self) -> None:
        self.counter = Counter(self.scratch.progress, "unpack")
        self.written = Counter(self.scratch.progress, "unpacked")
        self.faults = Counter(self.scratch.progress, "survey")

    @relayed
    def process(self, item: tuple[Any, ...]) -> list[Any]:
        kind, *parts = item
        if kind == "rejected":
            self.faults.add(0, 0, unpack(parts).num_rows)
            return [TaggedOutput("rejected", parts[0])]
        if kind != "packed":
            return [item]
        packed = Packed(*parts)
        target = self.scratch.spool(spool_name(packed))
        size, rejection = unpack_file(packed, target, self.options.expansion, self.counter)
        self.counter.flush()
        self.written.add(0, size)
        ranges = [("lines", *part) for part in line_ranges(packed.input, name_of(target), size)]
        if rejection is None:
            return ranges
        self.faults.add(0, 0, 1)
        if self.options.strict:
            stop_at_fault([rejection])
        return [*ranges, TaggedOutput("rejected", pack(table([rejection], REJECTED))), TaggedOutput("found", 1)]

    def teardown(self) -> None:
        if hasattr(self, "faults"):
            for counter in (self.counter, self.written, self.faults):
                counter.close()


class Read(beam.DoFn):
    """A work item -> (range of ids, records); rejections -> `rejected`; documents that were not listed -> `found`.

    To `seen`: how many documents each rule was held against.
    """

    def __init__(self, filters: Filters, options: ReadOptions, ranges: int, scratch: Scratch) -> None:
        self.filters, self.options, self.ranges, self.scratch = filters, options, ranges, scratch
        self.versions = versions_here()  # the parent's

    @relayed
    def setup(self) -> None:
        expect_versions(self.versions, versions_here())
        self.counter = Counter(self.scratch.progress, "survey")

    def start_bundle(self) -> None:
        self.rows: list[Row] = []

    @relayed
    def process(self, item: tuple[Any, ...]) -> list[Any]:
        kind, *parts = item
        batches: Iterable[Batch]
        if kind == "files":
            files = Files(*parts)
            portion = Portion(self.counter, files.size)
            batches = [read_files(files, self.filters)]
        elif kind == "lines":
            lines = Lines(*parts)
            portion = Portion(self.counter, lines.end - lines.start)
            batches = [read_lines(lines, self.filters)]
        else:
            portion = Portion(self.counter, size_of_item(kind, parts))
            batches = read_unsought(kind, parts, self.filters, self.options, self.scratch, portion)
        results: list[Any] = []
        found = 0
        for rows, rejected in batches:
            self.counter.add(len(rows), 0, len(rejected))
            found += len(rows) + len(rejected)
            self.rows += rows
            if len(self.rows) >= GATHERED:
                results += self._gathered()
            if self.options.strict:
                stop_at_fault(rejected)
            sizes = [row[SIZE] for row in rows]
            tally(SURVEY, "documents", len(rows))
            tally(SURVEY, "bytes", sum(sizes))
            note(SURVEY, "document_bytes", sizes)
            if rejected:
                results.append(TaggedOutput("rejected", pack(table(rejected, REJECTED))))
        portion.end()
        tally(SURVEY, "found", found)
        if kind != "files":
            results.append(TaggedOutput("found", found))
        if seen := self.filters.take_seen():
            results.append(TaggedOutput("seen", seen))
        return results

    def finish_bundle(self) -> list[WindowedValue]:
        """Hand on the records that are held."""
        self.counter.flush()
        window = GlobalWindow()
        return [WindowedValue(keyed, window.max_timestamp(), [window]) for keyed in self._gathered()]

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()

    def _gathered(self) -> list[tuple[int, bytes]]:
        """The records held, by range of ids. Many at once, for each batch costs the runner two kilobytes of its own."""
        rows, self.rows = self.rows, []
        records = table(rows, RECORD)
        if rows and self.filters.sketcher:
            records = shelve(records, self.scratch)
        return [(number, pack(cut)) for number, cut in cut_by_range(records, self.ranges)]


class Deduplicate(beam.DoFn):
    """(range of ids, its records) -> the documents that stay; the others -> `rejected`, and their places to scratch."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch

    def setup(self) -> None:
        self.counter = Counter(self.scratch.progress, "survey")

    @relayed
    def process(self, item: tuple[int, Iterable[bytes]]) -> list[Any]:
        number, parts = item
        documents, duplicates, rejected = deduplicate(unpack(parts))
        self.counter.add(-duplicates.num_rows, 0, duplicates.num_rows)
        save_spares(self.scratch, number, duplicates)
        return [pack(documents), *([TaggedOutput("rejected", pack(rejected))] if rejected.num_rows else [])]

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()


class AssignGroups(beam.DoFn):
    """Records -> records with the hash bucket of their group, by the list of folders too big for one group."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @relayed
    def process(self, packed: bytes, big: list[str]) -> list[bytes]:
        records = unpack([packed])
        buckets = group_buckets(records, frozenset(big), self.seed)
        return [pack(records.append_column("bucket", pa.array(buckets, pa.int32())))]


class SumBuckets(beam.CombineFn):
    """Records -> (2, BUCKETS) int64: documents and bytes by hash bucket."""

    def create_accumulator(self) -> np.ndarray:
        return np.zeros((2, BUCKETS), np.int64)

    def add_input(self, sums: np.ndarray, packed: bytes) -> np.ndarray:
        records = unpack([packed])
        buckets = records["bucket"].to_numpy()
        sums[0] += np.bincount(buckets, minlength=BUCKETS)
        sums[1] += bucket_bytes(buckets, records["size"].to_numpy())
        return sums

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, sums: np.ndarray) -> np.ndarray:
        return sums


def draw_val(sums: np.ndarray, fraction: float) -> dict[str, Any]:
    """Which buckets are val; or, under `error`, why there can be no val."""
    try:
        return {"val": choose_val(sums[1], fraction)}
    except ByteproxyError as error:
        return {"error": str(error)}


def make_plan(
    sums: np.ndarray, config: BuildConfig, scratch: Scratch, drawn: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Which buckets are val, and how each split is cut; or, under `error`, why there can be no val.

    `drawn`: the buckets were chosen before, and val has lost documents since.
    """
    plan = draw_val(sums, config.val_fraction) if drawn is None else check_left(sums, drawn)
    if "error" not in plan:
        in_val = np.zeros(BUCKETS, bool)
        in_val[plan["val"]] = True
        splits = {}
        for split, chosen in (("train", ~in_val), ("val", in_val)):
            documents, size = (int(number) for number in sums[:, chosen].sum(axis=1))
            layout = Layout.of(documents, size, config.shard_bytes, config.block_bytes)
            splits[split] = [layout.documents, layout.bytes, layout.shards, layout.blocks]
        plan = plan | {"splits": splits}
        planned = Counter(scratch.progress, "planned")
        planned.add(sum(numbers[0] for numbers in splits.values()), sum(numbers[1] for numbers in splits.values()))
        planned.close()
    save_json(scratch.survey("plan"), plan)
    return plan


def check_left(sums: np.ndarray, drawn: dict[str, Any]) -> dict[str, Any]:
    """What was drawn, or the error that too little of it is left."""
    if "error" in drawn:
        return drawn
    left, total = int(sums[1][drawn["val"]].sum()), int(sums[1].sum())
    if left >= VAL_MIN * total and left:
        return drawn
    found = f"{VAL_MIN:.1%} of the bytes are expected, {left / max(1, total):.2%} found"
    return {
        "error": f"--drop-val-twins leaves too little for validation: {found}. Set more aside with --val-fraction, ask "
        "for a higher threshold, or use --near-duplicates, which keeps one of each kind wherever it falls"
    }


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


def _equals(column: pa.ChunkedArray, value: str | None) -> pa.Array:
    return pa.array([item == value for item in column.to_pylist()], pa.bool_())
