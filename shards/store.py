"""Where a shard set's files come from: a folder, or an object store through a local cache."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from shards.errors import ByteproxyError, CorruptShard
from shards.hashing import document_id
from shards.manifest import Manifest, ShardFile

_SECRETS = frozenset({"access_key", "secret_key", "session_token"})  # options of pyarrow's URLs


class Store(Protocol):
    """Hands out local paths of a set's files. `shown`: the set in messages, without what must not be in a log."""

    @property
    def shown(self) -> str: ...
    def manifest(self) -> Manifest: ...
    def path(self, shard: ShardFile) -> Path: ...
    def want(self, shards: Sequence[ShardFile]) -> None: ...
    def release(self, shard: ShardFile) -> None: ...
    def small_folder(self, folder: str) -> Path: ...
    def close(self) -> None: ...


class LocalFiles:
    """A set in a folder: nothing to fetch and nothing to let go of."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shown = folder, str(folder)

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


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL of another scheme than `file`. A Path never is: it keeps only one of the slashes."""
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", str(location), re.IGNORECASE)
    return scheme is not None and scheme[1].lower() != "file"


def local_folder(text: str) -> Path:
    """The folder that a command line names, for what works on folders alone. Raises ByteproxyError on a URL."""
    if is_remote(text):
        raise ByteproxyError(
            f"{text}: a set in a folder is expected; copy it to this machine, and if it is changed back, manifest last"
        )
    return Path(text.removeprefix("file://")).expanduser()


def open_store(location: str | Path, cache: Path | None = None, cache_bytes: int = 0) -> Store:
    """A folder's store, or that of a URL like `s3://bucket/set`, its files kept in `cache`, at most `cache_bytes`.

    Without `cache` that is a folder of the set's own under the user's cache folder; 0 bytes: any number.
    """
    text = str(location)
    if not is_remote(text):
        return LocalFiles(Path(text.removeprefix("file://")))
    check_url(text)
    from shards.remote import RemoteFiles

    return RemoteFiles(text, cache or default_cache(text), cache_bytes)


def check_url(text: str) -> None:
    """Refuse a URL with credentials in it. Raises ByteproxyError."""
    url = urlsplit(text)
    if url.password or _SECRETS & parse_qs(url.query).keys():
        raise ByteproxyError(
            f"{url.scheme}://{url.hostname}{url.path}: credentials in the URL, which configs and logs would repeat. "
            "Give them by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the store's own configuration"
        )


def default_cache(url: str) -> Path:
    """`~/.cache/byteproxy/<hash of the URL>`, or under XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "byteproxy" / document_id(url.encode()).hex()[:16]
