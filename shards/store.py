"""Where a shard set's files come from: a folder, or an object store through a local cache."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shards.errors import CorruptShard
from shards.hashing import document_id
from shards.manifest import Manifest, ShardFile


class Store(Protocol):
    """Hands out local paths of a set's files."""

    def manifest(self) -> Manifest: ...
    def path(self, shard: ShardFile) -> Path: ...
    def want(self, shards: Sequence[ShardFile]) -> None: ...
    def release(self, shard: ShardFile) -> None: ...
    def small_folder(self, folder: str) -> Path: ...
    def close(self) -> None: ...


class LocalFiles:
    """A set in a folder: nothing to fetch and nothing to let go of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manifest(self) -> Manifest:
        """The manifest, after a look at the size of each file that it names."""
        manifest = Manifest.load(self.folder)
        for shard in (shard for files in manifest.splits.values() for shard in files):
            path = self.folder / shard.path
            found = path.stat().st_size if path.exists() else None
            if found != shard.size:  # touching a map beyond the file's end would kill the process
                raise CorruptShard(f"{found} bytes found, {shard.size} expected by the manifest", file=str(path))
        return manifest

    def path(self, shard: ShardFile) -> Path:
        return self.folder / shard.path

    def want(self, shards: Sequence[ShardFile]) -> None:
        pass

    def release(self, shard: ShardFile) -> None:
        pass

    def small_folder(self, folder: str) -> Path:
        return self.folder / folder

    def close(self) -> None:
        pass


def open_store(location: str | Path, cache: Path | None = None, cache_bytes: int = 0) -> Store:
    """A folder's store, or that of a URL like `s3://bucket/set`, its files kept in `cache`, at most `cache_bytes`.

    Without `cache` that is a folder of the set's own under the user's cache folder; 0 bytes: any number.
    """
    if "://" not in str(location):
        return LocalFiles(Path(location))
    from shards.remote import RemoteFiles

    return RemoteFiles(str(location), cache or default_cache(str(location)), cache_bytes)


def default_cache(url: str) -> Path:
    """`~/.cache/byteproxy/<hash of the URL>`, or under XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "byteproxy" / document_id(url.encode()).hex()[:16]
