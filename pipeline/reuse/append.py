"""The steps that add views to a set: encode runs of its rows, then write each shard anew with all its views.

Nothing of the set is changed: new shards go to scratch under names of a later generation. Only new values are kept
between the two steps; the others are read from the set again, and must give the digests that its manifest has.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline.encode import AT_ONCE, encode_documents, is_checked, load_codec_of, share_checked
from pipeline.records import load_table, save_table
from pipeline.reporting.statistics import block_statistics, merged
from pipeline.reuse.rows import Rows, documents, read_raw
from pipeline.running.progress import Counter, counted
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.running.storage import writing
from pipeline.running.versions import expect_versions, versions_here
from shards.codecs import Codec, Encoded
from shards.errors import ByteproxyError, CorruptShard
from shards.manifest import ShardFile, View
from shards.reader import ShardSet
from shards.schema import ANCHOR_DTYPE, SYMBOL_DTYPES
from shards.writer import Document, table_of, write_shard

_GENERATION = re.compile(r"(.*?)(?:-g(\d+))?\.parquet")


@dataclass(frozen=True)
class AppendTask:
    """What every worker must know. Small, and travels with the graph."""

    scratch: Scratch
    folder: Path  # of the set
    identity: str  # of the set as the parent read it
    views: tuple[View, ...]  # to add
    libraries: dict[str, str]  # versions that touch their bytes, as the parent has them
    generation: int
    seed: int
    check: float
    row_group_bytes: int

    def open(self) -> ShardSet:
        """The set, as the parent saw it."""
        shard_set = ShardSet.open(self.folder)
        if shard_set.manifest.identity != self.identity:
            raise ByteproxyError(f"{self.folder}: another program changed the set meanwhile; start again")
        return shard_set


def versions_of(codecs: Iterable[Codec]) -> dict[str, str]:
    """Library -> version of all that decides the bytes of the new shards."""
    found = {"pyarrow": pa.__version__}
    for codec in codecs:
        found |= codec.libraries()
    return dict(sorted(found.items()))


def generation_of(path: str) -> tuple[str, int]:
    """A shard's path without its generation, and that: train/shard-00000-of-00001-g2.parquet -> (train/shard-…, 2)."""
    match = _GENERATION.fullmatch(path)
    return (match[1], int(match[2] or 1)) if match else (path, 1)


class EncodeRows(beam.DoFn):
    """Rows -> ((split, shard), Rows), the new views of their documents going to scratch."""

    def __init__(self, task: AppendTask) -> None:
        self.task = task
        self.versions = versions_here()  # the parent's

    @relayed
    def setup(self) -> None:
        task = self.task
        expect_versions(self.versions, versions_here())
        self.shard_set = task.open()
        self.codecs = {view.name: load_codec_of(task.scratch.staged, view) for view in task.views}
        expect_versions(task.libraries, versions_of(self.codecs.values()))
        self.counter = Counter(task.scratch.progress, "encode")

    @relayed
    def process(self, item: tuple[Any, ...]) -> list[tuple[tuple[str, int], tuple[Any, ...]]]:
        rows = Rows(*item)
        if not self.task.scratch.block_facts(rows.split, rows.block).exists():  # else a former, killed run has done it
            self._encode(rows)
        return [((rows.split, rows.shard), item)]

    def _encode(self, rows: Rows) -> None:
        task, split = self.task, self.shard_set.split(rows.split)
        values: dict[str, list[bytes]] = {name: [] for name in _columns(task.views)}
        seconds = {view.name: [0.0, 0.0] for view in task.views}
        checked, share = 0, share_checked(self.codecs.values(), task.check)
        raws: list[bytes] = []
        identities: list[bytes] = []
        held = 0  # bytes of these
        for i in range(rows.first, rows.last):
            raws.append(read_raw(split, i))
            identities.append(split.id(i))
            checked += is_checked(share, task.seed, identities[-1])
            held += len(raws[-1])
            if i + 1 < rows.last and held < AT_ONCE:
                continue
            wheres = [f"id {identity.hex()}" for identity in identities]
            for encoded in encode_documents(
                raws, self.codecs, seconds, identities, wheres, task.check, task.seed, self.counter.add
            ):
                for view in task.views:
                    symbols, pairs = encoded[view.name]
                    values[view.name].append(np.ascontiguousarray(symbols, SYMBOL_DTYPES[view.width]).tobytes())
                    values[f"{view.name}_anchors"].append(np.ascontiguousarray(pairs, ANCHOR_DTYPE).tobytes())
            raws, identities, held = [], [], 0
        columns = {name: pa.array(column, pa.large_binary()) for name, column in values.items()}
        save_table(task.scratch.block(rows.split, rows.block), pa.table(columns))
        facts = {"documents": rows.last - rows.first, "checked": checked, "seconds": seconds}
        save_json(task.scratch.block_facts(rows.split, rows.block), facts)

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()


class JoinRows(beam.DoFn):
    """((split, shard), all its Rows) -> the shard with its old and new views; gives its place by way of scratch."""

    def __init__(self, task: AppendTask) -> None:
        self.task = task

    @relayed
    def setup(self) -> None:
        self.shard_set = self.task.open()

    @relayed
    def process(self, item: tuple[tuple[str, int], Iterable[tuple[Any, ...]]]) -> list[tuple[str, int]]:
        (split, shard), parts = item
        task, manifest = self.task, self.shard_set.manifest
        facts = task.scratch.shard_facts(split, shard)
        if not facts.exists():
            former = manifest.splits[split][shard]
            name = f"{generation_of(former.path)[0]}-g{task.generation}.parquet"
            views = (*manifest.views, *task.views)
            counts: list[dict[str, Any]] = []
            counter = Counter(task.scratch.progress, "join")
            with writing(task.scratch.staged / name) as path:
                tables = counted(self._tables(sorted(Rows(*part) for part in parts), views, counts), counter)
                described = write_shard(path, tables, views, name, task.row_group_bytes)
            counter.close()
            check_same(former, described)
            found = {"split": split, "checked": 0, "statistics": merged(counts)}
            save_json(task.scratch.shard_statistics(split, shard), found)
            save_json(facts, dataclasses.asdict(described))
        return [(split, shard)]

    def _tables(self, parts: list[Rows], views: tuple[View, ...], counts: list[dict[str, Any]]) -> Iterator[pa.Table]:
        for rows in parts:
            added = load_table(self.task.scratch.block(rows.split, rows.block))
            former = documents(
                self.shard_set.split(rows.split), range(rows.first, rows.last), list(self.shard_set.views)
            )
            table = table_of([self._with_added(d, added, row) for row, d in enumerate(former)], views)
            counts.append(block_statistics(table, views))
            yield table

    def _with_added(self, document: Document, added: pa.Table, row: int) -> Document:
        for view in self.task.views:
            symbols = np.frombuffer(added[view.name][row].as_buffer(), SYMBOL_DTYPES[view.width])
            pairs = np.frombuffer(added[f"{view.name}_anchors"][row].as_buffer(), ANCHOR_DTYPE).reshape(-1, 2)
            document.encoded[view.name] = Encoded(symbols, pairs)
        return document


def check_same(former: ShardFile, described: ShardFile) -> None:
    """Documents, their order and the values of their former views must be what they were. Raises CorruptShard."""
    found = (described.rows, described.order_digest, {n: described.sums_digests[n] for n in former.sums_digests})
    if found != (former.rows, former.order_digest, dict(former.sums_digests)):
        raise CorruptShard("its documents or their views are not those of the manifest", file=former.path)


def _columns(views: Iterable[View]) -> list[str]:
    return [name for view in views for name in (view.name, f"{view.name}_anchors")]
