"""The layout: an ordinary Parquet file whose values a map serves without a copy."""

from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from shards.hashing import document_id, value_sum
from shards.manifest import View
from shards.page import parse_page_header
from shards.reader import ShardSet
from shards.schema import shard_schema
from shards.writer import Document, describe_shard, table_of, write_shard
from tests.sets import build_set, standard_library
from tests.shards.conftest import ODD


def test_every_document_of_every_view_is_read_back(small_set: ShardSet) -> None:
    texts = standard_library(20_000, 40)
    for name, expected in (("train", {*texts[4:], *ODD}), ("val", set(texts[:4]))):
        split = small_set.split(name)
        found = {split.raw(i).tobytes() for i in range(len(split))}
        assert found == expected
        for i in range(len(split)):
            raw = split.raw(i).tobytes()
            assert split.id(i) == document_id(raw)
            assert split.length("raw", i) == len(raw)
            for view in small_set.views:
                symbols, anchors = split.symbols(i, view), split.anchors(i, view)
                assert small_set.codec(view).decode(symbols) == raw
                assert tuple(anchors[-1]) == (len(raw), len(symbols)) and tuple(anchors[0]) == (0, 0)


def test_a_document_is_found_by_its_id_and_only_then(small_set: ShardSet) -> None:
    split = small_set.split("train")
    assert [split.find(split.id(i)) for i in range(len(split))] == list(range(len(split)))
    assert split.find(bytes(16)) is None and split.find(b"\xff" * 16) is None
    assert split.find(document_id(b"not there")) is None


def test_a_value_is_a_view_onto_the_map_not_a_copy(small_set: ShardSet) -> None:
    split = small_set.split("train")
    longest = max(range(len(split)), key=lambda i: split.length("raw", i))
    first, second = split.raw(longest), split.raw(longest)
    assert not first.flags.owndata and not first.flags.writeable
    assert first.__array_interface__["data"][0] == second.__array_interface__["data"][0]


def test_the_set_has_several_shards_and_row_groups(small_set: ShardSet) -> None:
    files = small_set.manifest.splits["train"]
    assert len(files) == 2 and min(len(f.row_groups) for f in files) > 1
    assert sum(f.rows for f in files) == len(small_set.split("train"))


def test_other_readers_open_the_file_and_see_the_same(small_set: ShardSet) -> None:
    split, files = small_set.split("train"), [small_set.folder / f.path for f in small_set.manifest.splits["train"]]
    expected = [split.raw(i).tobytes() for i in range(len(split))]
    sums = [value_sum(raw) for raw in expected]
    arrow = pa.concat_tables(pq.read_table(f, page_checksum_verification=True) for f in files)
    assert arrow["raw"].to_pylist() == expected and arrow["raw_sum"].to_pylist() == sums
    frame = polars.concat([polars.read_parquet(f) for f in files])
    assert frame["raw"].to_list() == expected and frame["language"].to_list() == ["python"] * len(expected)
    rows = duckdb.sql(f"select raw, raw_len, raw_sum from read_parquet({[str(f) for f in files]})").fetchall()
    assert rows == [(raw, len(raw), s) for raw, s in zip(expected, sums, strict=True)]


def test_columns_are_the_contracts(small_set: ShardSet) -> None:
    path = small_set.folder / small_set.manifest.splits["train"][0].path
    names = pq.read_schema(path).names
    view = ["{0}", "{0}_len", "{0}_start", "{0}_sum", "{0}_anchors", "{0}_anchors_len", "{0}_anchors_start"]
    views = [column.format(name) for name in ("sentencepiece", "gzip") for column in view]
    info = ["source", "path", "language", "licence", "source_id"]
    assert names == ["id", "raw", "raw_len", "raw_start", "raw_sum", *views, *info]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=400), min_size=1, max_size=30, unique=True), st.integers(1, 2000), st.data())
def test_the_bytes_of_a_shard_do_not_depend_on_how_rows_come_in_blocks(
    tmp_path_factory: pytest.TempPathFactory, raws: list[bytes], limit: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    table = table_of([Document(raw) for raw in sorted(raws, key=document_id)], [])
    cuts = sorted({0, len(raws), *data.draw(st.lists(st.integers(0, len(raws)), max_size=4))})
    blocks = [table.slice(a, b - a) for a, b in pairwise(cuts)]
    whole = write_shard(folder / "a.parquet", [table], [], "x", limit)
    cut = write_shard(folder / "b.parquet", blocks, [], "x", limit)
    assert whole == cut and (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_the_writer_refuses_a_file_that_is_not_one_page_a_chunk(tmp_path: Path) -> None:
    """What pyarrow's defaults write; the map's arithmetic on such a file would be silently wrong."""
    documents = sorted((Document(i.to_bytes(2, "big") * 1000) for i in range(3000)), key=lambda d: document_id(d.raw))
    table = table_of(documents, [])
    starts = pa.array(np.arange(3000, dtype=np.int64))
    table = table.append_column("raw_start", starts).select(shard_schema([]).names)
    table = pa.table(table.columns, schema=shard_schema([]))
    pq.write_table(table, tmp_path / "paged.parquet", compression="NONE", use_dictionary=False)
    with pytest.raises(ByteproxyError, match=r"column raw: .*not one PLAIN page"):
        describe_shard(tmp_path / "paged.parquet", [], "x")
    pq.write_table(table, tmp_path / "coded.parquet", compression="NONE")
    with pytest.raises(ByteproxyError, match="dictionary"):
        describe_shard(tmp_path / "coded.parquet", [], "x")


def test_rows_out_of_order_or_twice_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    documents = sorted((Document(bytes([i])) for i in range(3)), key=lambda d: document_id(d.raw))
    for wrong in (documents[::-1], [documents[0], *documents]):
        with pytest.raises(ByteproxyError, match="not sorted by id, or a document is there twice"):
            write_shard(tmp_path / "x.parquet", [table_of(wrong, [])], [], "x")
    assert list(tmp_path.iterdir()) == []


def test_symbols_of_another_width_than_declared_are_refused() -> None:
    view = View("v", "v", 2, 300, True, None, "codecs/v", "")
    encoded = {"v": (np.zeros(3, np.uint8), np.array([[0, 0], [1, 3]], np.uint32))}
    with pytest.raises(ByteproxyError, match="view v: symbols are uint8, expected 16 bits"):
        table_of([Document(b"a", encoded=encoded)], [view])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_symbols_of_every_width_survive(tmp_path: Path, width: int) -> None:
    view = View("v", "v", width, 2 ** (8 * width), True, None, "codecs/v", "")
    dtype = np.dtype(f"<u{width}")
    documents = []
    for n in range(1, 20):
        symbols = (np.arange(n, dtype=np.uint64) * 2654435761 % 2 ** (8 * width)).astype(dtype)
        documents.append(Document(bytes([n]) * n, encoded={"v": (symbols, np.array([[0, 0], [n, n]], np.uint32))}))
    documents.sort(key=lambda d: document_id(d.raw))
    from shards.manifest import Manifest

    shard = write_shard(tmp_path / "x.parquet", [table_of(documents, [view])], [view], "x.parquet", 64)
    Manifest((view,), {"train": (shard,)}).save(tmp_path)
    split = ShardSet.open(tmp_path).split("train")
    for i, document in enumerate(documents):
        assert np.array_equal(split.symbols(i, "v"), document.encoded["v"][0])


def test_a_page_header_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="cut short"):
        parse_page_header(b"\x15")


def test_more_files_than_are_kept_open_can_be_read_and_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.reader.OPEN_FILES", 2)
    folder = build_set(tmp_path / "set", [bytes([i]) * 50 for i in range(24)], [b"v"], shards=8)
    split = ShardSet.open(folder).split("train")
    held = [split.raw(i) for i in range(24)]
    assert sorted(value.tobytes() for value in held) == [bytes([i]) * 50 for i in range(24)]
