"""A shard set in an object store (`s3://`, `gs://`), read through a folder of whole files on this machine.

A file is fetched ahead of use, compared with the manifest's sha256 on the way, and only then renamed to its name in the
cache, which contains that sha256: what has such a name is good, and a set that changed never takes a stale file. Several
processes may share a cache. They agree by locks on files, which the kernel lets go of when a process dies: one that
fetches a file holds it as `.tmp-…`, and `.lock` is held while room is made. Deleting a file that is mapped is harmless.
"""

import atexit
import fcntl
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from shards.errors import ByteproxyError, CorruptShard
from shards.hashing import folder_digest
from shards.manifest import MANIFEST_NAME, Manifest, ShardFile

CONNECT_TIMEOUT = 5.0  # seconds, each attempt
REQUEST_TIMEOUT = 20.0  # seconds without a byte, each attempt
ATTEMPTS = 3  # of the S3 client at each request
STALL = 120.0  # seconds without progress after which another process's download is given up
_CHUNK = 8 << 20  # bytes a request
_POLL = 0.02  # seconds between looks at another's download
_JOIN = 5.0  # seconds that `close` waits for the thread
_OURS = re.compile(r"[^.].*\.[0-9a-f]{64}\.parquet")  # the only files ever evicted
_S3_OPTIONS = {"region", "scheme", "endpoint_override"}
_CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS"


class _CacheFull(ByteproxyError):
    """There is no room that may be made."""


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL of another scheme than `file`. A Path never is: it keeps only one of the slashes."""
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", str(location), re.IGNORECASE)
    return scheme is not None and scheme[1].lower() != "file"


class RemoteFiles:
    """The files of the set at a URL, in a cache folder of at most `limit_bytes` (0: any number). Safe to share by threads.

    Raises ByteproxyError where the URL is not understood or the store cannot be reached; messages hold no credentials.
    """

    def __init__(self, url: str, cache: Path, limit_bytes: int) -> None:
        self._url = _Url(url)
        with self._asking(self._url.shown):
            self._store, self._root = _connect(self._url)
        self._cache, self._limit = cache, limit_bytes
        self._changed = threading.Condition()
        self._version = 0  # counts changes that may let the thread go on
        self._wanted: dict[str, ShardFile] = {}  # by name in the cache, in order
        self._pinned: set[str] = set()
        self._failed: set[str] = set()  # not tried ahead again until more is wanted
        self._codecs: dict[str, str] = {}  # digests by folder, of the manifest last read
        self._thread: threading.Thread | None = None
        self._closed = False
        with self._writing():
            cache.mkdir(parents=True, exist_ok=True)
            with _folder_lock(cache):
                _sweep(cache)

    def manifest(self) -> Manifest:
        """The set's manifest, read afresh. Raises ByteproxyError where there is none or it is not one of ours."""
        data = self._read(MANIFEST_NAME)
        if data is None:
            raise ByteproxyError(
                f"{self._url.shown} is no shard set: it has no {MANIFEST_NAME}, or there is no such bucket. "
                "Check the URL, or copy a set there, its manifest last"
            )
        with TemporaryDirectory() as folder:
            (Path(folder) / MANIFEST_NAME).write_bytes(data)
            try:
                manifest = Manifest.load(Path(folder))
            except ByteproxyError as error:
                raise ByteproxyError(str(error).replace(folder, self._url.shown)) from None
        self._codecs = {view.folder: view.digest for view in manifest.views}
        return manifest

    def small_folder(self, folder: str) -> Path:
        """A local copy of a folder of the set, for instance a codec's; the caller checks its digest.

        A copy that is already there is taken only if it has the manifest's digest: one that was damaged is fetched again.
        """
        if not self._codecs:
            self.manifest()
        final = self._cache / self._inside(folder)
        if final.is_dir() and folder_digest(final) == self._codecs.get(folder):
            return final
        with self._asking(f"{self._url.shown}/{folder}"):
            try:
                found = self._store.get_file_info(fs.FileSelector(f"{self._root}/{folder}", recursive=True))
            except FileNotFoundError:
                raise CorruptShard("there is no such folder", file=f"{self._url.shown}/{folder}") from None
        names = [info.path.removeprefix(f"{self._root}/") for info in found if info.is_file]
        contents = {self._inside(name): self._read(name) or b"" for name in names}

        def write() -> None:
            draft = self._cache / f".tmp-folder-{os.getpid()}"
            for name, content in contents.items():
                path = draft / Path(name).relative_to(folder)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            shutil.rmtree(final, ignore_errors=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(final)

        with self._writing():
            self._take_room(folder, sum(map(len, contents.values())), write)
        return final

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
            with self._writing():
                self._fetch(shard, ahead=False)
        except BaseException:
            self.release(shard)
            raise
        return self._cache / name

    def want(self, shards: Sequence[ShardFile]) -> None:
        """Say what is needed next, in order, in place of what was wanted before: a thread fetches it as far as fits."""
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
        """Stop fetching ahead. The files stay in the cache, those that were being fetched do not."""
        with self._changed:
            self._closed = True
            self._stir()
        if self._thread is not None:
            self._thread.join(_JOIN)
            atexit.unregister(self.close)

    def _stir(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _fetch_ahead(self) -> None:
        """The thread: fetch what is wanted until there is no room, then wait for a change."""
        seen, busy = -1, set[str]()
        while True:
            with self._changed:
                # Another process may give up a file that it is fetching: look again.
                self._changed.wait_for(lambda: self._closed or self._version != seen, 1.0 if busy else None)
                seen, busy = self._version, set()
            while shard := self._next_wanted(busy):
                try:
                    if not self._fetch(shard, ahead=True):
                        busy.add(self._local_name(shard))
                except _CacheFull:
                    break
                except Exception:  # `path` tries again itself, and raises
                    self._failed.add(self._local_name(shard))
            if self._closed:
                return

    def _next_wanted(self, busy: set[str]) -> ShardFile | None:
        with self._changed:
            for name, shard in self._wanted.items():
                if self._closed:
                    break
                if name not in busy and name not in self._failed and not _has_size(self._cache / name, shard.size):
                    return shard
            return None

    def _fetch(self, shard: ShardFile, ahead: bool) -> bool:
        """Have a file in the cache. With `ahead` False is returned where another fetches it; else that is waited for."""
        final = self._cache / self._local_name(shard)
        temporary = final.with_name(f".tmp-{final.name}")
        last, since = 0, time.monotonic()
        while not _touch(final, shard.size):
            with _claim(temporary) as file:
                if file is not None:
                    if not _touch(final, shard.size):  # else it was finished between the look and the claim
                        self._download(shard, file, ahead)
                        with _folder_lock(self._cache):  # so that nobody counts the folder while a name changes
                            temporary.replace(final)
                    continue
            if ahead:
                return False
            with suppress(FileNotFoundError):
                if (now := temporary.stat().st_mtime_ns) != last:
                    last, since = now, time.monotonic()
            if time.monotonic() - since > STALL:
                raise ByteproxyError(
                    f"{temporary}: another process has been fetching this for {STALL:.0f} s without progress: "
                    "look whether one is stopped, or use another cache folder"
                )
            time.sleep(_POLL)
        return True

    def _download(self, shard: ShardFile, file: BinaryIO, ahead: bool) -> None:
        # The file has its full size at once, so that others who count the folder know what it will take.
        self._take_room(shard.path, shard.size, lambda: file.truncate(shard.size), self._local_name(shard), ahead)
        if self._copy(shard, file) is not None and (fault := self._copy(shard, file)) is not None:
            raise CorruptShard(fault, file=f"{self._url.shown}/{shard.path}")

    def _copy(self, shard: ShardFile, file: BinaryIO) -> str | None:
        """Copy an object into a file; returns what is wrong with it, or None."""
        place, digest = f"{self._url.shown}/{shard.path}", sha256()
        with self._asking(place):
            try:
                source = self._store.open_input_file(f"{self._root}/{shard.path}")
            except FileNotFoundError:
                return f"there is no such object; {shard.size} bytes expected by the manifest"
            if (size := source.size()) != shard.size:
                return f"{size} bytes found, {shard.size} expected by the manifest"
        file.seek(0)
        while True:
            with self._asking(place):
                block = source.read(_CHUNK)
            if not block:
                break
            if self._closed:
                raise ByteproxyError(f"{place}: the set was closed while this file was fetched")
            digest.update(block)
            file.write(block)
        file.flush()
        return None if (found := digest.hexdigest()) == shard.sha256 else f"sha256 {found}, expected {shard.sha256}"

    def _take_room(
        self, what: str, size: int, take: Callable[[], object], name: str | None = None, ahead: bool = False
    ) -> None:
        """Evict until `size` bytes fit, then call `take`, which takes them. Raises _CacheFull where they cannot fit.

        Unpinned files go, the least recently used first, wanted ones last; what is fetched ahead drives out nothing
        that is wanted before it.
        """
        while True:
            with _folder_lock(self._cache), self._changed:
                _sweep(self._cache)
                if self._limit == 0:
                    take()
                    return
                ranks: dict[str, float] = {wanted: rank for rank, wanted in enumerate(self._wanted)}
                first = ranks.get(name or "", math.inf) if ahead else -1
                used, in_flight, evictable = 0, 0, []
                for path, stat in _files(self._cache):
                    used += stat.st_size
                    rank = ranks.get(path.name, math.inf)
                    if path.name.startswith(".tmp-"):
                        in_flight += stat.st_size
                    elif _OURS.fullmatch(path.name) and path.name not in self._pinned and rank >= first:
                        evictable.append((-rank, stat.st_mtime_ns, stat.st_size, path))
                excess = used + size - self._limit
                if sum(entry[2] for entry in evictable) >= excess:
                    for _, _, gained, path in sorted(evictable):
                        if excess <= 0:
                            break
                        path.unlink(missing_ok=True)
                        excess -= gained
                    take()
                    return
            if ahead or in_flight == 0 or size > self._limit:
                raise _CacheFull(
                    f"{self._cache}: no room for {what}. It takes {size:,} bytes, {used:,} are there, of which "
                    f"{sum(e[2] for e in evictable):,} may go, and the limit is {self._limit:,}: raise it with "
                    "--cache-bytes (0: no limit), or read fewer files at a time with a smaller --shuffle-window"
                )
            time.sleep(_POLL)  # a download that ends becomes a file that may go

    def _read(self, name: str) -> bytes | None:
        """The whole of a small file, or None where there is none."""
        with self._asking(f"{self._url.shown}/{name}"):
            try:
                with self._store.open_input_file(f"{self._root}/{name}") as source:
                    return source.read()
            except FileNotFoundError:
                return None

    def _local_name(self, shard: ShardFile) -> str:
        if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
            raise ByteproxyError(f"{self._url.shown}: {shard.sha256!r} is no sha256 of {shard.path}: rebuild the set")
        stem = self._inside(shard.path).removesuffix(".parquet").replace("/", "-").lstrip(".")
        return f"{stem[-100:]}.{shard.sha256}.parquet"

    def _inside(self, path: str) -> str:
        """The path, unless it leads out of the set: a manifest from elsewhere must not name files of this machine."""
        if {"", ".", ".."} & set(path.split("/")):
            raise ByteproxyError(f"{self._url.shown}: {path!r} is not a path within the set: rebuild the set")
        return path

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Give the store's errors a name and a way out."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = self._url.scrub(str(error).splitlines()[0][:400])
            at = f" at {self._url.endpoint}" if self._url.endpoint else ""
            raise ByteproxyError(
                f"{what}: the store{at} cannot be read ({reason}). Check the URL, the network, the endpoint "
                f"(AWS_ENDPOINT_URL) and the credentials ({_CREDENTIALS})"
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Give the cache folder's errors a name and a way out."""
        try:
            yield
        except OSError as error:
            raise ByteproxyError(
                f"{self._cache}: the cache cannot be written ({error.strerror}): free space on that device, lower "
                "--cache-bytes, or use another cache folder"
            ) from None


class _Url:
    """A store's URL in parts, and what of it may be shown: no credentials, no options."""

    def __init__(self, url: str) -> None:
        self.text, self.parts = url, urlsplit(url)
        self.options = dict(parse_qsl(self.parts.query, keep_blank_values=True))
        self.bucket = self.parts.netloc.rpartition("@")[2]
        self.shown = f"{self.parts.scheme}://{self.bucket}{self.parts.path}".rstrip("/")
        self.endpoint = self.options.get("endpoint_override", "")
        if self.parts.scheme == "s3" and not self.endpoint:
            self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        hidden = [value for key, value in self.options.items() if key not in _S3_OPTIONS]
        hidden += [part for part in (self.parts.username, self.parts.password) if part]
        self._hidden = [self.text, *(text for secret in hidden for text in (secret, unquote(secret)) if len(text) > 3)]
        if not self.bucket:
            raise ByteproxyError(f"{self.shown}: the URL names no bucket, expected {self.parts.scheme}://BUCKET/PREFIX")

    def scrub(self, text: str) -> str:
        """The text without the URL's secrets."""
        for secret in self._hidden:
            text = text.replace(secret, "…")
        return text


def _connect(url: _Url) -> tuple[Any, str]:
    """A store's file system and the path within it. Raises OSError or ArrowInvalid as pyarrow does."""
    if url.parts.scheme != "s3":
        text = url.text
        if url.parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in url.options:
            text += f"{'&' if url.parts.query else '?'}retry_limit_seconds={REQUEST_TIMEOUT:.0f}"  # else 15 minutes
        store, root = fs.FileSystem.from_uri(text)
        return store, root.rstrip("/")
    # As from_uri does, which can set no timeouts and no attempts.
    if unknown := url.options.keys() - _S3_OPTIONS:
        raise ByteproxyError(f"{url.shown}: options {', '.join(unknown)}, expected {', '.join(sorted(_S3_OPTIONS))}")
    scheme, _, host = url.endpoint.rpartition("://")
    store = fs.S3FileSystem(
        access_key=unquote(url.parts.username) if url.parts.username else None,
        secret_key=unquote(url.parts.password) if url.parts.password else None,
        region=url.options.get("region") or (None if host else fs.resolve_s3_region(url.bucket)),
        scheme=url.options.get("scheme") or scheme or "https",
        endpoint_override=host.rstrip("/") or None,
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
    return store, (url.bucket + unquote(url.parts.path)).rstrip("/")


@contextmanager
def _folder_lock(cache: Path) -> Iterator[None]:
    with (cache / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _claim(path: Path) -> Iterator[BinaryIO | None]:
    """A file, opened and locked, or None where another has it. At the end it is deleted, unless it was renamed."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            claimed = _is(path, file)  # its former owner may have renamed or deleted it before the lock was ours
        except BlockingIOError:
            claimed = False
        try:
            yield file if claimed else None
        finally:
            if claimed and _is(path, file):
                path.unlink()


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sweep(cache: Path) -> None:
    """Delete what processes that died left behind; the folder's lock is held."""
    for path in cache.glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with _claim(path):
                pass


def _files(cache: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in cache.rglob("*"):
        with suppress(FileNotFoundError):
            if not path.is_dir():
                yield path, path.stat()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _touch(path: Path, size: int) -> bool:
    """Whether a file is there with this size; if so it becomes the one used last."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
