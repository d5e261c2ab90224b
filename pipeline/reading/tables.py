"""Reads Parquet files of documents, a row each: The Stack, StarCoder data and the like, row group by row group.

The content is a column of text or bytes, under one of the usual names (`fields.TEXT_KEYS`) or the one that is given.
Damage costs the rest of its row group, and one rejection says so.
"""

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipeline.reading.fields import EXTENSION, KEYS, TEXT_KEYS, describe, grouping_of
from pipeline.reading.intake import Batch, Intake
from pipeline.reading.items import Rows, text_of
from pipeline.reading.streams import Budget, Damaged
from shards.errors import ByteproxyError

ITEM_BYTES = 16 << 20  # of values in a work item; a larger row group is an item by itself
BATCH_BYTES = 8 << 20  # of values that are decoded at once, as far as the file says truly how large they are
BATCH_ROWS = 64


def row_items(name: str, file: bytes, source: IO[bytes], size: int, wanted: str | None) -> list[Rows]:
    """The work items of a Parquet file: some row groups each. Raises Damaged where it cannot be read at all.

    Raises ByteproxyError if it has not the content column that was `wanted`.
    """
    parquet = _opened(source)
    facts = parquet.metadata
    content_column(parquet.schema_arrow, wanted, name)
    try:
        groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
        sizes = [max(1, group.total_byte_size) for group in groups]
        rows = [group.num_rows for group in groups]
    except Exception as error:
        raise Damaged("damaged", f"the footer makes no sense ({error})") from None
    if min(rows, default=0) < 0 or sum(rows) != facts.num_rows:
        raise Damaged("damaged", f"the footer has {facts.num_rows} rows, its row groups {sum(rows)}")
    items: list[Rows] = []
    begin = row = used = 0
    for number, group_size in enumerate(sizes):
        used += group_size
        if used >= ITEM_BYTES or number + 1 == len(sizes):
            share = size * (number + 1) // len(sizes) - size * begin // len(sizes)
            items.append(Rows(name, file, begin, number + 1, row, share))
            row += sum(rows[begin : number + 1])
            begin, used = number + 1, 0
    return items


def read_rows(
    item: Rows, file: IO[bytes], size: int, intake: Intake, wanted: str | None, expansion: int
) -> Iterator[Batch]:
    """The documents of some row groups of a Parquet file of `size` bytes."""
    budget = Budget(size, expansion)
    row = item.row
    try:
        parquet = _opened(file)
        content = content_column(parquet.schema_arrow, wanted, item.input)
        for group in range(item.part, item.end):
            yield from _read_group(parquet, group, row, content, intake, budget)
            row += parquet.metadata.row_group(group).num_rows
    except Damaged as damage:
        intake.reject(f"{item.input}@{row}", damage.reason, damage.value)
    yield from intake.batches(at_end=True)


def content_column(schema: pa.Schema, wanted: str | None, name: str) -> str:
    """The column that holds the documents. Raises Damaged if none does, ByteproxyError if it is not as `wanted`."""
    held = [field.name for field in schema if _is_text(field.type)]
    for key in TEXT_KEYS if wanted is None else (wanted,):
        if key in held:
            return key
    columns = ", ".join(f"{field.name} ({field.type})" for field in list(schema)[:20])
    if wanted is not None:
        raise ByteproxyError(f"{name}: no column {wanted!r} of text or bytes (--content-column); columns: {columns}")
    expected = f"a column of text or bytes called {' or '.join(TEXT_KEYS)}"
    raise Damaged("no content", f"{expected} is expected (or --content-column); columns: {columns}")


def _opened(file: IO[bytes]) -> Any:
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise Damaged("damaged", f"no Parquet footer can be read ({_first_line(error)})") from None


def _read_group(parquet: Any, group: int, row: int, content: str, intake: Intake, budget: Budget) -> Iterator[Batch]:
    """Take in the rows of a row group, the first of which is the file's `row`th."""
    described = [f.name for f in parquet.schema_arrow if f.name in _DESCRIBING and f.name != content]
    facts = parquet.metadata.row_group(group)
    mean = max(1, facts.total_byte_size // max(1, facts.num_rows))
    settings = {"batch_size": max(1, min(BATCH_ROWS, BATCH_BYTES // mean)), "row_groups": [group], "use_threads": False}
    end = row + facts.num_rows
    fault: BaseException | str = "they are missing"
    decoded = _decoded(parquet.iter_batches(columns=[content, *described], **settings), content, described)
    while True:
        try:
            batch = next(decoded, None)
        except (pa.ArrowException, *_ODD) as error:  # hostile bytes lead to more than ArrowInvalid
            fault = error
            break
        if batch is None:
            break
        raws, *columns = batch
        budget.spend(sum(map(len, filter(None, raws))))
        for raw, *values in zip(raws, *columns, strict=True):
            if raw is None:
                intake.reject(f"{intake.input}@{row}", "no content", f"null in column {content}")
            else:
                known = describe(dict(zip(described, values, strict=True)))
                intake.take(row, raw, known, grouping_of(known[0], known[1], intake.input))
            row += 1
        yield from intake.batches()
    if row != end:
        value = f"row group {group}: {end - row} rows from {row} on cannot be read ({_first_line(fault)})"
        intake.reject(f"{intake.input}@{row}", "damaged", value)


def _decoded(
    batches: Iterator[pa.RecordBatch], content: str, described: Sequence[str]
) -> Iterator[list[Sequence[Any]]]:
    """Each batch's content as bytes, then its other columns as texts."""
    for batch in batches:
        yield [_bytes_of(batch.column(content)), *(_texts_of(batch.column(name)) for name in described)]


_ODD = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, NotImplementedError)
_DESCRIBING = frozenset({EXTENSION, *(name for names in KEYS.values() for name in names)})


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    known = (pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary, pt.is_string_view, pt.is_binary_view)
    return any(test(kind) for test in known)


def _bytes_of(column: pa.Array) -> list[bytes | None]:
    """The values of a column of text or bytes, as they are in the file."""
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pt.is_binary_view(column.type) or pt.is_binary(column.type) or pt.is_large_binary(column.type):
        found: list[bytes | None] = column.to_pylist()
    else:
        found = column.cast(pa.large_binary()).to_pylist()
    return found


def _texts_of(column: pa.Array) -> Sequence[str | list[str] | None]:
    """A column that describes documents: texts, or lists of them; None for what is neither."""
    if _is_text(column.type):
        return [None if value is None else text_of(value) for value in _bytes_of(column)]
    if pt.is_list(column.type) or pt.is_large_list(column.type):
        inner = column.value_field.type if hasattr(column, "value_field") else column.type.value_type
        if _is_text(inner):
            lists = column.cast(pa.large_list(pa.large_binary())).to_pylist()
            return [None if value is None else [text_of(v) for v in value if v is not None] for value in lists]
    return [None] * len(column)


def _first_line(error: BaseException | str) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:300]
