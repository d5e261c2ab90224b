"""Encodes blocks and joins them into shards. A block is the unit of work: some megabytes of documents with near ids.

The block's worker reads the documents again at their places, refuses one that has changed since the survey, encodes
every view and, by default, decodes it and compares.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from time import perf_counter
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.changed import changed_facts
from pipeline.cleaning.twins import TwinIndex
from pipeline.reading.detect import detector_libraries
from pipeline.reading.sources import Changed, read_many
from pipeline.reading.spares import read_spare
from pipeline.records import digest_of, load_table, places, save_table, shown_place
from pipeline.reporting.statistics import block_statistics
from pipeline.running.counters import ENCODE, note, tally
from pipeline.running.progress import Counter, counted
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, load_json, save_json
from pipeline.running.storage import Location, local_folder, name_of, writing
from pipeline.running.versions import expect_versions, versions_here
from pipeline.split import Layout
from shards.codecs import Codec, Encoded, load_codec
from shards.errors import ByteproxyError
from shards.hashing import keyed_hash
from shards.manifest import Chunk, RowGroup, ShardFile, View
from shards.writer import Document, table_of, write_shard

AT_ONCE = 1 << 20  # bytes of documents that are decoded together
PART = 1 << 16  # that are encoded together, then counted: of a language model's view some seconds' work


@dataclass(frozen=True)
class EncodeTask:
    """What every worker must know to encode. Small, and travels with the graph."""

    scratch: Scratch
    views: tuple[View, ...]
    libraries: dict[str, str]  # versions that touch the bytes, as the parent has them
    layouts: dict[str, Layout]
    seed: int
    check: float
    row_group_bytes: int
    strict: bool = False


def libraries_of(codecs: Iterable[Codec], detect: bool = False) -> dict[str, str]:
    """Library -> version of all that decides the bytes of a shard, and (identify) which documents are in it."""
    found = {"pyarrow": pa.__version__, "identify": version("identify")} | (detector_libraries() if detect else {})
    for codec in codecs:
        found |= codec.libraries()
    return dict(sorted(found.items()))


def codec_seconds(views: Iterable[View], blocks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By view: the seconds that the codec took to encode, and to decode, over all blocks' facts."""
    return {
        view.name: {
            name: sum(block["seconds"][view.name][number] for block in blocks)
            for number, name in enumerate(("encode", "decode"))
        }
        for view in views
    }


def is_checked(share: float, seed: int, identity: bytes) -> bool:
    """Is a document among the share of those that are decoded again?"""
    return share >= 1 or keyed_hash("check", seed, identity) < share * 2**64


def share_checked(codecs: Iterable[Codec], check: float) -> float:
    """The share of the documents of which every view that decodes is decoded again."""
    return min((min(check, codec.checked_share) for codec in codecs if codec.lossless), default=0.0)


def encode_documents(
    raws: Sequence[bytes], codecs: Mapping[str, Codec], seconds: Mapping[str, list[float]], identities: Sequence[bytes],
    wheres: Sequence[str], check: float, seed: int, count: Callable[[int, int], None],
) -> list[dict[str, Encoded]]:  # fmt: skip
    """Documents in each view; of the share `check`, or less where a codec decodes slowly, decoded and compared.

    Adds to each view's `seconds` (encode, decode), and tells `count` the documents and bytes of each PART when it is
    encoded. Raises ByteproxyError if a view does not decode to its document; `wheres`: their places, for that message.
    """
    encoded: list[dict[str, Encoded]] = []
    for part in _parts(raws):
        encoded += ({} for _ in part)
        started = perf_counter()
        for name, codec in codecs.items():
            for row, result in enumerate(codec.encode_many(part), len(encoded) - len(part)):
                encoded[row][name] = result
            ended = perf_counter()
            seconds[name][0] += ended - started
            started = ended
        count(len(part), sum(map(len, part)))
    for name, codec in codecs.items():
        share = share_checked([codec], check)
        chosen = [row for row, identity in enumerate(identities) if is_checked(share, seed, identity)]
        if not chosen:  # a codec that is one way refuses to decode even none
            continue
        started = perf_counter()
        decoded = codec.decode_many([encoded[row][name] for row in chosen], [len(raws[row]) for row in chosen])
        seconds[name][1] += perf_counter() - started
        for row, text in zip(chosen, decoded, strict=True):
            if text != raws[row]:
                raise ByteproxyError(f"view {name}: {wheres[row]} does not decode to its own bytes; report this")
    return encoded


def _parts(raws: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The documents in runs of PART bytes, or a little more."""
    begin = size = 0
    for end, raw in enumerate(raws, 1):
        size += len(raw)
        if size >= PART or end == len(raws):
            yield raws[begin:end]
            begin, size = end, 0


class EncodeBlock(beam.DoFn):
    """(split, block) -> ((split, shard), block), the encoded documents going to scratch."""

    def __init__(self, task: EncodeTask) -> None:
        self.task = task
        self.versions = versions_here()  # the parent's

    @relayed
    def setup(self) -> None:
        task = self.task
        expect_versions(self.versions, versions_here())
        self.codecs = {view.name: load_codec_of(task.scratch.staged, view) for view in task.views}
        expect_versions(task.libraries, libraries_of(self.codecs.values(), "magika" in task.libraries))
        self.twins = TwinIndex.load(task.scratch.twins)
        self.counter = Counter(task.scratch.progress, "encode")

    @relayed
    def process(self, item: tuple[str, int]) -> list[tuple[tuple[str, int], int]]:
        split, block = item
        if not self.task.scratch.block_facts(split, block).exists():  # else a former, killed build has done it
            self._encode(split, block)
        return [((split, self.task.layouts[split].shard_of(block)), block)]

    def _encode(self, split: str, block: int) -> None:
        scratch, views = self.task.scratch, self.task.views
        records = load_table(scratch.index(split, block))
        names = ("id", "source_id", "source", "path", "language", "licence")
        documents: list[Document] = []
        waiting: list[Document] = []  # to be encoded together
        identities: list[bytes] = []
        held = 0  # bytes of these
        twins: set[int] = set()
        scrubbed: dict[str, dict[str, int]] = {}  # kind of secret -> documents, places in them
        seconds = {view.name: [0.0, 0.0] for view in views}
        checked, share = 0, share_checked(self.codecs.values(), self.task.check)
        begin = perf_counter()
        columns = [records[name].to_pylist() for name in names]
        changed = []
        read = read_many(zip(places(records), *columns[:2], strict=True))
        for row, (stored, *described) in enumerate(zip(read, *columns, strict=True)):
            identity, source_id, source, path, language, licence = described
            if isinstance(stored, Changed) and not self.task.strict:
                stored = read_spare(scratch, identity) or stored
            if isinstance(stored, Changed):
                changed.append(self._changed(stored, records.slice(row, 1).to_pylist()[0]))
                continue
            raw, replaced = stored
            for kind, count in replaced.items():
                sums = scrubbed.setdefault(kind, {"documents": 0, "places": 0})
                sums["documents"] += 1
                sums["places"] += count
            checked += is_checked(share, self.task.seed, identity)
            if split == "train":
                twins.update(self.twins.twins_of(raw))
            identities.append(identity)
            waiting.append(Document(raw, source, path, language, licence, source_id and source_id.hex()))
            held += len(raw)
            if held >= AT_ONCE:
                documents += self._encoded(waiting, identities, seconds)
                waiting, identities, held = [], [], 0
        documents += self._encoded(waiting, identities, seconds)
        encoded_block = table_of(documents, views)
        save_table(scratch.block(split, block), encoded_block)
        facts = {
            "split": split,
            "block": block,
            "documents": len(documents),
            "checked": checked,
            "seconds": seconds,
            "twins": sorted(twins),
            "changed": changed,
        }
        started = perf_counter()
        facts["statistics"] = block_statistics(encoded_block, views) | {"scrubbed": scrubbed}
        ended = perf_counter()
        save_json(scratch.block_facts(split, block), facts | {"gathering": ended - started, "total": ended - begin})
        tally(ENCODE, "blocks")
        tally(ENCODE, "documents", len(documents))
        tally(ENCODE, "bytes", _total(encoded_block["raw_len"]))
        for view in views:
            tally(ENCODE, f"{view.name}_bytes", view.width * _total(encoded_block[f"{view.name}_len"]))
        note(ENCODE, "block_milliseconds", [round(1000 * (ended - begin))])

    def _encoded(
        self, waiting: list[Document], identities: list[bytes], seconds: Mapping[str, list[float]]
    ) -> list[Document]:
        wheres = [
            f"{d.source}/{d.path}" if d.path else f"{d.source}, id {identity.hex()}"
            for d, identity in zip(waiting, identities, strict=True)
        ]
        raws, task = [document.raw for document in waiting], self.task
        encoded = encode_documents(
            raws, self.codecs, seconds, identities, wheres, task.check, task.seed, self.counter.add
        )
        return [replace(document, encoded=views) for document, views in zip(waiting, encoded, strict=True)]

    def _changed(self, found: Changed, record: dict[str, Any]) -> dict[str, Any]:
        """A document that is not what was surveyed any more, for `rejected/`. Raises it if the build must stop."""
        if self.task.strict or record["file"].startswith(name_of(self.task.scratch.root).partition(b"?")[0]):
            raise found  # in scratch nothing changes but by a fault of the disk
        identity, source, path = record["id"], record["source"], record["path"]
        digest = digest_of(identity, source, path, record["language"], record["licence"])
        where = shown_place(source, path, record["input"], record["number"])
        return changed_facts(source, where, identity, record["size"], found.value, digest)

    def finish_bundle(self) -> None:
        self.counter.flush()

    def teardown(self) -> None:
        if hasattr(self, "counter"):
            self.counter.close()


def _total(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0


class JoinShard(beam.DoFn):
    """((split, shard), blocks) -> a shard file of the set; gives its place in the manifest, by way of scratch."""

    def __init__(self, task: EncodeTask) -> None:
        self.task = task

    @relayed
    def process(self, item: tuple[tuple[str, int], Iterable[int]]) -> list[tuple[str, int]]:
        (split, shard), blocks = item
        task, scratch = self.task, self.task.scratch
        facts = scratch.shard_facts(split, shard)
        if not facts.exists():
            name = f"{split}/shard-{shard:05d}-of-{task.layouts[split].shards:05d}.parquet"
            counter = Counter(scratch.progress, "join")
            tables = counted((load_table(scratch.block(split, block)) for block in sorted(blocks)), counter)
            with writing(scratch.staged / name) as path:
                described = write_shard(path, tables, task.views, name, task.row_group_bytes)
            save_json(facts, dataclasses.asdict(described))
            counter.close()
            tally(ENCODE, "shards")
        return [(split, shard)]


def load_codec_of(staged: Location, view: View) -> Codec:
    """A view's codec from the staged set."""
    with local_folder(staged / view.folder) as folder:
        return load_codec(folder)


def load_shards(scratch: Scratch, split: str, shards: int) -> tuple[ShardFile, ...]:
    """The manifest's entries of a split. A range of ids may hold no document, and is no file then."""
    found = []
    for shard in range(shards):
        with contextlib.suppress(FileNotFoundError):
            found.append(load_shard_facts(scratch, split, shard))
    return tuple(found)


def load_shard_facts(scratch: Scratch, split: str, shard: int) -> ShardFile:
    """The manifest's entry of a shard that JoinShard wrote."""
    body: dict[str, Any] = load_json(scratch.shard_facts(split, shard))
    groups = tuple(
        RowGroup(group["rows"], {name: Chunk(**chunk) for name, chunk in group["chunks"].items()})
        for group in body.pop("row_groups")
    )
    return ShardFile(row_groups=groups, **body)
