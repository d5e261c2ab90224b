"""Takes in the documents of an input that cannot be sought: archives, tables, repositories.

They are judged as they come, and those that stay are spooled, once, into a *pile*: a scratch file with the raw bytes of
documents one behind another. A document's place is then a span of the pile. What is left out takes no scratch space.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.cleaning.filters import Filters
from pipeline.reading.admit import Known, Row, admit
from pipeline.reading.fields import Described
from pipeline.reading.items import text_of
from pipeline.reading.languages import language_of
from pipeline.reading.streams import Damaged
from pipeline.records import SPAN, Place, Rejection
from shards.errors import ByteproxyError
from shards.hashing import keyed_hash

BATCH = 10_000  # rows that are held before they are handed on

Batch = tuple[list[Row], list[Rejection]]


class PileError(Exception):
    """Scratch cannot be written: no fault of the input. Its argument is the OSError."""


# what is no fault of a format, and must pass by those who catch whatever a library raises of hostile bytes
PASSING = (Damaged, PileError, ByteproxyError, MemoryError)


class Pile:
    """Documents one behind another in a scratch file that is open at `path` and will be found as `file`."""

    def __init__(self, path: Path, file: bytes) -> None:
        self._out: BinaryIO = path.open("wb")
        self._file = file
        self._end = 0

    def next_place(self, size: int) -> Place:
        """Where the next document that is kept will lie."""
        return Place(self._file, self._end, size, SPAN)

    def add(self, raw: bytes) -> None:
        """Keep a document."""
        try:
            self._out.write(raw)
        except OSError as error:
            raise PileError(error) from error
        self._end += len(raw)

    def close(self) -> None:
        """Write out what is buffered."""
        try:
            self._out.close()
        except OSError as error:
            raise PileError(error) from error


def pile_name(name: str, part: int) -> str:
    """The scratch file of a part of an input."""
    return f"{keyed_hash('pile', 0, name.encode()):016x}-{part:06d}"


class Intake:
    """What comes of one input: records of documents that stay, rejections of the others, in batches."""

    def __init__(self, name: str, filters: Filters, pile: Pile) -> None:
        self.input, self._filters, self._pile = name, filters, pile
        self._rows: list[Row] = []
        self._rejected: list[Rejection] = []

    def batches(self, at_end: bool = False) -> Iterator[Batch]:
        """What has come together, if it is enough for a batch, or at the end whatever there is."""
        count = len(self._rows) + len(self._rejected)
        if count >= BATCH or (at_end and count):
            yield self._rows, self._rejected
            self._rows, self._rejected = [], []

    def reject(self, path: str, reason: str, value: str, size: int | None = None) -> None:
        """Leave out something that was not read."""
        self._rejected.append(Rejection(self.input, path, None, size, reason, value))

    def wants_member(self, path: str, size: int) -> bool:
        """May a file of an archive or repository be a document, by its name and size? If not, it is a rejection."""
        verdict = self._filters.by_name(language_of(path), path) or self._filters.by_size(size)
        if verdict is not None:
            self.reject(path, *verdict, size)
        return verdict is None

    def take_member(self, number: int, path: str, raw: bytes, place: Place | None = None) -> None:
        """A file of an archive or repository, the `number`th. Without a place of its own it goes to the pile."""
        folders = path.rpartition("/")[0]
        grouping = f"{self.input}/{folders}" if folders else self.input
        self.take(number, raw, (None, path, language_of(path), None), grouping, place)

    def take(
        self, number: int, raw: bytes, described: Described, grouping: str | None, place: Place | None = None
    ) -> None:
        """The `number`th document of the input."""
        known = Known(self.input, *described, grouping, place or self._pile.next_place(len(raw)), number)
        kept = len(self._rows)
        admit(raw, known, self._filters, self._rows, self._rejected)
        if len(self._rows) > kept and place is None:
            self._pile.add(raw)


def member_name(name: str | bytes) -> str | None:
    """A member's name as a path within the archive, as text; None if it leads out of it.

    A name is only a name: nothing is ever written under it. Leading slashes and `.` parts are dropped, as tar does.
    """
    try:
        plain = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        plain = str(name).encode("utf-8", "backslashreplace")
    parts = [part for part in plain.split(b"/") if part not in (b"", b".")]
    if b".." in plain.replace(b"\\", b"/").split(b"/"):
        return None
    return text_of(b"/".join(parts))
