"""Near-duplicates, within and across inputs: of documents that are alike, or joined by others that are, one stays.

    numbered documents -> keys of bands -> pairs that meet -> pairs whose sketches agree -> clusters -> one of each

What is shuffled is 8 bytes a band and document (36 bands at the defaults); sketches lie in scratch, 4 bytes a slot, and
are looked up by number. Clusters are found from the pairs alone, in one step that holds some 60 bytes a document that
has a near-duplicate. Which of a cluster stays is decided as for exact duplicates: the first by (source, path, input,
number); so neither workers nor the order of arrival have a say.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from pipeline.cleaning.dedup import id_prefixes
from pipeline.cleaning.minhash import agreeing, band_keys, banding, components, spanning_edges
from pipeline.cleaning.options import Cleaning
from pipeline.records import load_table, pack, rejections, save_table, shown_place, sum_counts, unpack
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch, save_json
from pipeline.running.storage import write_whole

REASON = "near-duplicate"
OPEN_FILES = 256  # of sketches, mapped at once by a worker
FOLD = 1 << 20  # edges held before they are folded to those that are needed

Edges = np.ndarray  # (E, 2) int64: numbers of documents
Labels = np.ndarray  # (2, N) int64: numbers of documents that have near-duplicates, sorted; each one's cluster


def shelve(records: pa.Table, scratch: Scratch) -> pa.Table:
    """Put the sketches of a batch of records into a file of scratch; what travels on says where each lies."""
    sketches = records["sketch"].to_pylist()
    columns = (records[name].to_pylist() for name in ("id", "file", "number"))
    name = blake2b(repr(list(zip(*columns, strict=True))).encode(), digest_size=16)
    rows = [sketch for sketch in sketches if sketch is not None]
    write_whole(scratch.sketches(name.hexdigest()), b"".join(rows))
    numbers = iter(range(len(rows)))
    pointers = [name.digest() + next(numbers).to_bytes(8, "little") if s is not None else None for s in sketches]
    return _with(records, "sketch", pa.array(pointers, pa.binary()))


class Sketches:
    """The sketches of numbered documents, looked up in scratch."""

    def __init__(self, scratch: Scratch, permutations: int) -> None:
        self._scratch, self._permutations = scratch, permutations
        self._maps: dict[str, np.ndarray] = {}
        self._names: dict[int, pa.Table] = {}
        self._copies: TemporaryDirectory[str] | None = None  # of files that lie in a store

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """(N, permutations) uint32 for N numbers; zeros for a document that has no sketch."""
        found = np.zeros((len(numbers), self._permutations), "<u4")
        ranges = numbers >> 32
        for number in np.unique(ranges).tolist():
            chosen = ranges == number
            found[chosen] = self.file(f"range-{number:06d}")[numbers[chosen] & 0xFFFFFFFF]
        return found

    def file(self, name: str) -> np.ndarray:
        """(rows, permutations) uint32 of a file, mapped; fetched first where scratch lies in a store."""
        if name not in self._maps:
            if len(self._maps) >= OPEN_FILES:
                self._maps.pop(next(iter(self._maps)))
            path = self._scratch.sketches(name)
            if not isinstance(path, Path):
                self._copies = self._copies or TemporaryDirectory(prefix="byteproxy-")
                copy = Path(self._copies.name) / name
                if not copy.exists():
                    copy.write_bytes(path.read_bytes())
                path = copy
            flat = np.memmap(path, "<u4", "r") if path.stat().st_size else np.zeros(0, "<u4")
            self._maps[name] = flat.reshape(-1, self._permutations)
        return self._maps[name]

    def name(self, number: int) -> str:
        """Where a document is, for people."""
        area = number >> 32
        if area not in self._names:
            self._names[area] = load_table(self._scratch.sketches(f"names-{area:06d}.arrow"))
        return self._names[area]["name"][number & 0xFFFFFFFF].as_py()


class Number(beam.DoFn):
    """A range's records -> the same with a number each, (range << 32) + row; their sketches -> a file of the range.

    Numbers are in the order of ids. A document without a sketch, shorter than a shingle, has -1. To `seen`: how many
    documents there are.
    """

    def __init__(self, ranges: int, permutations: int, scratch: Scratch) -> None:
        self.ranges, self.scratch, self.permutations = ranges, scratch, permutations
        self.sketches = Sketches(scratch, permutations)

    @relayed
    def process(self, packed: bytes) -> list[Any]:
        records = unpack([packed])
        if not records.num_rows:
            return []
        number = int(id_prefixes(records)[0]) * self.ranges >> 32
        pointers = records["sketch"].to_pylist()
        rows = np.zeros((len(pointers), self.permutations), "<u4")
        for row, pointer in enumerate(pointers):
            if pointer is not None:
                rows[row] = self.sketches.file(pointer[:16].hex())[int.from_bytes(pointer[16:], "little")]
        write_whole(self.scratch.sketches(f"range-{number:06d}"), rows.tobytes())
        save_table(self.scratch.sketches(f"names-{number:06d}.arrow"), pa.table({"name": names_of(records)}))
        numbers = np.where([p is not None for p in pointers], (number << 32) + np.arange(len(pointers)), -1)
        numbered = pack(_with(records.drop_columns("sketch"), "near", pa.array(numbers, pa.int64())))
        return [numbered, TaggedOutput("seen", {REASON: len(numbers)})]


class KeyByBand(beam.DoFn):
    """Numbered records -> (range of band keys, what is left of the keys and whose they are)."""

    def __init__(self, threshold: float, permutations: int, ranges: int, scratch: Scratch) -> None:
        self.shape, self.ranges = banding(threshold, permutations), ranges
        self.sketches = Sketches(scratch, permutations)

    @relayed
    def process(self, packed: bytes) -> list[tuple[int, bytes]]:
        numbers = numbers_of(unpack([packed]))
        return key_ranges(band_keys(self.sketches.of(numbers), *self.shape), numbers, self.ranges)


def key_ranges(keys: np.ndarray, numbers: np.ndarray, ranges: int) -> list[tuple[int, bytes]]:
    """Band keys (N, bands) of N numbers, cut into ranges of keys."""
    owners = np.broadcast_to(numbers[:, None], keys.shape).reshape(-1)
    keys = keys.reshape(-1)
    where = (keys >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)
    return [(int(r), pack_keys(keys[where == r], owners[where == r])) for r in np.unique(where)]


def pack_keys(keys: np.ndarray, owners: np.ndarray) -> bytes:
    """Keys and whose they are, 8 bytes an entry: of a key the low half, of a number its row, the range once."""
    parts = []
    for number in np.unique(owners >> 32).tolist():
        chosen = owners >> 32 == number
        rows = np.stack([keys[chosen].astype("<u4"), owners[chosen].astype("<u4")], axis=1)  # the low halves
        parts.append(np.array([number, len(rows)], "<i8").tobytes() + rows.tobytes())
    return b"".join(parts)


def unpack_keys(packed: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(keys, owners) of packed parts, sorted by key, then by owner."""
    keys, owners = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for part in packed:
        stream = io.BytesIO(part)
        while head := stream.read(16):
            number, count = np.frombuffer(head, "<i8").tolist()
            rows = np.frombuffer(stream.read(8 * count), "<u4").reshape(-1, 2)
            keys.append(rows[:, 0])
            owners.append((number << 32) + rows[:, 1].astype(np.int64))
    all_keys, all_owners = np.concatenate(keys), np.concatenate(owners)
    order = np.lexsort((all_owners, all_keys))
    return all_keys[order], all_owners[order]


def meetings(packed: Iterable[bytes]) -> Iterator[np.ndarray]:
    """The documents that share a key, for each key that is shared; a group that was given before is not repeated."""
    keys, owners = unpack_keys(packed)
    begins = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    ends = np.r_[begins[1:], len(keys)]
    given: set[bytes] = set()
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        group = owners[begin:end]
        name = blake2b(group.tobytes(), digest_size=16).digest()
        if name not in given:
            given.add(name)
            yield np.unique(group)


class Compare(beam.DoFn):
    """(Range of keys, its keys) -> edges between documents that meet and whose sketches agree."""

    def __init__(self, threshold: float, permutations: int, scratch: Scratch) -> None:
        self.least = agreeing(threshold, permutations)
        self.sketches = Sketches(scratch, permutations)

    @relayed
    def process(self, item: tuple[int, Iterable[bytes]]) -> list[Edges]:
        found = []
        for group in meetings(item[1]):
            edges = spanning_edges(self.sketches.of(group), self.least)
            found += [group[np.array(edges)]] if edges else []
        return [np.concatenate(found)] if found else []


class Cluster(beam.CombineFn):
    """Edges -> Labels. What is held is folded to one edge a document, so memory is bound by those with duplicates."""

    def create_accumulator(self) -> list[Edges]:
        return []

    def add_input(self, parts: list[Edges], edges: Edges) -> list[Edges]:
        parts.append(edges)
        return parts if sum(map(len, parts)) < FOLD else _folded(parts)

    def merge_accumulators(self, accumulators: Iterable[list[Edges]]) -> list[Edges]:
        return _folded([edges for parts in accumulators for edges in parts])

    def extract_output(self, parts: list[Edges]) -> Labels:
        return components(np.concatenate([np.zeros((0, 2), np.int64), *parts]))


def _folded(parts: list[Edges]) -> list[Edges]:
    return [components(np.concatenate(parts)).T] if parts else []


class Separate(beam.DoFn):
    """Numbered records -> those without near-duplicates; (range of clusters, the others and theirs) -> `alike`."""

    def __init__(self, ranges: int) -> None:
        self.ranges = ranges

    @relayed
    def process(self, packed: bytes, labels: Labels | None) -> list[Any]:
        if labels is None or not labels.size:
            return [packed]
        records = unpack([packed])
        numbers = records["near"].to_numpy()
        at = np.minimum(np.searchsorted(labels[0], numbers), labels.shape[1] - 1)
        alike = labels[0][at] == numbers
        results: list[Any] = [pack(records.filter(pa.array(~alike)))]
        clusters = labels[1][at[alike]]
        members = _with(records.filter(pa.array(alike)), "cluster", pa.array(clusters, pa.int64()))
        where = clusters % self.ranges
        cuts = ((int(r), pack(members.filter(pa.array(where == r)))) for r in np.unique(where))
        return [*results, *(TaggedOutput("alike", cut) for cut in cuts)]


class Resolve(beam.DoFn):
    """(Range of clusters, their documents) -> one of each; the others -> `rejected`; sizes of clusters -> `sizes`."""

    def __init__(self, permutations: int, scratch: Scratch) -> None:
        self.permutations, self.sketches = permutations, Sketches(scratch, permutations)

    @relayed
    def process(self, item: tuple[int, Iterable[bytes]]) -> list[Any]:
        order = [(key, "ascending") for key in ("cluster", "source", "path", "input", "number", "id")]
        records = unpack(item[1]).sort_by(order)  # a null path sorts last
        clusters = records["cluster"].to_numpy()
        records = records.drop_columns("cluster")
        first = np.r_[True, clusters[1:] != clusters[:-1]]
        winners, losers = records.filter(pa.array(first)), records.filter(pa.array(~first))
        beaten_by = winners.take(pa.array((np.cumsum(first) - 1)[~first]))
        numbers = [part["near"].to_numpy() for part in (losers, beaten_by)]
        equal = np.count_nonzero(self.sketches.of(numbers[0]) == self.sketches.of(numbers[1]), axis=1)
        similar = zip(names_of(beaten_by), (equal / self.permutations).tolist(), strict=True)
        rejected = rejections(losers, REASON, [f"of {name}, similarity {share:.3f}" for name, share in similar])
        sizes = Counter(np.unique(clusters, return_counts=True)[1].tolist())
        counts = {str(size): count for size, count in sizes.items()}
        return [pack(winners), TaggedOutput("rejected", pack(rejected)), TaggedOutput("sizes", counts)]


def names_of(records: pa.Table) -> list[str]:
    """Where documents are, for people."""
    columns = (records[name].to_pylist() for name in ("source", "path", "input", "number"))
    return [f"{row[0]}/{shown_place(*row)}" for row in zip(*columns, strict=True)]


def numbers_of(records: pa.Table) -> np.ndarray:
    """(N,) int64: the numbers of those records that have a sketch."""
    numbers = records["near"].to_numpy()
    return numbers[numbers >= 0]


def leave_out_near(
    documents: PCollection, clean: Cleaning, ranges: int, scratch: Scratch
) -> tuple[PCollection, list[PCollection], list[PCollection]]:
    """(Documents that stay, collections of rejections, counts of what was compared). Sizes of clusters go to scratch.

    `documents` come a range of ids each. Where nothing is asked for no step is added.
    """
    if clean.sketcher is None:
        return documents, [], []
    threshold, permutations = clean.near_duplicates, clean.near_permutations
    number = beam.ParDo(Number(ranges, permutations, scratch)).with_outputs("seen", main="documents")
    numbered = documents | "number" >> number
    if not threshold:
        return numbered.documents, [], []
    labels = (
        numbered.documents
        | "bands" >> beam.ParDo(KeyByBand(threshold, permutations, ranges, scratch))
        | "by band" >> beam.GroupByKey()
        | "compare" >> beam.ParDo(Compare(threshold, permutations, scratch))
        | "clusters" >> beam.CombineGlobally(Cluster()).without_defaults()
    )
    separate = beam.ParDo(Separate(ranges), AsSingleton(labels, None))
    separated = numbered.documents | "separate" >> separate.with_outputs("alike", main="alone")
    resolved = (
        separated.alike
        | "by cluster" >> beam.GroupByKey()
        | "resolve" >> beam.ParDo(Resolve(permutations, scratch)).with_outputs("rejected", "sizes", main="kept")
    )
    (
        resolved.sizes
        | "sum sizes" >> beam.CombineGlobally(sum_counts).without_defaults()
        | "save sizes" >> beam.Map(partial(save_json, scratch.survey("clusters")))
    )
    kept = (separated.alone, resolved.kept) | "not alike" >> beam.Flatten()
    return kept, [resolved.rejected], [numbered.seen]


def _with(records: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """Records with a column put in, or put in another's place."""
    kept = records.drop_columns(name) if name in records.column_names else records
    return kept.append_column(name, column)
