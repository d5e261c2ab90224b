"""Proves a shard set: every document's checksums, identity and anchors, every lossless view decoded, every digest.

Faults are looked for from the inside out, so that each names the document it is in; the digests of chunks and files
come last and catch what no document covers (page headers, the footer, columns that are only looked at).
"""

import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import xxhash

from shards.codecs import Encoded
from shards.errors import ByteproxyError, CorruptShard
from shards.hashing import document_id, keyed_hash
from shards.manifest import ShardFile
from shards.reader import ShardSet, Split
from shards.schema import LAYOUT, LAYOUT_KEY


def faults(shard_set: ShardSet, decode: float = 1.0) -> Iterator[ByteproxyError]:
    """Yield every fault found in a set; `decode` is the share of documents whose lossless views are decoded."""
    for name, files in shard_set.manifest.splits.items():
        yield from _document_faults(shard_set, name, decode)
        for shard in files:
            yield from _file_faults(shard_set.folder, shard)
    for rejected in shard_set.manifest.rejected:
        if (found := _sha256(shard_set.folder / rejected.path)) != rejected.sha256:
            yield CorruptShard(
                f"sha256 {found}, expected {rejected.sha256}", file=str(shard_set.folder / rejected.path)
            )


def verify(folder: Path, decode: float = 1.0, most: int = 20) -> int:
    """Check a set; print each fault (at most `most`) and a summary. Returns the number of faults shown."""
    shard_set = ShardSet.open(folder)
    shown = 0
    for fault in faults(shard_set, decode):
        print(f"fault: {fault}")
        shown += 1
        if shown == most:
            print(f"stopped after {most} faults")
            break
    if not shown:
        counts = ", ".join(f"{name} {len(shard_set.split(name)):,}" for name in shard_set.manifest.splits)
        views = ", ".join(shard_set.views) or "none"
        shares = {name: shard_set.codec(name).checked_share for name, view in shard_set.views.items() if view.lossless}
        less = "".join(f" (of {name} {share:.0%})" for name, share in shares.items() if share < decode)
        print(f"{folder}: no fault found. Documents: {counts}; views: {views}; {decode:.0%} decoded and compared{less}")
    return shown


def _document_faults(shard_set: ShardSet, name: str, decode: float) -> Iterator[ByteproxyError]:
    split, previous = shard_set.split(name), b""
    progress = _Progress(f"verify {name}", len(split))
    for i in range(len(split)):
        progress.show(i)
        try:
            identity, raw = split.id(i), split.raw(i).tobytes()
            if document_id(raw) != identity:
                raise _fault(split, i, "id", f"id {identity.hex()}, but the bytes have id {document_id(raw).hex()}")
            if identity <= previous:
                raise _fault(split, i, "id", "rows are not sorted by id")
            previous = identity
            draw = keyed_hash("verify", 0, identity)
            for view in shard_set.views:
                _check_view(shard_set, split, i, view, raw, decode, draw)
        except ByteproxyError as fault:
            yield fault
    progress.done()


def _check_view(
    shard_set: ShardSet, split: Split, i: int, name: str, raw: bytes, share: float, draw: int
) -> None:  # decoded if `draw`, below 2**64, is below the share, which a codec that decodes slowly limits
    view, symbols, anchors_A2 = shard_set.view(name), split.symbols(i, name), split.anchors(i, name).astype(np.int64)
    if len(symbols) and int(symbols.max()) >= view.alphabet:
        raise _fault(split, i, name, f"symbol {int(symbols.max())}, expected below {view.alphabet}")
    ends = (len(raw), len(symbols))
    steps = np.diff(anchors_A2, axis=0)
    if not len(anchors_A2) or anchors_A2[0].any() or tuple(anchors_A2[-1]) != ends or (steps < 0).any():
        raise _fault(split, i, f"{name}_anchors", f"anchors do not increase from (0, 0) to {ends}")
    if view.anchor_gap is not None and len(steps) and int(steps[:, 0].max()) > view.anchor_gap:
        raise _fault(split, i, f"{name}_anchors", f"anchors more than {view.anchor_gap} raw bytes apart")
    if not view.lossless or draw >= share * 2**64:
        return
    codec = shard_set.codec(name)
    if draw < codec.checked_share * 2**64:
        try:
            same = codec.decode_many([Encoded(symbols, anchors_A2)], [len(raw)]) == [raw]
        except ByteproxyError as error:
            raise _fault(split, i, name, f"the view does not decode ({error})") from None
        if not same:
            raise _fault(split, i, name, "the decoded view is not the document")


def _file_faults(folder: Path, shard: ShardFile) -> Iterator[ByteproxyError]:
    path = folder / shard.path
    try:
        footer = pq.read_metadata(path)
        mark = (footer.metadata or {}).get(LAYOUT_KEY, b"")
        if mark != LAYOUT.encode():
            yield CorruptShard(f"layout {mark.decode(errors='replace')!r}, expected {LAYOUT!r}", file=str(path))
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        yield CorruptShard(f"the footer cannot be read ({error})", file=str(path))
    with path.open("rb") as file:
        for number, group in enumerate(shard.row_groups):
            for column, chunk in group.chunks.items():
                file.seek(chunk.offset)
                if (found := xxhash.xxh3_64_hexdigest(file.read(chunk.size))) != chunk.digest:
                    found = f"chunk digest {found}, expected {chunk.digest}"
                    yield CorruptShard(found, file=str(path), row_group=number, column=column)
    if (found := _sha256(path)) != shard.sha256:
        yield CorruptShard(f"sha256 {found}, expected {shard.sha256}", file=str(path))


def _fault(split: Split, i: int, column: str, found: str) -> CorruptShard:
    file, row_group, _ = split.place(i)
    return CorruptShard(found, file=file, row_group=row_group, column=column, document=i)


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Progress:
    """A line on stderr, rewritten each second, where stderr is a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.begin = what, total, time.monotonic()
        self.next = self.begin + 1 if sys.stderr.isatty() else float("inf")

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now >= self.next:
            self.next, left = now + 1, (now - self.begin) / max(done, 1) * (self.total - done)
            print(f"\r{self.what}: {done:,} of {self.total:,} documents, {left:.0f} s left ", end="", file=sys.stderr)

    def done(self) -> None:
        if self.next != float("inf"):
            print("\r\033[K", end="", file=sys.stderr)
