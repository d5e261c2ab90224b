"""The steps of the survey: read every document once, leave out what must be, and say where each of the others goes.

Beam's elements are batches here; `records.py` says why. What they hand to the parent lies in scratch, and is small.
"""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.cleaning.dedup import cut_by_range, deduplicate
from pipeline.cleaning.filters import Filters
from pipeline.cleaning.near import shelve
from pipeline.config import BuildConfig
from pipeline.reading.admit import Row
from pipeline.reading.faults import stop_at_fault
from pipeline.reading.inputs import Files, Lines, Packed, line_ranges
from pipeline.reading.intake import Batch
from pipeline.reading.sources import read_files, read_lines
from pipeline.reading.spares import save_spares
from pipeline.reading.spool import spool_name, unpack_file
from pipeline.reading.unsought import ReadOptions, read_unsought, size_of_item
from pipeline.records import RECORD, REJECTED, pack, table, unpack
from pipeline.running.counters import SURVEY, note, tally
from pipeline.running.progress import Counter, Portion
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.running.storage import name_of
from pipeline.running.versions import expect_versions, versions_here
from pipeline.split import BUCKETS, VAL_MIN, Layout, bucket_bytes, choose_val, group_buckets
from shards.errors import ByteproxyError

SIZE = RECORD.get_field_index("size")
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

    @relayed
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
