"""Rows of sets that are there, read through `shards.reader`, which checks each value against its sum.

A block here is a run of rows of one shard: some megabytes of documents that a worker takes at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shards.codecs import Encoded
from shards.errors import CorruptShard
from shards.hashing import document_id
from shards.reader import ShardSet, Split
from shards.writer import Document


class Rows(NamedTuple):
    """The documents [first, last) of a split; all lie in one shard. `block` numbers them within the split."""

    split: str
    shard: int
    block: int
    first: int
    last: int


def blocks_of(shard_set: ShardSet, block_bytes: int) -> list[Rows]:
    """All rows of a set, cut at the ends of its shards and wherever about `block_bytes` of text have come together."""
    found = []
    for name, files in shard_set.manifest.splits.items():
        split, first, group, block = shard_set.split(name), 0, 0, 0
        for shard, file in enumerate(files):
            sizes = [raw_lengths(split, group + number) for number in range(len(file.row_groups))]
            ends = np.cumsum(np.concatenate(sizes) if sizes else np.zeros(0, np.int64))
            begin = 0
            while begin < len(ends):
                done = int(ends[begin - 1]) if begin else 0
                end = min(len(ends), int(np.searchsorted(ends, done + block_bytes)) + 1)
                found.append(Rows(name, shard, block, first + begin, first + end))
                begin, block = end, block + 1
            first, group = first + len(ends), group + len(file.row_groups)
    return found


def raw_lengths(split: Split, group: int) -> np.ndarray:
    """(rows,) int64: bytes of the documents of a row group."""
    return split.payload(group, "raw_len").view("<i4").astype(np.int64)


def read_raw(split: Split, i: int) -> bytes:
    """A document's bytes. Raises CorruptShard if they are not those that its id and its sum were made of."""
    raw = split.raw(i).tobytes()
    if document_id(raw) != split.id(i):
        file, group, _ = split.place(i)
        found = f"the bytes have id {document_id(raw).hex()}, expected {split.id(i).hex()}"
        raise CorruptShard(found, file=file, row_group=group, column="id", document=i)
    return raw


def documents(split: Split, numbers: Iterable[int], views: Sequence[str]) -> Iterator[Document]:
    """These documents with these of their views, as `shards.writer` takes them."""
    for i in numbers:
        encoded = {view: Encoded(split.symbols(i, view), split.anchors(i, view, check=False)) for view in views}
        yield Document(read_raw(split, i), **split.meta(i), encoded=encoded)
