"""Reads work items: each document once, to learn its identity and to judge it. The bytes are not kept.

`read_again` fetches a document's original bytes by its place, `read_stored` those that the set holds.
"""

import errno
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Any, BinaryIO

from pipeline.cleaning.filters import Filters
from pipeline.cleaning.scrub import Stored, scrub
from pipeline.reading.admit import Known, Row, admit
from pipeline.reading.fields import TEXT_KEYS, describe, grouping_of
from pipeline.reading.inputs import Files, Lines, text_of
from pipeline.reading.languages import language_of
from pipeline.records import JSON_LINE, WHOLE_FILE, Place, Rejection, shown_place
from pipeline.running.storage import AHEAD, join, open_file, read_at, size_of
from shards.errors import ByteproxyError
from shards.hashing import ID_BYTES, document_id
from shards.store import is_remote

LINE_OVERHEAD = 1 << 20  # bytes that a JSON line may take beyond its text, and six times the text for its escapes


def read_files(item: Files, filters: Filters) -> tuple[list[Row], list[Rejection]]:
    """Read and judge the files of a work item; many at once where they lie in a store, for each is a request."""
    rows: list[Row] = []
    rejected: list[Rejection] = []
    judge = partial(_read_file, item, filters)
    with ThreadPoolExecutor(AHEAD) as pool:  # which starts no thread before it is used
        for found in (pool.map if is_remote(os.fsdecode(item.root)) else map)(judge, item.names):
            if isinstance(found, Rejection):
                rejected.append(found)
            else:
                admit(*found, filters, rows, rejected)
    return rows, rejected


def _read_file(item: Files, filters: Filters, name: bytes) -> tuple[bytes, Known] | Rejection:
    """A file's bytes and what is known of it; or why it is not read, or cannot be."""
    path = text_of(name)
    language = language_of(path)
    identity: bytes | None = None
    size: int | None = None
    verdict = filters.by_name(language, path)
    if verdict is None:
        file = join(item.root, name)
        try:
            with open_file(file) as handle:
                size = size_of(handle)
                if size is None:
                    verdict = "not a regular file", "changed while it was read"
                elif verdict := filters.by_size(size):
                    identity = _hash_stream(handle)
                else:
                    folders = path.rpartition("/")[0]
                    grouping = f"{item.input}/{folders}" if folders else item.input
                    place = Place(file, 0, 0, WHOLE_FILE)
                    return handle.read(), Known(item.input, None, path, language, None, grouping, place)
        except OSError as error:
            problem = "symlink" if error.errno == errno.ELOOP else "unreadable"
            verdict = problem, error.strerror or str(error)
    return Rejection(item.input, path, identity, size, *verdict)


def read_lines(item: Lines, filters: Filters) -> tuple[list[Row], list[Rejection]]:
    """Read and judge the documents of a range of JSONL lines. Every line that is not blank is a document found."""
    rows: list[Row] = []
    rejected: list[Rejection] = []
    offset = item.start
    try:
        for offset, length, line in _lines_of(item, filters, rejected):
            where = shown_place("", None, item.input, offset)
            if line is None:
                detail = f"a line of {length} bytes at a limit of {filters.max_bytes} bytes a document"
                rejected.append(Rejection(item.input, where, None, None, "too large", detail))
                continue
            try:
                fields = parse_line(line)
            except ValueError as error:
                number = _line_number(item.file, offset)
                rejected.append(Rejection(item.input, where, None, length, "bad json", f"line {number}: {error}"))
                continue
            raw, source, path, language, licence = fields
            place = Place(item.file, offset, length, JSON_LINE)
            known = Known(
                item.input, source, path, language, licence, grouping_of(source, path, item.input), place, offset
            )
            admit(raw, known, filters, rows, rejected)
    except OSError as error:
        where = shown_place("", None, item.input, offset)
        rejected.append(Rejection(item.input, where, None, None, "unreadable", error.strerror or str(error)))
    return rows, rejected


def _lines_of(item: Lines, filters: Filters, rejected: list[Rejection]) -> Iterator[tuple[int, int, bytes | None]]:
    """The lines that begin in the range; a file that has become too short for it is a rejection."""
    with open_file(item.file) as file:
        size = size_of(file)
        if size is None or size < item.end:
            where = shown_place("", None, item.input, item.start)
            value = f"{size} bytes, of {item.end} or more that were listed"
            rejected.append(Rejection(item.input, where, None, None, "changed", value))
        if size is not None:
            yield from _lines(file, item._replace(end=min(size, item.end)), 6 * filters.max_bytes + LINE_OVERHEAD)


class _Object(dict[str, Any]):
    """An object of JSON, that knows whether it had a key twice: what it means is then anybody's guess."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs] if len(self) < len(pairs) else []
        self.doubled = next((name for name in names if names.count(name) > 1), None)


def parse_line(line: bytes) -> tuple[bytes, str | None, str | None, str | None, str | None]:
    """A JSONL line as (bytes of the text, source, path, language, licence). ValueError says what is wrong with it."""
    try:
        body = json.loads(line, object_pairs_hook=_Object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(body, _Object) and body.doubled is not None:
        raise ValueError(f"the key {body.doubled[:80]!r} is there twice")
    if not isinstance(body, dict):
        raise ValueError(f"an object is expected, {type(body).__name__} found")
    text = next((body[key] for key in TEXT_KEYS if isinstance(body.get(key), str)), None)
    if text is None:
        raise ValueError(f"no text: a string under {' or '.join(TEXT_KEYS)} is expected, keys found: {list(body)[:8]}")
    return text.encode("utf-8", "surrogatepass"), *describe(body)


class Changed(ByteproxyError):
    """A document that is not any more what was surveyed. `value` says in few words what was found."""

    def __init__(self, message: str, value: str) -> None:
        super().__init__(message)
        self.value = value


def read_again(place: Place, identity: bytes) -> bytes:
    """The bytes of a document at its place. Raises Changed if they are no longer those that were surveyed."""
    name = text_of(place.file)
    try:
        with open_file(place.file) as file:
            if place.form == WHOLE_FILE:
                raw = file.read()
            else:
                raw = read_at(file, place.length, place.offset)
                raw = parse_line(raw)[0] if place.form == JSON_LINE else raw
    except OSError as error:
        reason = error.strerror or str(error)
        raise Changed(f"{name}: {reason}; it was there when the build began. Build again", reason) from None
    except ValueError:
        raw = None
    if raw is None or document_id(raw) != identity:
        found = "no document" if raw is None else f"{len(raw)} bytes with the hash {document_id(raw).hex()}"
        text = f"{name}: changed while the build was running. Leave the corpus alone and build again"
        raise Changed(text, f"when it was to be encoded it was {found}")
    return raw


def read_stored(place: Place, identity: bytes, source_id: bytes | None) -> Stored:
    """A document's bytes as the set holds them. `source_id` is the original's, None where nothing is scrubbed.

    Raises Changed if the original is no longer what was surveyed.
    """
    if source_id is None:
        return Stored(read_again(place, identity), {})
    stored = scrub(read_again(place, source_id), source_id)
    if document_id(stored.raw) != identity:
        raise ByteproxyError("a worker scrubs otherwise than the survey did; install the same version everywhere")
    return stored


def read_many(documents: Iterable[tuple[Place, bytes, bytes | None]]) -> Iterator[Stored | Changed]:
    """`read_stored` of one after another, or its Changed; from a store some ahead of need, for each is a request."""
    waiting: deque[Future[Stored | Changed]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for document in documents:
            if is_remote(os.fsdecode(document[0].file)):
                waiting.append(pool.submit(_stored, *document))
                if len(waiting) < AHEAD:
                    continue
                yield waiting.popleft().result()
            else:
                yield from _drained(waiting)
                yield _stored(*document)
        yield from _drained(waiting)


def _stored(place: Place, identity: bytes, source_id: bytes | None) -> Stored | Changed:
    try:
        return read_stored(place, identity, source_id)
    except Changed as changed:
        return changed


def _drained(waiting: "deque[Future[Stored | Changed]]") -> Iterator[Stored | Changed]:
    while waiting:
        yield waiting.popleft().result()


def _hash_stream(file: BinaryIO) -> bytes:
    """The id of a document too large to be held."""
    state = blake2b(digest_size=ID_BYTES)
    while part := file.read(1 << 20):
        state.update(part)
    return state.digest()


def _lines(file: BinaryIO, item: Lines, limit: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(offset, length, line) of the lines that begin in the range, but for blank ones; None for a line over `limit`."""
    offset = item.start
    if offset:  # a line that begins before the range belongs to the range before; it may end with our first byte
        offset = _line_end(file, item.start - 1, item.end)
    data, base = read_at(file, max(0, item.end - offset), offset), offset
    while offset < item.end:
        end = data.find(b"\n", offset - base) + 1
        if end:
            line: bytes | None = data[offset - base : end - 1]
            following = base + end
        else:  # the last line goes on beyond the range
            following = _line_end(file, item.end, None)
            length = following - offset
            line = read_at(file, length, offset).rstrip(b"\n") if length <= limit else None
        if line is None or line.strip():
            yield offset, len(line) if line is not None else following - offset, line
        offset = following


def _line_end(file: BinaryIO, position: int, stop: int | None) -> int:
    """Where the line with the byte at `position` ends: behind its newline, or at the end of the file or `stop`."""
    while stop is None or position < stop:
        part = read_at(file, 1 << 20, position)
        if not part:
            return position
        if (found := part.find(b"\n")) >= 0:
            return position + found + 1
        position += len(part)
    return position


_counted: dict[
    bytes, tuple[int, int]
] = {}  # file -> (offset, newlines before it): ranges come in order, so go on there


def _line_number(file: bytes, offset: int) -> int:
    """The number, from 1, of the line that begins at `offset`."""
    position, count = _counted.get(file, (0, 0))
    if position > offset:
        position, count = 0, 0
    with open_file(file) as handle:
        handle.seek(position)
        while position < offset:
            part = handle.read(min(1 << 20, offset - position))
            if not part:
                break
            count += part.count(b"\n")
            position += len(part)
    _counted[file] = position, count
    return count + 1
