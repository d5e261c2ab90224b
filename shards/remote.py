"""A shard set in an object store (`s3://bucket/set`, `gs://bucket/set`), read through files on this machine.

A file is fetched ahead of use, compared with the manifest's sha256 on the way, and only then given its name in the
cache. The name contains that sha256: what has such a name is good, and a set that changed never takes a stale file.
"""

import atexit
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from shards.bucket import Bucket
from shards.cache import CacheFolder
from shards.errors import ByteproxyError, CacheFull, CorruptShard
from shards.hashing import folder_digest
from shards.manifest import MANIFEST_NAME, Manifest, ShardFile

_POLL = 0.02  # seconds between looks at another's download
_AGAIN = 1.0  # seconds after which the thread looks again at what others were fetching
_JOIN = 8.0  # seconds that `close` waits for the thread: an attempt of a request


class RemoteFiles:
    """The files of the set at a URL, in a cache folder of at most `limit_bytes` (0: any number).

    Safe to share between threads; several objects and processes may share a cache. Raises ByteproxyError where the URL
    is not understood, the store cannot be read or the cache cannot be written.
    """

    def __init__(self, url: str, cache: Path, limit_bytes: int) -> None:
        self._bucket, self._cache = Bucket(url), CacheFolder(cache, limit_bytes)
        self._changed = threading.Condition()
        self._version = 0  # counts changes that may let the thread go on
        self._wanted: dict[str, ShardFile] = {}  # by name in the cache, in order
        self._pinned: set[str] = set()
        self._failed: set[str] = set()  # not tried ahead again until `want`
        self._codecs: dict[str, str] = {}  # digests by folder, of the manifest last read
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        return self._bucket.shown

    def manifest(self) -> Manifest:
        """The set's manifest, read afresh. Raises ByteproxyError where there is none or it is not one of ours."""
        data = self._bucket.read(MANIFEST_NAME)
        if data is None:
            raise ByteproxyError(
                f"{self._bucket.shown} is no shard set: it has no {MANIFEST_NAME}, or there is no such bucket. "
                "Check the URL, or copy a set there, its manifest last"
            )
        manifest = Manifest.parse(data, f"{self._bucket.shown}/{MANIFEST_NAME}")
        self._codecs = {view.folder: view.digest for view in manifest.views}
        return manifest

    def small_folder(self, folder: str) -> Path:
        """A local copy of a folder of the set, for instance a codec's; the caller checks its digest.

        A copy from before is taken only if it has the manifest's digest, so one that was damaged is fetched again.
        """
        if not self._codecs:
            self.manifest()
        local = self._cache.folder / self._inside(folder)
        if local.is_dir() and folder_digest(local) == self._codecs.get(folder):
            return local
        names = self._bucket.names(folder)
        if not names:
            raise CorruptShard("there are no such objects", file=f"{self._bucket.shown}/{folder}")
        contents = {self._inside(name).removeprefix(f"{folder}/"): self._bucket.read(name) or b"" for name in names}
        with self._cache.writing():
            size = sum(map(len, contents.values()))
            self._take_room(folder, size, lambda: self._cache.put_folder(folder, contents), -1.0)
        return local

    def path(self, shard: ShardFile) -> Path:
        """The local path of a shard's file, which is fetched unless it is there, and kept until `release`.

        Raises CorruptShard where the store's file is not the manifest's, also on a second try; ByteproxyError where the
        store cannot be read or the cache has no room. Another process that shares the cache may delete the file before
        it is opened: ask again.
        """
        name = self._local_name(shard)
        with self._changed:
            self._pinned.add(name)
            self._wanted.pop(name, None)
            self._stir()
        try:
            with self._cache.writing():
                self._fetch(shard, ahead=False)
        except BaseException:
            self.release(shard)
            raise
        return self._cache.folder / name

    def want(self, shards: Sequence[ShardFile]) -> None:
        """Say what is needed next, in order, in place of what was wanted before; a thread fetches what fits."""
        wanted = {self._local_name(shard): shard for shard in shards}
        with self._changed:
            self._wanted = wanted
            self._failed.clear()
            self._stir()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._fetch_ahead, name="shards-ahead", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread inside pyarrow while the interpreter ends may abort the process

    def release(self, shard: ShardFile) -> None:
        """Say that a file is no longer mapped: it may be deleted when room is needed."""
        with self._changed:
            self._pinned.discard(self._local_name(shard))
            self._stir()

    def close(self) -> None:
        """Stop fetching ahead. Files stay in the cache; one that is being fetched does not get there."""
        with self._changed:
            self._closed = True
            self._bucket.close()
            self._stir()
        if self._thread is not None:
            self._thread.join(_JOIN)
            atexit.unregister(self.close)

    def _stir(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _fetch_ahead(self) -> None:
        """The thread: fetch what is wanted until there is no room, then wait for a change."""
        busy: set[str] = set()
        while not self._closed:
            seen, busy = self._version, set()
            while shard := self._next_wanted(busy):
                try:
                    if not self._fetch(shard, ahead=True):
                        busy.add(self._local_name(shard))
                except CacheFull:
                    break
                except Exception:  # `path` tries again itself, and raises
                    self._failed.add(self._local_name(shard))
            with self._changed:
                if self._version == seen and not self._closed:
                    self._changed.wait(_AGAIN if busy else None)

    def _next_wanted(self, busy: set[str]) -> ShardFile | None:
        with self._changed:
            for name, shard in self._wanted.items():
                if self._closed:
                    break
                if name not in busy and name not in self._failed and not self._cache.has(name, shard.size):
                    return shard
            return None

    def _fetch(self, shard: ShardFile, ahead: bool) -> bool:
        """Have a file in the cache. Where another fetches it, that is waited for, or with `ahead` False returned."""
        name = self._local_name(shard)
        look = self._cache.watch(name)
        while not self._cache.touch(name, shard.size):
            with self._cache.draft(name) as file:
                if file is not None:
                    if not self._cache.has(name, shard.size):  # else another finished it between look and claim
                        self._download(shard, file, ahead)
                        self._cache.keep(name)
                    continue
            if ahead:
                return False
            look()
            time.sleep(_POLL)
        return True

    def _download(self, shard: ShardFile, file: BinaryIO, ahead: bool) -> None:
        with self._changed:
            order, name = list(self._wanted), self._local_name(shard)
        position = order.index(name) if name in order else math.inf
        # The file has its full size at once, so that others who count the folder know what it will take.
        self._take_room(shard.path, shard.size, lambda: file.truncate(shard.size), position if ahead else -1.0)
        fault: str | None = ""
        for _ in range(2):
            fault = self._bucket.copy(shard.path, shard.size, shard.sha256, file)
            if fault is None:
                return
        raise CorruptShard(str(fault), file=f"{self._bucket.shown}/{shard.path}")

    def _take_room(self, what: str, size: int, take: Callable[[], object], position: float) -> None:
        """Room for `size` bytes, which `take` takes. What is not wanted goes first, then what is wanted last.

        Nothing goes that is pinned or wanted before `position`, that of a file which is fetched ahead: it does not
        wait for room. What is needed now has position -1, and waits for downloads that end and then may go.
        """
        while True:
            with self._changed:  # pins and wants stand still
                numbers = {name: number for number, name in enumerate(self._wanted)}

                def rank(name: str, numbers: Mapping[str, int] = numbers) -> float | None:
                    number = numbers.get(name, math.inf)
                    return None if name in self._pinned or number < position else -number

                try:
                    return self._cache.take_room(what, size, take, rank)
                except CacheFull as full:
                    if position >= 0 or not full.passing:
                        raise
            time.sleep(_POLL)

    def _local_name(self, shard: ShardFile) -> str:
        if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
            raise ByteproxyError(
                f"{self._bucket.shown}: {shard.sha256!r} is no sha256, of {shard.path}: rebuild the set"
            )
        stem = self._inside(shard.path).removesuffix(".parquet").replace("/", "-").lstrip(".")
        return f"{stem[-100:]}.{shard.sha256}.parquet"

    def _inside(self, path: str) -> str:
        """The path, unless it leads out of the set: a manifest from elsewhere must not name files of this machine."""
        if {"", ".", ".."} & set(path.split("/")) or "\0" in path:
            raise ByteproxyError(f"{self._bucket.shown}: {path!r} is not a path within the set: rebuild the set")
        return str(PurePosixPath(path))
