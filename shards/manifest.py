"""`manifest.json`: the only entry point of a shard set. Written last; a folder without it is no set.

It holds where each column chunk's payload lies, so that opening a set reads one file and touches no footer, and the
digests that say whether two sets, orders or views are the same.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from shards.hashing import combine
from shards.schema import LAYOUT

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class View:
    """A compressed view of every document: its codec, and how its symbols are stored."""

    name: str
    kind: str  # of the codec
    width: int  # bytes a symbol
    alphabet: int  # symbols are in [0, alphabet)
    lossless: bool
    anchor_gap: int | None  # anchors are at most so many raw bytes apart; None: only the two ends
    folder: str  # where the codec is kept, relative to the set
    digest: str  # of that folder


@dataclass(frozen=True)
class Chunk:
    """A column chunk's payload: byte offset in the file, size in bytes, XXH3-64 in hex."""

    offset: int
    size: int
    digest: str


@dataclass(frozen=True)
class RowGroup:
    """Rows that lie together, and the payloads of their mapped columns by column name."""

    rows: int
    chunks: Mapping[str, Chunk]


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file of documents. Sums are over its rows; `sums_digests` cover a column's checksums in order."""

    path: str  # relative to the set
    rows: int
    size: int
    sha256: str
    order_digest: str  # BLAKE2b-128 over the ids in order
    sums_digests: Mapping[str, str]  # for raw and each view
    symbols: Mapping[str, int]  # for raw (bytes) and each view
    row_groups: tuple[RowGroup, ...]


@dataclass(frozen=True)
class RejectedFile:
    """A Parquet file of the documents that were left out."""

    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a reader needs to know of a set. `config`, `inputs`, `libraries` and `stages` say how it was made."""

    views: tuple[View, ...]
    splits: Mapping[str, tuple[ShardFile, ...]]
    rejected: tuple[RejectedFile, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """32 hex digits over config, inputs, codecs, libraries and the versions of the stages: what was asked for."""
        codecs = [[view.name, view.digest] for view in self.views]
        parts = [LAYOUT, self.config, self.inputs, codecs, self.libraries, self.stages]
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def order_digest(self, split: str) -> str:
        """32 hex digits over the ids of a split in order: equal if and only if the documents and their order are."""
        return combine(shard.order_digest for shard in self.splits[split])

    def view_digest(self, split: str, view: str) -> str:
        """32 hex digits over the checksums of a split's values of a view (or `raw`), in order."""
        return combine(shard.sums_digests[view] for shard in self.splits[split])

    def to_json(self) -> str:
        """The text of `manifest.json`: deterministic, keys sorted."""
        body = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        digests = {
            split: {"order": self.order_digest(split)}
            | {name: self.view_digest(split, name) for name in ["raw", *(v.name for v in self.views)]}
            for split in self.splits
        }
        body |= {"layout": LAYOUT, "identity": self.identity, "digests": digests}
        return json.dumps(body, sort_keys=True, separators=(",", ":")) + "\n"

    def save(self, folder: Path) -> None:
        """Write `manifest.json` atomically: temporary name, fsync, rename, fsync of the folder."""
        write_atomically(folder / MANIFEST_NAME, self.to_json().encode())

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a set's manifest. Raises ByteproxyError where there is none or it is not one of ours."""
        path = folder / MANIFEST_NAME
        try:
            return cls.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise ByteproxyError(
                f"{folder} is no shard set: it has no {MANIFEST_NAME}. Build one: make shards CORPUS=… OUT={folder}"
            ) from None

    @classmethod
    def parse(cls, data: bytes, place: str) -> "Manifest":
        """A manifest from its text; `place`: its name in messages. Raises ByteproxyError if it is not one of ours."""
        try:
            body = json.loads(data)
            if body.get("layout") != LAYOUT:
                raise ByteproxyError(
                    f"{place}: layout {body.get('layout')!r} found, {LAYOUT!r} expected: rebuild the set"
                )
            return cls(
                views=tuple(View(**view) for view in body["views"]),
                splits={name: tuple(_shard_file(s) for s in files) for name, files in body["splits"].items()},
                rejected=tuple(RejectedFile(**r) for r in body["rejected"]),
                **{key: body[key] for key in ("config", "inputs", "libraries", "stages", "counts")},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ByteproxyError(f"{place}: not a valid manifest ({type(error).__name__}: {error})") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """Dataclasses to JSON; chunks as [offset, size, digest], for there are many."""
    if isinstance(value, Chunk):
        return [value.offset, value.size, value.digest]
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _shard_file(body: dict[str, Any]) -> ShardFile:
    groups = tuple(
        RowGroup(group["rows"], {name: Chunk(*chunk) for name, chunk in group["chunks"].items()})
        for group in body.pop("row_groups")
    )
    return ShardFile(row_groups=groups, **body)
