"""How far a build is, while it runs: counters in workers, and their sum in the parent.

Beam's local runner reports its counters (`counters.py`) only at the end, so workers write how far they are into small
files of their own, which the parent adds up.
"""

import contextlib
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

WRITE_SECONDS = 0.2
_RECORD = 64  # bytes of a counter's file, always: it is written over, never cut, so that a reader sees a whole one


class Counts(NamedTuple):
    """What has been done in a stage."""

    documents: int = 0
    bytes: int = 0
    rejected: int = 0  # documents left out

    def __add__(self, other: "Counts") -> "Counts":  # type: ignore[override]
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Counter:
    """A worker's counts of one stage. Made where it is used; never shipped."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._counts = Counts()
        self._written = 0.0
        self._file = None
        with contextlib.suppress(OSError):  # progress never stops a build: a full disk is somebody else's error
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{stage}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self._file = (folder / name).open("wb", buffering=0)

    def add(self, documents: int, size: int, rejected: int = 0) -> None:
        """Count; it is written down a few times a second."""
        self._counts += Counts(documents, size, rejected)
        now = time.monotonic()
        if now - self._written >= WRITE_SECONDS:
            self._written = now
            self.flush()

    def flush(self) -> None:
        """Write the counts down."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file.fileno(), b"%d %d %d".ljust(_RECORD) % self._counts, 0)

    def close(self) -> None:
        """Write the counts for the last time."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


class Portion:
    """The bytes of a work item, counted while they are read: all of them when it ends, and never more."""

    def __init__(self, counter: Counter, size: int) -> None:
        self._counter, self._left = counter, size

    def take(self, size: int) -> None:
        """So many were read."""
        size = min(size, self._left)
        if size:
            self._left -= size
            self._counter.add(0, size)

    def end(self) -> None:
        """All that was not read needed no reading."""
        self.take(self._left)


class WatchedFile:
    """A file whose reads are counted; else it is the file."""

    def __init__(self, file: IO[bytes], portion: Portion) -> None:
        self._file, self._portion = file, portion

    def read(self, size: int = -1) -> bytes:
        """What the file gives."""
        data = self._file.read(size)
        self._portion.take(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def counted(tables: Iterable[pa.Table], counter: Counter) -> Iterator[pa.Table]:
    """Blocks of a shard, each counted once it has been used."""
    for table in tables:
        yield table
        counter.add(table.num_rows, pc.sum(table["raw_len"]).as_py() or 0)


class Tally:
    """The sums over all counters of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, Counts] = {}  # by file: what cannot be read just now counts as before

    def read(self) -> dict[str, Counts]:
        """Counts by stage; stages that have not begun are not in it, or zero."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError, ValueError):
                    documents, size, rejected = map(int, Path(entry.path).read_bytes().split())
                    self._last[entry.name] = Counts(documents, size, rejected)
        sums: dict[str, Counts] = defaultdict(Counts)
        for name, counts in self._last.items():
            sums[name.partition("-")[0]] += counts
        return sums
