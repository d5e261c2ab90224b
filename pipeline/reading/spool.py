"""Unpacks a compressed JSONL file into scratch, once, so that its lines can be sought like those of a plain one.

A file cut short or damaged gives what could be read, up to the last whole line, and one rejection that says where it
ended; memory stays at a few megabytes whatever the file holds.
"""

from collections.abc import Iterator
from typing import IO, cast

from pipeline.reading.formats import compression_of, last_name
from pipeline.reading.inputs import Packed
from pipeline.reading.streams import EXPANSION, Budget, Damaged, unpacked
from pipeline.records import Rejection
from pipeline.running.progress import Counter, Portion, WatchedFile
from pipeline.running.storage import Location, open_file, size_of, writing
from shards.hashing import keyed_hash


def unpack_file(
    item: Packed, target: Location, expansion: int = EXPANSION, counter: Counter | None = None
) -> tuple[int, Rejection | None]:
    """Write a compressed file's whole lines to `target`; return their bytes, and what was wrong if anything."""
    written, whole = 0, 0  # bytes, and those of them up to the last newline
    problem: Damaged | None = None
    with writing(target) as temporary, temporary.open("wb") as out:
        try:
            for part in _parts(item.file, expansion, counter):
                out.write(part)
                if (newline := part.rfind(b"\n")) >= 0:
                    whole = written + newline + 1
                written += len(part)
        except Damaged as damage:
            problem = damage
            out.truncate(whole)
    if problem is None:
        return written, None
    value = f"{problem.value}; {written} bytes unpacked, of which the last {written - whole} are an incomplete line"
    return whole, Rejection(item.input, f"{item.input}@{whole}", None, None, problem.reason, value)


def _parts(name: bytes, expansion: int, counter: Counter | None) -> Iterator[bytes]:
    try:
        file = open_file(name)
    except OSError as error:
        raise Damaged("unreadable", error.strerror or str(error)) from None
    with file:
        size = size_of(file) or 0
        stream = cast(IO[bytes], WatchedFile(file, Portion(counter, size))) if counter else file
        yield from unpacked(stream, compression_of(last_name(name)), Budget(size, expansion))


def spool_name(item: Packed) -> str:
    """The scratch file's name for an input."""
    return f"{keyed_hash('spool', 0, item.input.encode()):016x}.jsonl"
