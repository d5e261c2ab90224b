"""Files of a build, wherever they lie: in a folder, or in an object store (`s3://`, `gs://`).

A `Location` is a `pathlib.Path` or a `RemotePath`, which has the few of its methods that a build needs. What is written
through here is there whole or not at all: in a folder by a rename, in a store because an object appears when its upload
is complete; nothing is ever renamed there.
"""

# ruff: noqa: PTH118 - file names are bytes here, as the operating system spells them

import io
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from pipeline.running.relay import naming_full_disk
from shards.bucket import Bucket, RemoteFile
from shards.errors import ByteproxyError
from shards.store import check_url, is_remote

_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
AHEAD = 16  # requests to a store at once
READ_BYTES = 1 << 20  # of an object, a request at least
_STORES = 32  # that a process is connected to at once


@dataclass(frozen=True)
class RemotePath:
    """An object, or all below a name, in a store: `url` is the root's, its options included; picklable."""

    url: str
    path: str = ""

    @property
    def bucket(self) -> Bucket:
        """The connection, one a process."""
        return _bucket(self.url)

    @property
    def name(self) -> str:
        """The last component."""
        return (self.path or urlsplit(self.url).path.strip("/")).rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url, self.path.rpartition("/")[0])

    def __truediv__(self, other: str) -> "RemotePath":
        return RemotePath(self.url, f"{self.path}/{other}" if self.path else other)

    def __str__(self) -> str:
        """For messages: no options, no credentials."""
        parts = urlsplit(self.url)
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        return f"{root}/{self.path}" if self.path else root

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket, and the components behind it."""
        return tuple(filter(None, str(self).partition("://")[2].split("/")))

    def with_name(self, name: str) -> "RemotePath":
        return self.parent / name

    def exists(self) -> bool:
        """Is there such an object, or any below it?"""
        return self.bucket.exists(self.path)

    def is_file(self) -> bool:
        return self.bucket.entry(self.path) is not None

    def read_bytes(self) -> bytes:
        data = self.bucket.read(self.path)
        if data is None:
            raise FileNotFoundError(2, "No such object", str(self))
        return data

    def iterdir(self) -> Iterator["RemotePath"]:
        """What lies directly below, objects and folders."""
        skip = len(self.path) + 1 if self.path else 0
        for first in sorted({name[skip:].partition("/")[0] for name in self.bucket.names(self.path)}):
            yield self / first

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What lies directly below and matches, in order of its names."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))


Location = Path | RemotePath


def location(text: str) -> Location:
    """A path or a URL, as given by a user. Raises ByteproxyError for a URL with credentials in it."""
    if not is_remote(text):
        return Path(text.removeprefix("file://")).expanduser()
    check_url(text)
    url = urlsplit(text)
    if not url.netloc:
        raise ByteproxyError(f"{text}: the URL names no bucket; expected {url.scheme}://BUCKET/PREFIX")
    return RemotePath(text)


def name_of(place: Location) -> bytes:
    """A file's name as records hold it and `open_file` takes it: as the system spells it, or a URL with its options."""
    if isinstance(place, Path):
        return bytes(place)
    return join(place.url.encode(), os.fsencode(place.path)) if place.path else place.url.encode()


def join(root: bytes, name: bytes) -> bytes:
    """The name of a file below a root: of a URL the options stay behind."""
    if not is_remote(os.fsdecode(root)):
        return os.path.join(root, name)
    url, question, options = root.partition(b"?")
    return url.rstrip(b"/") + b"/" + quote_from_bytes(name).encode() + question + options


def open_file(file: bytes) -> BinaryIO:
    """A file of a corpus or of scratch to read, by its name or its URL. Symlinks are not followed; raises OSError."""
    if not is_remote(os.fsdecode(file)):
        descriptor = os.open(file, _OPEN)
        try:
            return os.fdopen(descriptor, "rb", buffering=0)
        except OSError:  # a folder
            os.close(descriptor)
            raise
    url, question, options = file.partition(b"?")
    scheme, _, rest = url.partition(b"://")
    bucket, _, key = rest.partition(b"/")
    root = scheme + b"://" + bucket + question + options
    return io.BufferedReader(_bucket(root.decode()).open(unquote_to_bytes(key).decode()), READ_BYTES)


def size_of(file: BinaryIO) -> int | None:
    """Bytes of a file that `open_file` opened; None if it is not a regular one."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, RemoteFile):
        return raw.size
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read_at(file: BinaryIO, length: int, offset: int) -> bytes:
    """The bytes at a place of a file, or those that are there."""
    file.seek(offset)
    return file.read(length)


@contextmanager
def writing(target: Location) -> Iterator[Path]:
    """A local name to write a file under; at the end it appears as `target`, whole. Not if the body raises."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".tmp-{target.name}-{uuid.uuid4().hex[:8]}")
        try:
            with naming_full_disk(temporary):
                yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="byteproxy-") as folder:
        temporary = Path(folder) / target.name
        with naming_full_disk(temporary):
            yield temporary
        with temporary.open("rb") as file:
            target.bucket.write(target.path, file)


def write_whole(target: Location, data: bytes) -> None:
    """Write a small file, whole or not at all."""
    if isinstance(target, RemotePath):
        target.bucket.write(target.path, io.BytesIO(data))
        return
    with writing(target) as temporary:
        temporary.write_bytes(data)


@contextmanager
def local_folder(folder: Location) -> Iterator[Path]:
    """A folder's files in a local folder: itself, or a copy for as long as it is needed."""
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="byteproxy-") as copy:
        for name in folder.bucket.names(folder.path):
            target = Path(copy) / name.removeprefix(f"{folder.path}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((RemotePath(folder.url, name)).read_bytes())
        yield Path(copy)


def remove_tree(folder: Location) -> None:
    """Remove a folder and all below it; nothing if it is not there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.bucket.remove(folder.path)


def absolute(place: Location) -> Location:
    """A path from the root on, symlinks followed; a URL as it is."""
    return place.resolve() if isinstance(place, Path) else place


def copy_in(source: Path, folder: Location) -> None:
    """Put a copy of a local folder below a name, as it is; nothing if it is there. Locally whole or not at all."""
    if isinstance(folder, Path):
        if not folder.exists():
            draft = folder.with_name(f".tmp-{folder.name}")
            shutil.copytree(source, draft, dirs_exist_ok=True)
            draft.rename(folder)
        return
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            folder.bucket.write(f"{folder.path}/{path.relative_to(source).as_posix()}", file)


@lru_cache(maxsize=_STORES)
def _bucket(url: str) -> Bucket:
    return Bucket(url)
