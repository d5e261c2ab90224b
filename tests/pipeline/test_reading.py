"""Finding and reading documents: folders, ranges of JSONL lines, compressed inputs, languages."""

import gzip
import json
import os
import tempfile
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.filters import Filters
from pipeline.reading.inputs import Files, Lines, Packed, corpora, take_inventory
from pipeline.reading.languages import DEFAULT, language_of, parse_languages
from pipeline.reading.sources import Row, parse_line, read_again, read_files, read_lines
from pipeline.reading.spool import unpack_file
from pipeline.records import RECORD, SPAN, Place, places, table
from shards.errors import ByteproxyError
from shards.hashing import document_id

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 20, False)


def place_of(row: Row) -> Place:
    return next(places(table([row], RECORD)))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.one_of(st.text(max_size=40), st.just("{bad"), st.just("")), max_size=30),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
    newline_at_end=st.booleans(),
)
def test_however_a_file_is_cut_into_ranges_each_line_is_read_once(
    texts: list[str], cuts: list[int], newline_at_end: bool
) -> None:
    lines = [text if text in ("{bad", "") else json.dumps({"text": text}) for text in texts]
    data = "\n".join(lines).encode() + (b"\n" if newline_at_end else b"")
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.jsonl"
        file.write_bytes(data)
        ids, wrong = [], []
        for start, end in pairwise(places):
            rows, rejected = read_lines(Lines("x.jsonl", bytes(file), start, end), FILTERS)
            ids += [row[0] for row in rows]
            wrong += [row.value for row in rejected if row.reason == "bad json"]
            for row in rows:
                assert document_id(read_again(place_of(row), row[0])) == row[0]
    expected = [json.loads(line)["text"] for line in lines if line not in ("{bad", "")]
    nul = [text for text in expected if "\0" in text]
    assert ids == [document_id(text.encode("utf-8", "surrogatepass")) for text in expected if text not in nul]
    assert [int(value.split(":")[0][5:]) for value in wrong] == [n + 1 for n, x in enumerate(lines) if x == "{bad"]


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 100), st.sampled_from([".gz", ".zst"]), st.integers(0, 2))
def test_a_compressed_file_cut_anywhere_gives_a_prefix_of_its_whole_lines(
    data: bytes, percent: int, suffix: str, members: int
) -> None:
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    parts = [data[len(data) * i // (members + 1) : len(data) * (i + 1) // (members + 1)] for i in range(members + 1)]
    packed = b"".join(map(compress, parts))
    with tempfile.TemporaryDirectory() as folder:
        file, target = Path(folder) / f"x{suffix}", Path(folder) / "out"
        file.write_bytes(packed[: len(packed) * percent // 100])
        size, rejection = unpack_file(Packed("x", bytes(file)), target)
        found = target.read_bytes()
    assert size == len(found) and data.startswith(found)
    if percent == 100:
        assert found == data and rejection is None
    elif rejection is not None:
        assert rejection.reason == "truncated" and (not found or found.endswith(b"\n"))


def test_a_damaged_gzip_is_a_rejection_that_names_the_place(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(os.urandom(1000).hex().encode() + b"\n"))
    packed[300] ^= 0xFF
    (tmp_path / "x.gz").write_bytes(packed)
    _, rejection = unpack_file(Packed("x.gz", bytes(tmp_path / "x.gz")), tmp_path / "out")
    assert rejection is not None and "damaged at byte" in rejection.value


def test_padding_after_a_gzip_member_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n") + b"\0" * 100)
    assert unpack_file(Packed("x.gz", bytes(tmp_path / "x.gz")), tmp_path / "out") == (2, None)


def test_a_bomb_is_unpacked_in_small_parts(tmp_path: Path) -> None:
    pack = zlib.compressobj(wbits=31)
    (tmp_path / "x.gz").write_bytes(b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush())
    size, rejection = unpack_file(Packed("x.gz", bytes(tmp_path / "x.gz")), tmp_path / "out", expansion=2000)
    assert (size, rejection) == (64 << 20, None)


def test_a_line_over_the_limit_is_rejected_without_being_parsed(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    long = json.dumps({"text": "x" * 3_000_000})
    file.write_text(f'{{"text": "a"}}\n{long}\n{{"text": "b"}}\n')
    filters = Filters(frozenset(DEFAULT), False, 1000, False)
    rows, rejected = read_lines(Lines("x.jsonl", bytes(file), 0, file.stat().st_size), filters)
    assert len(rows) == 2
    assert [(r.reason, r.path) for r in rejected] == [("too large", "x.jsonl@14")]


def test_a_document_over_the_limit_is_rejected_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(b"#" * 2001)
    rows, (rejection,) = read_files(
        Files("c", bytes(tmp_path), [b"x.py"], 0), Filters(frozenset(DEFAULT), False, 2000, False)
    )
    assert not rows
    assert rejection[1:] == ("x.py", document_id(b"#" * 2001), 2001, "too large", "2001 bytes; the limit is 2000")


def test_a_document_that_changes_between_survey_and_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_bytes(b"a = 1\n")
    (row,), _ = read_files(Files("c", bytes(tmp_path), [b"x.py"], 0), FILTERS)
    file.write_bytes(b"a = 2\n")
    with pytest.raises(ByteproxyError, match=r"x\.py: changed while the build was running"):
        read_again(place_of(row), row[0])
    file.unlink()
    with pytest.raises(ByteproxyError, match="No such file"):
        read_again(place_of(row), row[0])


def test_a_file_that_vanishes_or_becomes_a_link_is_a_rejection(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    rows, rejected = read_files(Files("c", bytes(tmp_path), [b"gone.py", b"link.py"], 0), FILTERS)
    assert not rows
    assert [(r.path, r.reason) for r in rejected] == [("gone.py", "unreadable"), ("link.py", "symlink")]


def test_lone_surrogates_in_json_are_kept_as_bytes() -> None:
    assert parse_line(b'{"text": "a\\ud800b"}')[0] == b"a\xed\xa0\x80b"


def test_corpora_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    for name in ("a/src", "b/src", "other"):
        (tmp_path / name).mkdir(parents=True)
    found = corpora([str(tmp_path / name) for name in ("other", "b/src", "a/src")])
    assert [corpus.name for corpus in found] == ["a/src", "b/src", "other"]


def test_the_fingerprint_sees_sizes_times_and_names(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    corpus.mkdir()
    file = corpus / "x.py"
    file.write_bytes(b"a")
    seen = set()

    def look() -> None:
        seen.add(take_inventory(corpora([str(corpus)]), (), tmp_path / "out").fingerprint)

    look()
    look()
    assert len(seen) == 1
    os.utime(file, ns=(1, 1))
    look()
    file.write_bytes(b"bc")
    os.utime(file, ns=(1, 1))
    look()
    file.rename(corpus / "y.py")
    look()
    assert len(seen) == 4


def test_out_inside_the_corpus_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.py").write_bytes(b"a")
    (tmp_path / "y.py").write_bytes(b"a")
    assert take_inventory(corpora([str(tmp_path)]), (), tmp_path / "out").found == 1


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a/b/x.py", "python"), ("x.pyi", "python"), ("x.h", "c"), ("x.hpp", "c++"), ("x.tsx", "typescript"),
        ("Makefile", "makefile"), ("Dockerfile.slim", "dockerfile"), ("x.RS", "rust"), ("x.json", "json"),
        ("x.png", None), ("noname", None), ("x.unknown", None), ("CMakeLists.txt", "cmake"),
        ("x.tcc", "c++"), ("x.adb", "ada"), (".t", None),
    ],
)  # fmt: skip
def test_a_language_is_told_by_the_name(name: str, language: str | None) -> None:
    assert language_of(name) == language


def test_an_unknown_language_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ByteproxyError, match="'pythn' is no known language; did you mean 'python'"):
        parse_languages(["pythn"])


def test_a_span_of_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "pile"
    file.write_bytes(b"before" + b'{"text": 1}\n\0' + b"behind")
    raw = b'{"text": 1}\n\0'
    assert read_again(Place(bytes(file), 6, len(raw), SPAN), document_id(raw)) == raw
    with pytest.raises(ByteproxyError, match="changed while the build was running"):
        read_again(Place(bytes(file), 7, len(raw), SPAN), document_id(raw))
