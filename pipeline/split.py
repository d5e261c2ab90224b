"""Train or val? By group, so that neighbours stay together, and by keyed hash, so that order has no say.

A document's group is the outermost of its folders that holds at most 2% of all bytes; if all hold more, the document is
a group by itself. Groups are drawn by the hash of their names; only sums over folders and over 65,536 hash buckets are
ever gathered in one place.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from shards.errors import ByteproxyError
from shards.hashing import keyed_hash

BIG_SHARE = 50  # a folder with more than 1/50 of all bytes is descended into
BUCKETS = 1 << 16
VAL_MIN, VAL_MAX = 0.005, 0.05
MIN_BLOCK_BYTES = 1 << 20
MIN_BLOCKS = 16  # so that a small corpus keeps several workers busy


def folder_bytes(records: pa.Table) -> Iterable[tuple[str, int]]:
    """(folder, bytes under it) for every folder over these records, at all depths."""
    sums = records.group_by("grouping").aggregate([("size", "sum")])
    total: dict[str, int] = {}
    for grouping, size in zip(sums["grouping"].to_pylist(), sums["size_sum"].to_pylist(), strict=True):
        for folder in _chain(grouping):
            total[folder] = total.get(folder, 0) + size
    return total.items()


def is_big(size: int, total: int) -> bool:
    """Is a folder of `size` bytes too big for one group?"""
    return size * BIG_SHARE > total


def group_of(grouping: str | None, big: Collection[str]) -> str | None:
    """The folder that a document is grouped by, or None: by itself."""
    return next((folder for folder in _chain(grouping) if folder not in big), None)


def group_buckets(records: pa.Table, big: Collection[str], seed: int) -> np.ndarray:
    """(N,) int32: the hash bucket of each record's group."""
    known: dict[str | None, int | None] = {}
    buckets = np.empty(records.num_rows, np.int32)
    rows = zip(records["grouping"].to_pylist(), records["id"].to_pylist(), strict=True)
    for row, (grouping, identity) in enumerate(rows):
        if grouping not in known:
            group = group_of(grouping, big)
            known[grouping] = None if group is None else _bucket(seed, b"folder", group.encode())
        bucket = known[grouping]
        buckets[row] = _bucket(seed, b"document", identity) if bucket is None else bucket
    return buckets


def bucket_bytes(buckets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(BUCKETS,) int64: bytes by hash bucket."""
    result = np.zeros(BUCKETS, np.int64)
    np.add.at(result, buckets, sizes)
    return result


def choose_val(sizes: np.ndarray, fraction: float) -> list[int]:
    """The buckets that make up val: in order of their hash until `fraction` of all bytes is reached.

    A bucket that would carry val beyond VAL_MAX of all bytes is passed over. Raises ByteproxyError if no choice gives
    between VAL_MIN and VAL_MAX.
    """
    total = int(sizes.sum())
    chosen: list[int] = []
    val = 0
    for bucket in np.flatnonzero(sizes).tolist():
        if val >= fraction * total:
            break
        if val + sizes[bucket] <= VAL_MAX * total:
            chosen.append(bucket)
            val += int(sizes[bucket])
    if not total or not VAL_MIN * total <= val <= VAL_MAX * total:
        smallest = int(sizes[sizes > 0].min()) if total else 0
        raise ByteproxyError(
            f"cannot set documents aside for validation: {VAL_MIN:.1%} to {VAL_MAX:.0%} of {total} bytes are expected, "
            f"{val / max(1, total):.2%} found; the smallest group of documents has {smallest / max(1, total):.2%}. "
            "The corpus is too small, or a few documents are most of it: add documents (some hundred are plenty)"
        )
    return chosen


@dataclass(frozen=True)
class Layout:
    """How a split is cut: shards are files, blocks are what one worker encodes at a time. Both are ranges of ids."""

    documents: int
    bytes: int
    shards: int
    blocks: int  # a multiple of shards

    @classmethod
    def of(cls, documents: int, size: int, shard_bytes: int, block_bytes: int) -> "Layout":
        """Blocks are internal: their size changes no byte of a shard."""
        shards = max(1, math.ceil(size / shard_bytes))
        wanted = max(size / block_bytes, min(MIN_BLOCKS, size / MIN_BLOCK_BYTES))
        return cls(documents, size, shards, shards * max(1, math.ceil(wanted / shards)))

    def shard_of(self, block: int) -> int:
        """The shard that a block belongs to."""
        return block * self.shards // self.blocks


def _chain(grouping: str | None) -> Iterable[str]:
    """a/b/c -> a, a/b, a/b/c."""
    if grouping is None:
        return
    end = -1
    while (end := grouping.find("/", end + 1)) >= 0:
        yield grouping[:end]
    yield grouping


def _bucket(seed: int, kind: bytes, name: bytes) -> int:
    return keyed_hash("split", seed, kind, name) * BUCKETS >> 64
