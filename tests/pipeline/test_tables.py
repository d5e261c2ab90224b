"""Parquet as an input: the usual data sets' columns, row groups dealt to workers, damage."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cleaning.filters import Filters
from pipeline.reading import tables
from pipeline.reading.intake import Intake, Pile
from pipeline.reading.languages import DEFAULT
from pipeline.reading.sources import read_again
from pipeline.reading.streams import Damaged
from pipeline.reading.tables import read_rows, row_items
from pipeline.records import RECORD, Place, Rejection
from shards.errors import ByteproxyError

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 20, False)
TEXTS = [f"x = {i}\n" * (i * 17 % 400 + 1) for i in range(200)]


def read(file: Path, wanted: str | None = None, expansion: int = 200) -> tuple[list[dict[str, Any]], list[Rejection]]:
    """(records, each with its bytes as they are read again under "raw"; rejections) of all work items of a file."""
    records, rejected = [], []
    size = file.stat().st_size
    with file.open("rb") as source:
        items = row_items(file.name, bytes(file), source, size, wanted)
    assert sum(item.size for item in items) == size
    for item in items:
        pile_file = file.with_name(f"pile-{item.part}")
        pile = Pile(pile_file, bytes(pile_file))
        intake = Intake(file.name, FILTERS, pile)
        rows = []
        with file.open("rb") as source:
            for some, others in read_rows(item, source, size, intake, wanted, expansion):
                rows += some
                rejected += others
        pile.close()
        for row in rows:
            record = dict(zip(RECORD.names, row, strict=True))
            place = Place(record["file"], record["offset"], record["length"], record["form"])
            records.append(record | {"raw": read_again(place, record["id"])})
    return records, rejected


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
)
@pytest.mark.parametrize("group", [7, 1000])
def test_every_row_is_a_document_whatever_the_type_of_its_column(
    tmp_path: Path, kind: pa.DataType, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ITEM_BYTES", 20_000)
    pq.write_table(
        pa.table({"other": pa.array(TEXTS)[::-1], "content": pa.array(TEXTS).cast(kind)}),
        tmp_path / "x.parquet",
        row_group_size=group,
    )
    records, rejected = read(tmp_path / "x.parquet")
    assert [record["raw"].decode() for record in records] == TEXTS and not rejected
    assert [record["number"] for record in records] == list(range(200))
    assert all(record["grouping"] is None and record["source"] == "x.parquet" for record in records)


def test_the_stack_is_described_by_its_own_columns(tmp_path: Path) -> None:
    columns = {
        "hexsha": ["0", "1", "2"],
        "size": [4, 4, 4],
        "ext": ["py", "rs", "js"],
        "lang": ["C++", None, ""],
        "max_stars_repo_path": ["a/b.cc", None, None],
        "max_stars_repo_name": ["o/r", "o/s", None],
        "max_stars_repo_licenses": [["MIT", "BSD-2-Clause"], [], None],
        "content": ["int", "let", "var"],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    records, _ = read(tmp_path / "x.parquet")
    names = ("source", "path", "language", "licence", "grouping", "raw")
    assert [[record[name] for name in names] for record in records] == [
        ["o/r", "a/b.cc", "c++", "MIT, BSD-2-Clause", "o/r/a", b"int"],
        ["o/s", None, "rust", None, "o/s", b"let"],
        ["x.parquet", None, "javascript", None, None, b"var"],
    ]


def test_bytes_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    bad = [b"\xff\xfe", b"", b"caf\xe9", b"a\r\nb"]
    texts = pa.StringArray.from_buffers(4, *pa.array(bad, pa.binary()).buffers()[1:])
    pq.write_table(
        pa.table(
            {
                "text": texts,
                "path": pa.StringArray.from_buffers(4, *pa.array([b"\xff.py"] * 4, pa.binary()).buffers()[1:]),
            }
        ),
        tmp_path / "x.parquet",
    )
    records, rejected = read(tmp_path / "x.parquet")
    assert [record["raw"] for record in records] == bad and not rejected
    assert {record["path"] for record in records} == {"\\xff.py"}


def test_the_content_column_is_found_or_named(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"code": ["a"], "mine": ["b"], "text": [1], "path": ["x.py"]}), file)
    assert [record["raw"] for record in read(file)[0]] == [b"a"]
    assert [record["raw"] for record in read(file, "mine")[0]] == [b"b"]
    with pytest.raises(ByteproxyError, match=r"no column 'yours' of text or bytes .*code \(string\), mine"):
        read(file, "yours")
    pq.write_table(pa.table({"mine": ["b"]}), file)
    with pytest.raises(Damaged, match=r"text or content or code .* is expected .*columns: mine \(string\)"):
        read(file)


def test_null_and_unwanted_rows_are_rejected_by_their_numbers(tmp_path: Path) -> None:
    texts = ["a", None, "b\0", "x" * (1 << 20 | 1), "e"]
    pq.write_table(pa.table({"text": texts, "lang": ["python"] * 4 + ["json"]}), tmp_path / "x.parquet")
    records, rejected = read(tmp_path / "x.parquet")
    assert [record["raw"] for record in records] == [b"a"]
    found = [(row.path.rpartition("@")[2], row.reason) for row in rejected]
    assert sorted(found) == [("1", "no content"), ("2", "binary"), ("3", "too large"), ("4", "not code")]


def test_a_damaged_row_group_costs_only_what_follows_in_it(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": TEXTS}), file, row_group_size=50, write_page_checksum=True, use_dictionary=False)
    data = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    file.write_bytes(data)
    records, rejected = read(file)
    assert [record["number"] for record in records] == [*range(50), *range(100, 200)]
    assert [(row.path, row.reason) for row in rejected] == [("x.parquet@50", "damaged")]
    assert "row group 1: 50 rows from 50 on" in rejected[0].value


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_file_without_its_footer_is_damaged(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": TEXTS}), file)
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(Damaged, match="no Parquet footer can be read"):
        read(file)


def test_a_bomb_of_repeated_values_is_left_off_at_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array(["x" * 1_000_000] * 24).dictionary_encode()}), file, compression="zstd")
    assert file.stat().st_size < 10_000
    found = read(file, expansion=2)
    assert [row.reason for row in found[1]] == ["expansion"] and len(found[0]) < 24
    assert len(read(file, expansion=1 << 20)[0]) == 24


def test_a_file_of_no_rows_is_no_work(tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), out)
    (tmp_path / "x.parquet").write_bytes(out.getvalue())
    assert read(tmp_path / "x.parquet") == ([], [])
