"""The steps that join sets: find what stays of each range of ids, then write the shards of that.

Every set is sorted by id, so the documents of a range of ids are a run of rows in each split of each set, found by
binary search: nothing is shuffled but what is left out, and memory holds one range at a time.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import TaggedOutput

from pipeline.records import REJECTED, Rejection, pack, table
from pipeline.reporting.statistics import block_statistics, merged
from pipeline.reuse.rows import documents
from pipeline.running.progress import Counter
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.running.storage import writing
from pipeline.split import Layout
from shards.errors import ByteproxyError
from shards.hashing import ID_BYTES
from shards.manifest import View
from shards.reader import ShardSet, Split
from shards.writer import table_of, write_shard

SPLITS = ("train", "val")
REJECTED_BATCH = 100_000  # rows of rejected/ that travel together

Shard = tuple[str, int, tuple[int, ...]]  # split, number, and the numbers of the split's Layout


@dataclass(frozen=True)
class MergeTask:
    """What every worker must know. Small, and travels with the graph."""

    scratch: Scratch
    folders: tuple[Path, ...]  # of the sets, in order of their identities
    identities: tuple[str, ...]
    views: tuple[View, ...]
    shard_bytes: int
    block_bytes: int
    row_group_bytes: int

    def open(self) -> list[ShardSet]:
        """The sets, as the parent saw them."""
        sets = [ShardSet.open(folder) for folder in self.folders]
        for opened, identity in zip(sets, self.identities, strict=True):
            if opened.manifest.identity != identity:
                raise ByteproxyError(f"{opened.location}: another program changed the set meanwhile; start again")
        return sets


class Row(NamedTuple):
    """A document of one of the sets."""

    id: bytes
    split: str
    set: int
    number: int  # within the split


def resolve(sets: Sequence[ShardSet], part: int, parts: int) -> tuple[list[Row], list[Rejection]]:
    """What stays of the `part`th of `parts` equal ranges of ids, in order of id, and what does not.

    Of documents with one id those in val go before those in train, and then the first by its description: the order of
    the sets has no say. Copies are the same bytes, and have the same description in `rejected/`, whoever comes first.
    """
    rows = sorted(row for number, opened in enumerate(sets) for row in _rows(opened, number, part, parts))
    kept, rejected = [], []
    for identity, group in groupby(rows, key=lambda row: row.id):
        copies = list(group)
        if len(copies) > 1:
            described = sorted((_key(sets, row), row) for row in copies)
            copies = [row for _, row in described]
            first = _meta(sets, copies[0])
            place = f"{first['source']}/{first['path']}" if first["path"] else f"{first['source']}, without a path"
            for row in copies[1:]:
                meta = _meta(sets, row)
                moved = row.split != copies[0].split
                reason = "in val of another set" if moved else "duplicate"
                size = sets[row.set].split(row.split).length("raw", row.number)
                where = meta["path"] or f"id {identity.hex()}"
                rejected.append(Rejection(meta["source"] or "", where, identity, size, reason, f"of {place}"))
        kept.append(copies[0])
    return kept, rejected


class Resolve(beam.DoFn):
    """Number of a range of ids -> documents and bytes of each split; what is left out -> `rejected`."""

    def __init__(self, task: MergeTask, ranges: int) -> None:
        self.task, self.ranges = task, ranges

    @relayed
    def setup(self) -> None:
        self.sets = self.task.open()

    @relayed
    def process(self, part: int) -> list[Any]:
        kept, rejected = resolve(self.sets, part, self.ranges)
        sums = {split: [0, 0] for split in SPLITS}
        for row in kept:
            sums[row.split][0] += 1
            sums[row.split][1] += self.sets[row.set].split(row.split).length("raw", row.number)
        found: list[Any] = [[*sums["train"], *sums["val"]]]
        return found + ([TaggedOutput("rejected", pack(table(rejected, REJECTED)))] if rejected else [])


def add_up(counts: Iterable[Sequence[int]]) -> list[int]:
    """The sums, position by position."""
    return [sum(numbers) for numbers in zip(*counts, strict=True)] or [0, 0, 0, 0]


def make_layouts(sums: Sequence[int], task: MergeTask) -> list[Shard]:
    """How each split is cut, kept in scratch; all shards."""
    layouts = {
        split: Layout.of(sums[2 * n], sums[2 * n + 1], task.shard_bytes, task.block_bytes)
        for n, split in enumerate(SPLITS)
    }
    plan = {split: dataclasses.astuple(layout) for split, layout in layouts.items()}
    save_json(task.scratch.survey("plan"), plan)
    return [(split, shard, plan[split]) for split, layout in layouts.items() for shard in range(layout.shards)]


class ReadRejected(beam.DoFn):
    """A file of rejected/ -> its rows."""

    @relayed
    def process(self, path: str) -> Iterator[bytes]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(REJECTED_BATCH, columns=REJECTED.names):
                yield pack(pa.Table.from_batches([batch]).select(REJECTED.names).cast(REJECTED))


class WriteMerged(beam.DoFn):
    """Shard -> the file; its place in the manifest and its statistics go to scratch."""

    def __init__(self, task: MergeTask) -> None:
        self.task = task

    @relayed
    def setup(self) -> None:
        self.sets = self.task.open()
        self.counter = Counter(self.task.scratch.progress, "merge")

    @relayed
    def process(self, item: Shard) -> list[Shard]:
        split, shard, numbers = item
        scratch, layout = self.task.scratch, Layout(*numbers)
        facts = scratch.shard_facts(split, shard)
        if not facts.exists():  # else a former, killed run has done it
            name = f"{split}/shard-{shard:05d}-of-{layout.shards:05d}.parquet"
            counts: list[dict[str, Any]] = []
            tables = self._tables(split, shard, layout, counts)
            first = next(tables, None)
            if first is None:  # a range of ids may hold no document, and is no file then
                return [item]
            tables = chain([first], tables)
            with writing(scratch.staged / name) as path:
                described = write_shard(path, tables, self.task.views, name, self.task.row_group_bytes)
            counted = {"split": split, "checked": 0, "statistics": merged(counts)}
            save_json(scratch.shard_statistics(split, shard), counted)
            save_json(facts, dataclasses.asdict(described))
        return [item]

    def _tables(self, split: str, shard: int, layout: Layout, counts: list[dict[str, Any]]) -> Iterator[pa.Table]:
        names = [view.name for view in self.task.views]
        a_shard = layout.blocks // layout.shards
        for block in range(shard * a_shard, (shard + 1) * a_shard):
            rows = [row for row in resolve(self.sets, block, layout.blocks)[0] if row.split == split]
            if not rows:
                continue
            found = [next(documents(self.sets[r.set].split(split), [r.number], names)) for r in rows]
            encoded = table_of(found, self.task.views)
            counts.append(block_statistics(encoded, self.task.views))
            self.counter.add(len(found), sum(len(document.raw) for document in found))
            yield encoded

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()


def _rows(opened: ShardSet, number: int, part: int, parts: int) -> Iterator[Row]:
    """A set's documents in a range of ids: those that `pipeline.cleaning.dedup.cut_by_range` gives this number."""
    for name in SPLITS:
        split = opened.split(name)
        for i in range(_lower_bound(split, part, parts), _lower_bound(split, part + 1, parts)):
            yield Row(split.id(i), name, number, i)


def _lower_bound(split: Split, part: int, parts: int) -> int:
    """The first document whose id is in the range `part` or one behind it."""
    first = -(-(part << 32) // parts)
    if first >> 32:
        return len(split)
    key = first.to_bytes(4, "big").ljust(ID_BYTES, b"\0")
    low, high = 0, len(split)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if split.id(middle) < key else (low, middle)
    return low


def _meta(sets: Sequence[ShardSet], row: Row) -> dict[str, str | None]:
    return sets[row.set].split(row.split).meta(row.number)


def _key(sets: Sequence[ShardSet], row: Row) -> tuple[Any, ...]:
    """Smallest first: val, then by description, a missing one last."""
    values = _meta(sets, row).values()
    return row.split != "val", *((value is None, value or "") for value in values)
