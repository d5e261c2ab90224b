"""What travels between the steps: batches of records, a record being a document's identity, description and *place*.

Bytes of documents are never shuffled. A batch is one Arrow table, serialised; the runner sees one element a batch, so
its cost a document is a column entry, not a Python object.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.running.storage import Location, writing
from shards.errors import ByteproxyError

WHOLE_FILE, JSON_LINE, SPAN = 0, 1, 2  # forms of a place: see `Place`

COMPRESSED_FROM = 1 << 13  # bytes of a batch

RECORD = pa.schema(
    [
        pa.field("id", pa.binary(16)),  # BLAKE2b-128 of the document's bytes
        pa.field("source", pa.utf8()),  # repository, or the corpus where there is none
        pa.field("path", pa.utf8()),  # within the source, or null
        pa.field("language", pa.utf8()),
        pa.field("licence", pa.utf8()),
        pa.field("grouping", pa.utf8()),  # folders to split by, outermost first, joined by "/"; null: by itself
        pa.field("size", pa.int64()),  # bytes
        pa.field("input", pa.utf8()),  # the input's name
        pa.field("offset", pa.int64()),  # where the document begins in `file`
        pa.field("length", pa.int64()),  # bytes to read there; of a whole file 0
        pa.field("file", pa.binary()),  # what to open: absolute, as the operating system spells it
        pa.field("form", pa.int8()),
        pa.field("number", pa.int64()),  # which of its input's: line's offset, row, member; of a whole file 0
        pa.field("source_id", pa.binary(16)),  # BLAKE2b-128 of the original's bytes, or null: nothing is scrubbed
        pa.field("sketch", pa.binary()),  # MinHash, or where in scratch it lies; null: not asked for, or too short
    ]
)

REJECTED = pa.schema(
    [
        pa.field("source", pa.utf8()),
        pa.field("path", pa.utf8()),  # where it is within the source
        pa.field("id", pa.binary(16)),  # null: not read
        pa.field("size", pa.int64()),  # null: not known
        pa.field("reason", pa.utf8()),
        pa.field("value", pa.utf8()),  # what was found
    ]
)


class Place(NamedTuple):
    """Where a document's bytes are: a whole file, in the JSON of a line, or as they are at a span."""

    file: bytes
    offset: int
    length: int
    form: int  # WHOLE_FILE, JSON_LINE or SPAN


class Rejection(NamedTuple):
    """A document left out, in the order of REJECTED's columns."""

    source: str
    path: str
    id: bytes | None
    size: int | None
    reason: str
    value: str


def table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Rows, each in the order of the schema's fields, as a table."""
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else ([] for _ in schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def pack(batch: pa.Table) -> bytes:
    """A table as one Arrow stream; slices carry only their own rows."""
    sink = pa.BufferOutputStream()
    # The runner holds these: names and places are much alike, and take a sixth of the room.
    options = pa.ipc.IpcWriteOptions(compression="zstd" if batch.nbytes > COMPRESSED_FROM else None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_table(batch)
    return sink.getvalue().to_pybytes()


def unpack(packed: Iterable[bytes]) -> pa.Table:
    """Concatenate packed tables of one schema."""
    tables = [pa.ipc.open_stream(data).read_all() for data in packed]
    return pa.concat_tables(tables).combine_chunks()


def save_table(path: Location, batch: pa.Table) -> None:
    """Write a scratch table so that a memory map can read it: there whole, or not at all."""
    with (
        writing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as out,
    ):
        out.write_table(batch)


def load_table(path: Location) -> pa.Table:
    """Map a scratch table, or read it where it lies in a store."""
    try:
        source = pa.memory_map(str(path)) if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise ByteproxyError(
            f"{path}: damaged scratch file ({error}); remove {path.parent.parent} and build again"
        ) from None


def places(records: pa.Table) -> Iterator[Place]:
    """The place of each record's document."""
    return map(Place, *(records[name].to_pylist() for name in Place._fields))


def rejections(records: pa.Table, reason: str, values: Sequence[str]) -> pa.Table:
    """Records as documents left out for one reason, each with its value."""
    columns = (records[name].to_pylist() for name in ("source", "path", "input", "number"))
    where = [shown_place(*row) for row in zip(*columns, strict=True)]
    sources, sizes = records["source"].to_pylist(), records["size"].to_pylist()
    left = zip(sources, where, records["id"].to_pylist(), sizes, [reason] * len(where), values, strict=True)
    return table(list(left), REJECTED)


def digest_of(identity: bytes, source: str, path: str | None, language: str | None, licence: str | None) -> int:
    """A document's share of the digest of the inputs, which is the sum of them all modulo 2**128."""
    text = "\0".join(part or "" for part in (source, path, language, licence))
    return int.from_bytes(blake2b(identity + text.encode(), digest_size=16).digest(), "little")


def shown_place(source: str, path: str | None, name: str, number: int) -> str:
    """Where a document is, for people and for `rejected/`: its path, or the place in its input."""
    return path if path is not None else f"{name}@{number}"


def sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts by name, added up."""
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
