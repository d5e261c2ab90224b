"""The columns of a shard, and how each is stored so that a memory map can serve it.

Every column that training reads is *mapped*: required (no nulls), uncompressed, PLAIN, one data page a column chunk.
Such a chunk ends with its values, so a file offset is all that a reader needs. Columns that are only looked at
(`path`, `language`, …) are ordinary compressed Parquet.
"""

import re
from collections.abc import Iterable

import pyarrow as pa

LAYOUT = "byteproxy-shard/1"
LAYOUT_KEY = b"byteproxy.layout"

INFO_COLUMNS = ("source", "path", "language", "licence", "source_id")
SUFFIXES = ("_len", "_start", "_sum", "_anchors")
RESERVED = frozenset({"id", "raw", *INFO_COLUMNS})
SYMBOL_DTYPES = {1: "<u1", 2: "<u2", 4: "<u4"}
ANCHOR_DTYPE = "<u4"
ANCHOR_BYTES = 8  # one anchor: raw offset and symbol offset, uint32 each

_VIEW_NAME = re.compile(r"[a-z][a-z0-9_]*")


def is_view_name(name: str) -> bool:
    """Can a view have this name? Lower-case identifier that is no other column's name."""
    return bool(_VIEW_NAME.fullmatch(name)) and name not in RESERVED and not name.endswith(SUFFIXES)


def value_columns(views: Iterable[str]) -> list[str]:
    """The columns of variable length that are mapped: raw, each view, each view's anchors."""
    return ["raw", *(c for view in views for c in (view, f"{view}_anchors"))]


def mapped_fields(views: Iterable[str]) -> list[pa.Field]:
    """Fields of the mapped columns, in file order."""

    def field(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def value(name: str, with_sum: bool) -> list[pa.Field]:
        fields = [field(name, pa.binary()), field(f"{name}_len", pa.int32()), field(f"{name}_start", pa.int64())]
        return [*fields, field(f"{name}_sum", pa.uint64())] if with_sum else fields

    fields = [field("id", pa.binary(16)), *value("raw", True)]
    for view in views:
        fields += [*value(view, True), *value(f"{view}_anchors", False)]
    return fields


def shard_schema(views: Iterable[str]) -> pa.Schema:
    """The schema of a shard file with these views, with the mark of its layout."""
    info = [pa.field(name, pa.utf8()) for name in INFO_COLUMNS]
    return pa.schema([*mapped_fields(views), *info], metadata={LAYOUT_KEY: LAYOUT.encode()})


def fixed_width(kind: pa.DataType) -> int:
    """Bytes a value of a fixed-width column takes in the file."""
    return kind.byte_width if pa.types.is_fixed_size_binary(kind) else kind.bit_width // 8
