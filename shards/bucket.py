"""A folder in an object store (`s3://`, `gs://`, what else pyarrow knows).

Credentials come from where the store's own tools look for them. A store that cannot be reached, or falls silent, is an
error after half a minute. Requests are tried again here and not within pyarrow, so that a program that is interrupted,
or ends, waits for one attempt at most. Errors name the place and the way out, and hold no credentials.
"""

import io
import os
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from shards.errors import ByteproxyError

CONNECT_TIMEOUT = 3.0  # seconds, each attempt
REQUEST_TIMEOUT = 5.0  # seconds without a byte, each attempt (pyarrow's documentation errs: Linux too keeps to it)
ATTEMPTS = 4  # at each request
PAUSE = 0.5  # seconds before the second attempt, then twice as long each time
CHUNK = 8 << 20  # bytes a request
_S3_OPTIONS = {"region", "scheme", "endpoint_override"}
_CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS"


T = TypeVar("T")


class Entry(NamedTuple):
    """An object: its name below the URL, its bytes, and when it was written (nanoseconds; 0: unknown)."""

    name: str
    size: int
    mtime: int


class Bucket:
    """The objects below a URL. Paths are relative to it. Safe to share between threads.

    Raises ByteproxyError where the URL is not understood, and at each use where the store cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = _Url(url)
        self._closed = threading.Event()
        self.shown = self._url.shown  # what to call it in messages
        self._store, self._root = self._ask(self.shown, lambda: _connect(self._url))

    def read(self, name: str) -> bytes | None:
        """The whole of a small object, or None where there is none."""

        def whole() -> bytes:
            with self._store.open_input_file(self._path(name)) as source:
                return source.read()

        try:
            return self._ask(f"{self.shown}/{name}", whole)
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """The objects at any depth below a folder; none where there is no such folder."""
        return [entry.name for entry in self.entries(folder)]

    def entries(self, folder: str) -> list[Entry]:
        """The objects at any depth below a folder ("": below the URL), in order of their names."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        found = self._ask(f"{self.shown}/{folder}", lambda: self._store.get_file_info(selector))
        files = [(info.path.removeprefix(f"{self._root}/"), info) for info in found if info.is_file]
        return sorted(Entry(name, info.size or 0, info.mtime_ns or 0) for name, info in files)

    def entry(self, name: str) -> Entry | None:
        """One object (""; the URL itself), or None where there is none."""
        info = self._ask(f"{self.shown}/{name}", lambda: self._store.get_file_info(self._path(name)))
        return Entry(name, info.size or 0, info.mtime_ns or 0) if info.is_file else None

    def exists(self, name: str) -> bool:
        """Is there such an object, or any below this name?"""
        info = self._ask(f"{self.shown}/{name}", lambda: self._store.get_file_info(self._path(name)))
        return info.type != fs.FileType.NotFound

    def open(self, name: str) -> "RemoteFile":
        """An object to read at any place, each read a request. Raises FileNotFoundError."""
        place = f"{self.shown}/{name}"
        source = self._ask(place, lambda: self._store.open_input_file(self._path(name)))
        size = self._ask(place, source.size)
        return RemoteFile(lambda length, offset: self._ask(place, lambda: source.read_at(length, offset)), size, place)

    def write(self, name: str, source: BinaryIO) -> None:
        """An object from a file, from its start: there whole, or not at all."""

        def put() -> None:
            source.seek(0)
            with self._store.open_output_stream(self._path(name), compression=None) as target:
                try:
                    while block := source.read(CHUNK):
                        target.write(block)
                except BaseException:
                    target.abort()
                    raise

        self._ask(f"{self.shown}/{name}", put, "written")

    def remove(self, folder: str) -> None:
        """Remove all objects below a folder, the folder's own mark included."""
        for name in self.names(folder):
            self._ask(f"{self.shown}/{name}", partial(self._store.delete_file, self._path(name)), "removed")
        if self._store.get_file_info(self._path(folder)).type == fs.FileType.Directory:
            self._ask(f"{self.shown}/{folder}", partial(self._store.delete_dir, self._path(folder)), "removed")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def copy(self, name: str, size: int, digest: str, file: BinaryIO) -> str | None:
        """Copy an object of this size and sha256 (hex) into a file, from its start.

        Returns what is wrong with the object, or None. Raises ByteproxyError also when `close` is called meanwhile.
        """
        place, state = f"{self.shown}/{name}", sha256()
        file.seek(0)
        try:
            source = self._ask(place, lambda: self._store.open_input_file(self._path(name)))
            if (found := source.size()) != size:
                return f"{found} bytes found, {size} expected by the manifest"
            for offset in range(0, size, CHUNK):
                block = self._ask(place, partial(source.read_at, min(CHUNK, size - offset), offset))
                state.update(block)
                file.write(block)
        except FileNotFoundError:
            return f"there is no such object, {size} bytes expected by the manifest"
        file.flush()
        return None if state.hexdigest() == digest else f"sha256 {state.hexdigest()} found, {digest} expected"

    def close(self) -> None:
        """No request is begun any more; each that would be raises ByteproxyError."""
        self._closed.set()

    def _ask(self, place: str, request: Callable[[], T], done: str = "read") -> T:
        """The answer to a request; FileNotFoundError where the store says so, else ByteproxyError."""
        for attempt in range(ATTEMPTS):
            if self._closed.wait(PAUSE * 2 ** (attempt - 1) if attempt else 0):
                raise ByteproxyError(f"{place}: the set was closed while this was fetched")
            try:
                return request()
            except FileNotFoundError:
                raise
            except pa.ArrowException as error:  # the request itself is wrong
                reason = str(error)
                break
            except OSError as error:
                reason = str(error)
        reason = self._url.scrub(reason).partition("\n")[0][:400]
        at = f" at {self._url.endpoint.rpartition('@')[2]}" if self._url.endpoint else ""
        raise ByteproxyError(
            f"{place}: the store{at} cannot be {done} ({reason}). Check the URL, the network, the endpoint "
            f"(AWS_ENDPOINT_URL) and the credentials ({_CREDENTIALS})"
        )


class RemoteFile(io.RawIOBase):
    """An object as a file that is read. `read_at(length, offset)` gives the bytes there."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, name: str) -> None:
        self._read_at, self.size, self.name, self._at = read_at, size, name, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def readall(self) -> bytes:
        blocks = []
        while self._at < self.size:
            blocks.append(self._read_at(min(CHUNK, self.size - self._at), self._at))
            self._at += len(blocks[-1])
        return b"".join(blocks)

    def readinto(self, buffer: Any) -> int:
        block = self._read_at(max(0, min(len(buffer), self.size - self._at)), self._at)
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)


class _Url:
    """A store's URL in parts, and what of it may be shown: no credentials, no options."""

    def __init__(self, url: str) -> None:
        try:
            self.text, self.parts = url, urlsplit(url)
        except ValueError as error:
            raise ByteproxyError(f"a set's URL is not valid ({error}): expected one like s3://BUCKET/PREFIX") from None
        self.options = dict(parse_qsl(self.parts.query, keep_blank_values=True))
        self.bucket = self.parts.netloc.rpartition("@")[2]
        self.shown = f"{self.parts.scheme}://{self.bucket}{self.parts.path}".rstrip("/")
        self.endpoint = self.options.get("endpoint_override", "")
        if self.parts.scheme == "s3" and not self.endpoint:
            self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        if not self.bucket:
            raise ByteproxyError(f"{self.shown}: the URL names no bucket; expected {self.parts.scheme}://BUCKET/PREFIX")
        secrets = [value for key, value in self.options.items() if key not in _S3_OPTIONS]
        secrets += [part for part in (self.parts.username, self.parts.password) if part]
        self._hidden = [url, *(text for secret in secrets for text in (secret, unquote(secret)) if len(text) > 3)]

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
    # As from_uri does, which sets neither timeouts nor attempts.
    if unknown := url.options.keys() - _S3_OPTIONS:
        raise ByteproxyError(
            f"{url.shown}: option {', '.join(sorted(unknown))} in the URL; there are {', '.join(sorted(_S3_OPTIONS))}"
        )
    scheme, _, host = url.endpoint.rpartition("://")
    store = fs.S3FileSystem(
        access_key=unquote(url.parts.username) if url.parts.username else None,
        secret_key=unquote(url.parts.password) if url.parts.password else None,
        region=url.options.get("region") or (None if host else fs.resolve_s3_region(url.bucket)),
        scheme=url.options.get("scheme") or scheme or "https",
        endpoint_override=host.rstrip("/") or None,
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    return store, (url.bucket + unquote(url.parts.path)).rstrip("/")
