"""A folder of files that were fetched, of a bounded size, which several processes may share.

They agree by locks on files, which the kernel lets go of when a process dies: who fetches a file holds it under a
temporary name, and `.lock` is held while room is made. To delete a file that another process has mapped is harmless.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shards.errors import ByteproxyError, CacheFull

STALL = 120.0  # seconds without progress after which another process's download is given up
_DRAFT = ".tmp-"
_MAY_GO = re.compile(r"[^.].*\.[0-9a-f]{64}\.parquet")  # other files are counted, and never evicted


class CacheFolder:
    """A folder (made where there is none) whose files take at most `limit` bytes; 0: any number."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._sweep()

    def has(self, name: str, size: int) -> bool:
        """Whether a file is there, with its size: it was checked before it got its name."""
        try:
            return (self.folder / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def touch(self, name: str, size: int) -> bool:
        """Whether a file is there; if so it becomes the one used last."""
        with suppress(FileNotFoundError):
            if self.has(name, size):
                os.utime(self.folder / name)
                return True
        return False

    @contextmanager
    def draft(self, name: str) -> Iterator[BinaryIO | None]:
        """An open file that becomes `name` by `keep` and else is gone at the end; None where another has it."""
        with _claimed(self._draft(name)) as file:
            yield file

    def keep(self, name: str) -> None:
        """Give a draft its name."""
        with self._locked():  # or who counts the folder meanwhile might miss it
            self._draft(name).replace(self.folder / name)

    def put_folder(self, name: str, contents: Mapping[str, bytes]) -> None:
        """Put a small folder of files (by path within it) in place of one that is there; `take` of `take_room`."""
        final, draft = self.folder / name, self.folder / f"{_DRAFT}folder"
        for path, content in contents.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_bytes(content)
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(final)

    def watch(self, name: str) -> Callable[[], None]:
        """A function to call while another's draft is waited for; it raises when that has stood still too long."""
        draft, last, since = self._draft(name), 0, time.monotonic()

        def look() -> None:
            nonlocal last, since
            with suppress(FileNotFoundError):
                if (now := draft.stat().st_mtime_ns) != last:
                    last, since = now, time.monotonic()
            if time.monotonic() - since > STALL:
                raise ByteproxyError(
                    f"{draft}: another process has been fetching this for {STALL:.0f} s without progress: look whether "
                    "one is stopped, or use another cache folder"
                )

        return look

    def take_room(self, what: str, size: int, take: Callable[[], object], rank: Callable[[str], float | None]) -> None:
        """Evict until `size` bytes fit, then call `take`, which takes them at once. Raises CacheFull.

        Of the files that may go (`rank` is not None) the least rank goes first, then the least recently used; none
        goes where that would not be enough.
        """
        with self._locked():
            self._sweep()
            used, in_flight, evictable = 0, 0, []
            for path, stat in self._files() if self.limit else ():
                used += stat.st_size
                if path.name.startswith(_DRAFT):
                    in_flight += stat.st_size
                elif _MAY_GO.fullmatch(path.name) and (order := rank(path.name)) is not None:
                    evictable.append((order, stat.st_mtime_ns, stat.st_size, path))
            excess = used + size - self.limit if self.limit else 0
            free = sum(entry[2] for entry in evictable)
            if free < excess:
                raise CacheFull(
                    f"{self.folder}: no room for {what}. It takes {size:,} bytes, {used:,} are there, of which "
                    f"{free:,} may go, and the limit is {self.limit:,}: raise it with --cache-bytes (0: no limit), or "
                    "read fewer files at a time with a smaller --shuffle-window",
                    passing=in_flight > 0 and size <= self.limit,
                )
            for _, _, gained, path in sorted(evictable):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= gained
            take()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Give the folder's errors a name and a way out."""
        try:
            yield
        except OSError as error:
            raise ByteproxyError(
                f"{self.folder}: the cache cannot be written ({error.strerror}): free space on that device, lower "
                "--cache-bytes, or use another cache folder"
            ) from None

    def _draft(self, name: str) -> Path:
        return self.folder / f"{_DRAFT}{name}"

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                if not path.is_dir():
                    yield path, path.stat()

    def _sweep(self) -> None:
        """Delete what processes that died left behind."""
        for path in self.folder.glob(f"{_DRAFT}*"):
            if path.is_dir():  # only written under the lock, which is ours
                shutil.rmtree(path)
            else:
                with _claimed(path):
                    pass

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO | None]:
    """A file, opened and locked, or None where another has it. At the end it is deleted, unless it was renamed."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _is(path, file)  # its former owner may have renamed or deleted it before the lock was ours
        except BlockingIOError:
            ours = False
        try:
            yield file if ours else None
        finally:
            if ours and _is(path, file):
                path.unlink()


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
