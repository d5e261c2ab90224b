"""Writes one shard: an ordinary Parquet file whose mapped columns a reader can serve without decoding.

The layout is asserted, not hoped for: after writing, every mapped chunk's page header is parsed and must be one PLAIN
page that fills its chunk. The file appears under its name only when it is complete, checked and synced.
"""

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from shards.errors import ByteproxyError
from shards.hashing import document_id, value_sum
from shards.manifest import Chunk, RowGroup, ShardFile, View, sync_folder
from shards.page import DATA_PAGE, PLAIN, parse_page_header
from shards.schema import (
    ANCHOR_DTYPE,
    INFO_COLUMNS,
    SYMBOL_DTYPES,
    fixed_width,
    mapped_fields,
    shard_schema,
    value_columns,
)

MAX_ROWS = 1 << 20  # a row group: Parquet writers check a page's limits at least every so many rows
MAX_VALUE_BYTES = 2**31 - 1
_PREFIX = 4  # bytes of length before each value of a BYTE_ARRAY column


@dataclass(frozen=True, slots=True)
class Document:
    """One document with its encoded views; `encoded[view]` has `.symbols` (S,) and `.anchors` (A, 2)."""

    raw: bytes
    source: str | None = None
    path: str | None = None
    language: str | None = None
    licence: str | None = None
    source_id: str | None = None
    encoded: dict[str, Any] = field(default_factory=dict)


def table_of(documents: Sequence[Document], views: Sequence[View]) -> pa.Table:
    """A block of rows: the shard's columns but for the `_start`s, which only the shard's writer can know.

    The caller hands the documents in order of id. Symbols are checked to fit the view's declared width.
    """
    raws = [document.raw for document in documents]
    columns: dict[str, Any] = {
        "id": [document_id(raw) for raw in raws],
        "raw": raws,
        "raw_len": [len(raw) for raw in raws],
        "raw_sum": [value_sum(raw) for raw in raws],
    }
    for view in views:
        values, anchors = [], []
        for document in documents:
            symbols, pairs = document.encoded[view.name]
            if symbols.dtype.itemsize != view.width:
                raise ByteproxyError(f"view {view.name}: symbols are {symbols.dtype}, expected {8 * view.width} bits")
            values.append(np.ascontiguousarray(symbols, SYMBOL_DTYPES[view.width]).tobytes())
            anchors.append(np.ascontiguousarray(pairs, ANCHOR_DTYPE).tobytes())
        columns |= {
            view.name: values,
            f"{view.name}_len": [len(value) // view.width for value in values],
            f"{view.name}_sum": [value_sum(*pair) for pair in zip(values, anchors, strict=True)],
            f"{view.name}_anchors": anchors,
            f"{view.name}_anchors_len": [len(pairs) // 8 for pairs in anchors],
        }
    columns |= {name: [getattr(document, name) for document in documents] for name in INFO_COLUMNS}
    fields = [f for f in shard_schema([v.name for v in views]) if not f.name.endswith("_start")]
    return pa.table([pa.array(columns[f.name], f.type) for f in fields], schema=pa.schema(fields))


def write_shard(
    path: Path, tables: Iterable[pa.Table], views: Sequence[View], name: str, row_group_bytes: int = 128 << 20
) -> ShardFile:
    """Write the blocks, in order of id, as one shard at `path` and describe it; `name` is its path within the set.

    Row groups hold rows until their values reach `row_group_bytes`, wherever blocks end, so the bytes of the file do
    not depend on how the rows were cut into blocks. Raises ByteproxyError if the ids do not increase or if the written
    layout is not the promised one; the file then does not appear.
    """
    names = [view.name for view in views]
    schema = shard_schema(names)
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with pq.ParquetWriter(temporary, schema, **_options(schema)) as writer:
            for group in _row_groups(tables, value_columns(names), row_group_bytes):
                writer.write_table(_with_starts(group, schema), row_group_size=group.num_rows)
        described = describe_shard(temporary, names, name)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
    return described


def describe_shard(path: Path, views: Sequence[str], name: str) -> ShardFile:
    """Read back a shard file: assert its layout and return its entry of the manifest."""
    footer = pq.read_metadata(path)
    groups, order = [], blake2b(digest_size=16)
    sums = {column: blake2b(digest_size=16) for column in ["raw", *views]}
    symbols = dict.fromkeys(sums, 0)
    previous = b""
    with path.open("rb") as file:
        for number in range(footer.num_row_groups):
            meta, chunks = footer.row_group(number), {}
            columns = {meta.column(i).path_in_schema: meta.column(i) for i in range(meta.num_columns)}
            for column in mapped_fields(views):
                chunk, payload = _read_chunk(file, columns[column.name], column, meta.num_rows)
                chunks[column.name] = chunk
                if column.name == "id":
                    previous = _check_ids(payload, previous, f"{name}, row group {number}")
                    order.update(payload)
                elif column.name.endswith("_sum"):
                    sums[column.name.removesuffix("_sum")].update(payload)
                elif column.name.removesuffix("_len") in symbols and column.name.endswith("_len"):
                    symbols[column.name.removesuffix("_len")] += int(np.frombuffer(payload, "<i4").sum(dtype=np.int64))
            groups.append(RowGroup(meta.num_rows, chunks))
        file.seek(0)
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return ShardFile(
        path=name,
        rows=footer.num_rows,
        size=path.stat().st_size,
        sha256=digest.hexdigest(),
        order_digest=order.hexdigest(),
        sums_digests={column: state.hexdigest() for column, state in sums.items()},
        symbols=symbols,
        row_groups=tuple(groups),
    )


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Options that give one PLAIN page a chunk; the defaults split at 20,000 rows and at 1 MiB."""
    info = set(INFO_COLUMNS)
    return {
        "compression": {f.name: "ZSTD" if f.name in info else "NONE" for f in schema},
        "use_dictionary": False,
        "column_encoding": {f.name: "PLAIN" for f in schema},
        "data_page_size": 2**31 - 1,
        "write_batch_size": MAX_ROWS,
        "max_rows_per_page": 2**31 - 1,
        "write_page_checksum": True,
        "write_statistics": ["id", "raw_len", *INFO_COLUMNS],
    }


def _row_groups(tables: Iterable[pa.Table], values: Sequence[str], limit: int) -> Iterator[pa.Table]:
    """Cut the stream of blocks into tables that end with the row at which their values reach `limit` bytes."""
    waiting: list[pa.Table] = []
    used = rows = 0
    for table in tables:
        sizes = np.zeros(table.num_rows, np.int64)
        for column in values:
            sizes += pc.binary_length(table[column]).to_numpy()
        begin = 0
        while begin < table.num_rows:
            ends = used + np.cumsum(sizes[begin:])
            count = min(int(np.searchsorted(ends, limit)) + 1, table.num_rows - begin, MAX_ROWS - rows)
            waiting.append(table.slice(begin, count))
            used, rows, begin = int(ends[count - 1]), rows + count, begin + count
            if used >= limit or rows == MAX_ROWS:
                yield pa.concat_tables(waiting)
                waiting, used, rows = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def _with_starts(group: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the `_start` columns: where each value begins in its chunk's payload, behind its 4 bytes of length."""
    columns = []
    for f in schema:
        if not f.name.endswith("_start"):
            columns.append(group[f.name])
            continue
        ends = np.cumsum(pc.binary_length(group[f.name.removesuffix("_start")]).to_numpy().astype(np.int64) + _PREFIX)
        if len(ends) and ends[-1] > MAX_VALUE_BYTES:
            raise ByteproxyError(f"column {f.name}: {ends[-1]} bytes in one row group; the limit is {MAX_VALUE_BYTES}")
        columns.append(pa.array(np.concatenate([[0], ends[:-1]]) + _PREFIX, pa.int64()))
    return pa.table(columns, schema=schema)


def _read_chunk(file: Any, column: Any, declared: pa.Field, rows: int) -> tuple[Chunk, bytes]:
    """Assert that a chunk is one PLAIN page of `rows` values that fills it; return it with its payload."""
    if column.dictionary_page_offset is not None or column.compression != "UNCOMPRESSED":
        raise ByteproxyError(f"column {declared.name}: written with a dictionary or compressed; cannot be mapped")
    file.seek(column.data_page_offset)
    data = file.read(column.total_compressed_size)
    header = parse_page_header(data[:4096])
    payload = data[header.length :]
    expected = None if pa.types.is_binary(declared.type) else rows * fixed_width(declared.type)
    found = (header.kind, header.encoding, header.values, header.size, header.uncompressed_size)
    if found != (DATA_PAGE, PLAIN, rows, len(payload), len(payload)) or expected not in (None, len(payload)):
        raise ByteproxyError(
            f"column {declared.name}: (page type, encoding, values, sizes) {found} found in a chunk of {rows} rows and "
            f"{len(payload)} bytes: not one PLAIN page. pyarrow {pa.__version__} cannot write the layout"
        )
    return Chunk(column.data_page_offset + header.length, len(payload), xxhash.xxh3_64_hexdigest(payload)), payload


def _check_ids(payload: bytes, previous: bytes, place: str) -> bytes:
    """Ids must increase strictly (big-endian byte order) within and across row groups; return the last."""
    words = np.frombuffer(payload, ">u8").reshape(-1, 2)
    high, low = words[:, 0], words[:, 1]
    increasing = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    if not increasing.all() or (previous and payload[:16] <= previous):
        raise ByteproxyError(f"{place}: rows are not sorted by id, or a document is there twice")
    return payload[-16:]
