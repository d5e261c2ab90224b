"""Faults of the input: each is found, counted and named, and the build goes on; with --strict it stops at the first."""

import gzip
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import build as build_module
from pipeline.cleaning.filters import Filters
from pipeline.reading import spool
from pipeline.reading.faults import FAULTS
from pipeline.reading.items import Lines, Packed
from pipeline.reading.languages import DEFAULT
from pipeline.reading.sources import parse_line, read_lines
from pipeline.reading.spool import unpack_file
from shards.manifest import Manifest
from tests.pipeline.conftest import digests, run_build
from tests.pipeline.test_inputs import assert_whole, reasons_of, rows_of

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 20, False)


@pytest.fixture
def faulty(code: Path, tmp_path: Path) -> dict[str, Path]:
    """Inputs by the reason of the fault that each has; `code` itself has none."""
    inputs: dict[str, Path] = {
        name: tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.tar", "d.zip", "e.parquet")
    }
    inputs["a.jsonl"].write_bytes(b'{"text": "a = 1"}\n{"text": "b", "text": "c"}\n{"text": "x\xff"}\n[]\n')
    lines = b"".join(json.dumps({"text": f"x = {i}"}).encode() + b"\n" for i in range(1000))
    inputs["b.jsonl.gz"].write_bytes(gzip.compress(lines)[:-200])
    with tarfile.open(inputs["c.tar"], "w") as archive:
        archive.add(code / "json", arcname="json")
        archive.addfile(tarfile.TarInfo("../up.py"))
    inputs["d.zip"].write_bytes(b"PK no zip")
    pq.write_table(pa.table({"text": ["t = 1", None]}), inputs["e.parquet"])
    return inputs


def test_every_fault_is_named_and_the_rest_is_built(code: Path, faulty: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    run_build(",".join(map(str, [code, *faulty.values()])), out)
    assert_whole(out)
    found = pq.read_table(out / "rejected", columns=["source", "reason"]).to_pylist()
    faults = sorted((row["source"], row["reason"]) for row in found if row["reason"] in FAULTS)
    assert faults == [
        ("a.jsonl", "bad json"), ("a.jsonl", "bad json"), ("a.jsonl", "bad json"), ("b.jsonl.gz", "truncated"),
        ("c.tar", "unsafe name"), ("d.zip", "damaged"), ("e.parquet", "no content"),
    ]  # fmt: skip
    assert len(rows_of(out)) > 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "a.jsonl@18: bad json: line 2: the key 'text' is there twice"),
        ("b.jsonl.gz", "truncated: cut short"), ("c.tar", "c.tar/../up.py: unsafe name"),
        ("d.zip", "d.zip: damaged"), ("e.parquet", "e.parquet@1: no content"),
    ],
)  # fmt: skip
def test_strict_stops_at_a_fault_and_names_it(
    name: str, text: str, faulty: dict[str, Path], code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    corpus = f"{code / 'json'},{faulty[name]}"
    message = fails(corpus, "--out", str(tmp_path / "o"), "--views", "zstd", "--workers", "1", "--strict")
    assert "--strict: " in message and text in message
    assert not (tmp_path / "o").exists()


def test_where_nothing_is_left_the_error_says_why_or_how_to_read_it(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "x.zip").write_bytes(b"no zip")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "y.parquet").write_bytes(b"")
    flags = ("--out", str(tmp_path / "o"), "--views", "zstd", "--workers", "1")
    message = fails(str(tmp_path / "x.zip"), *flags)
    assert "no documents left of 1 found (damaged 1); for example x.zip: no directory of a zip can be read" in message
    message = fails(str(tmp_path / "folder"), *flags)
    assert message.endswith(
        "(not code 1); files .parquet in a folder are not opened: name them, as in 'FOLDER/*.parquet'"
    )


def test_strict_lets_pass_what_is_merely_filtered(tmp_path: Path, code: Path) -> None:
    shutil.copytree(code, tmp_path / "c")
    (tmp_path / "c" / "binary.py").write_bytes(b"\0")
    (tmp_path / "c" / "x.png").write_bytes(b"")
    (tmp_path / "c" / "link.py").symlink_to("x.png")
    shutil.copy(tmp_path / "c" / "ast.py", tmp_path / "c" / "zast.py")
    run_build(tmp_path / "c", tmp_path / "o", "--strict")
    reasons = {"binary.py": "binary", "x.png": "not code", "link.py": "symlink", "zast.py": "duplicate"}
    assert reasons.items() <= reasons_of(tmp_path / "o").items()


def test_strict_sees_the_faults_of_a_build_that_is_there(tmp_path: Path, code: Path, fails: Callable[..., str]) -> None:
    shutil.copytree(code, tmp_path / "c")
    os.mkfifo(tmp_path / "c" / "pipe.py")
    run_build(tmp_path / "c", tmp_path / "o")
    flags = ("--views", "zstd", "--workers", "1", "--sample-bytes", "200k", "--strict")
    assert "c/pipe.py: not a regular file: FIFO" in fails(str(tmp_path / "c"), "--out", str(tmp_path / "o"), *flags)
    assert "c/pipe.py: not a regular file: FIFO" in fails(str(tmp_path / "c"), "--out", str(tmp_path / "o2"), *flags)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Have something done after the survey, before the codecs are fitted."""

    def arrange(action: Callable[[], Any]) -> None:
        survey = build_module.Build.survey

        def surveyed(self: Any) -> None:
            survey(self)
            action()

        monkeypatch.setattr(build_module.Build, "survey", surveyed)

    return arrange


@pytest.mark.parametrize("views", ["zstd", pytest.param("sentencepiece:vocab=320", marks=pytest.mark.slow)])
def test_documents_that_change_or_go_are_left_out_and_all_sums_are_of_the_others(
    views: str, code: Path, tmp_path: Path, between: Callable[[Callable[[], Any]], None]
) -> None:
    shutil.copytree(code, tmp_path / "c")
    run_build(code, tmp_path / "before", views=views)
    changed = sorted(path for path in (tmp_path / "c" / "email").glob("*.py"))
    lines = tmp_path / "x.jsonl"
    lines.write_text(json.dumps({"text": "first = 1"}) + "\n" + json.dumps({"text": "second = 2"}) + "\n")

    def change() -> None:
        changed[0].unlink()
        for path in changed[1:]:
            path.write_bytes(b"other = 1\n")
        lines.write_text(lines.read_text().replace("second", "SECOND"))

    between(change)
    run_build(f"{tmp_path / 'c'},{lines}", tmp_path / "set", "--block-bytes", "300k", views=views)
    assert_whole(tmp_path / "set")
    rows = pq.read_table(tmp_path / "set" / "rejected").to_pylist()
    found = {row["path"]: row["value"] for row in rows if row["reason"] == "changed"}
    names = [f"email/{path.name}" for path in changed]
    assert set(found) == {*names, "x.jsonl@22"}
    assert found[names[0]] == "No such file or directory" and "10 bytes with the hash" in found[names[1]]
    assert rows_of(tmp_path / "set").keys() == rows_of(tmp_path / "before").keys() - set(names) | {None}
    manifest = Manifest.load(tmp_path / "set")
    sizes = [
        row["raw"] for path in (tmp_path / "set").glob("[tv]*/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    assert manifest.counts["bytes"] == manifest.inputs["bytes"] == sum(map(len, sizes))
    assert manifest.counts["documents"] == len(sizes)
    assert manifest.identity != Manifest.load(tmp_path / "before").identity


def test_a_document_that_changes_is_read_where_its_duplicate_lies(
    code: Path, tmp_path: Path, between: Callable[[Callable[[], Any]], None]
) -> None:
    shutil.copytree(code, tmp_path / "c")
    for name, copies in (("one", 1), ("two", 2)):
        (tmp_path / "c" / f"{name}.py").write_text(f"{name} = 1\n")
        for number in range(copies):
            shutil.copy(tmp_path / "c" / f"{name}.py", tmp_path / "c" / f"{name}_{number}.py")
    run_build(tmp_path / "c", tmp_path / "before")

    def change() -> None:
        (tmp_path / "c" / "one.py").unlink()
        (tmp_path / "c" / "two.py").write_bytes(b"other\n")
        (tmp_path / "c" / "two_0.py").write_bytes(b"another\n")

    between(change)
    run_build(tmp_path / "c", tmp_path / "set")
    assert digests(tmp_path / "set") == digests(tmp_path / "before")


def test_strict_stops_at_a_document_that_changes(
    code: Path, tmp_path: Path, between: Callable[[Callable[[], Any]], None], fails: Callable[..., str]
) -> None:
    shutil.copytree(code, tmp_path / "c")
    between(lambda: (tmp_path / "c" / "ast.py").write_bytes(b""))
    flags = ("--out", str(tmp_path / "o"), "--views", "zstd", "--workers", "1", "--strict")
    assert "ast.py: changed while the build was running" in fails(str(tmp_path / "c"), *flags)


def test_a_split_that_changed_altogether_is_an_error(
    code: Path, tmp_path: Path, between: Callable[[Callable[[], Any]], None], fails: Callable[..., str]
) -> None:
    shutil.copytree(code, tmp_path / "c")
    between(lambda: shutil.rmtree(tmp_path / "c"))
    flags = ("--out", str(tmp_path / "o"), "--views", "zstd", "--workers", "1")
    assert "changed while the build was running" in fails(str(tmp_path / "c"), *flags)


def test_damage_to_the_scratch_is_no_fault_of_the_input(
    code: Path, tmp_path: Path, between: Callable[[Callable[[], Any]], None], fails: Callable[..., str]
) -> None:
    with tarfile.open(tmp_path / "c.tgz", "w:gz") as archive:
        archive.add(code, arcname=".")

    def damage() -> None:
        (pile,) = (tmp_path / "o" / ".build" / "spool").iterdir()
        data = bytearray(pile.read_bytes())
        data[len(data) // 2] ^= 1
        pile.write_bytes(data)

    between(damage)
    flags = ("--out", str(tmp_path / "o"), "--views", "zstd", "--workers", "1")
    assert "spool" in fails(str(tmp_path / "c.tgz"), *flags)


def test_inputs_that_vanish_or_shrink_or_may_not_be_read_are_rejections(tmp_path: Path) -> None:
    gone = bytes(tmp_path / "gone.jsonl")
    rows, rejected = read_lines(Lines("gone.jsonl", gone, 0, 10), FILTERS)
    assert not rows and [row.reason for row in rejected] == ["unreadable"]
    size, rejection = unpack_file(Packed("gone.jsonl.gz", gone + b".gz"), tmp_path / "out")
    assert size == 0 and rejection is not None and rejection.reason == "unreadable"
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "b"}\n')
    rows, rejected = read_lines(Lines("x.jsonl", bytes(file), 0, 100), FILTERS)
    assert len(rows) == 2 and [row.reason for row in rejected] == ["changed"]
    rows, rejected = read_lines(Lines("x.jsonl", bytes(file), 50, 100), FILTERS)
    assert not rows and [row.reason for row in rejected] == ["changed"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a", "text": "b"}', "the key 'text' is there twice"), (b'{"text": 1}', "no text"),
        (b'"text"', "an object is expected, str found"), (b'{"text": "\xff"}', "utf-8"), (b"[" * 100_000, "nested"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "4300"), (b'{"text": "a"', "delimiter"),
    ],
)  # fmt: skip
def test_lines_that_are_no_documents_say_why(line: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_line(line)


def test_keys_that_are_twice_within_what_is_not_asked_for_are_no_fault() -> None:
    assert parse_line(b'{"text": "a", "meta": {"x": 1, "x": 2}}')[0] == b"a"


@pytest.mark.slow
def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with file.open("wb") as out:
        out.write(b'{"text": "a"}\n{"text": "')
        out.seek(1 << 30)  # a hole: NULs, that no disk is needed for
        out.write(b'"}\n{"text": "b"}\n')
    size = file.stat().st_size
    tracemalloc.start()
    first, long = read_lines(Lines("x.jsonl", bytes(file), 0, 8 << 20), FILTERS)
    last, none = read_lines(Lines("x.jsonl", bytes(file), size - (8 << 20), size), FILTERS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(first) == len(last) == 1 and not none and [row.reason for row in long] == ["too large"]
    assert peak < 40 << 20


def test_an_unreadable_place_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle of a file."""

    class Failing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def read(self, size: int = -1) -> bytes:
            if self._file.tell() >= 1 << 18:
                raise OSError(5, "Input/output error")
            return self._file.read(size)  # type: ignore[no-any-return]

    file = tmp_path / "x.jsonl.gz"
    file.write_bytes(
        gzip.compress(b"".join(b'{"text": "%s"}\n' % os.urandom(30).hex().encode() for _ in range(20_000)))
    )
    opened = spool.open_file
    monkeypatch.setattr(spool, "open_file", lambda name: Failing(opened(name)))
    size, rejection = unpack_file(Packed("x.jsonl.gz", bytes(file)), tmp_path / "out")
    assert rejection is not None and rejection.reason == "unreadable" and "Input/output error" in rejection.value
    assert size > 0 and (tmp_path / "out").read_bytes().endswith(b"\n")


def test_the_reasons_of_faults_are_the_programs_own() -> None:
    source = "".join(path.read_text() for path in sorted(Path(build_module.__file__).parent.rglob("*.py")))
    for reason in FAULTS:
        assert source.count(f'"{reason}"') > 1, reason
