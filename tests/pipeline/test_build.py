"""A whole build over real code with trouble planted: nothing is lost or altered, and nothing depends on the run."""

# ruff: noqa: PTH113, PTH114, PTH118, PTH122 - file names are bytes here

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from shards.hashing import document_id
from shards.reader import ShardSet
from tests.pipeline.conftest import VIEWS, copy_code, digests, run_build

LIMIT = 300 << 10


def rejected_rows(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted((out / "rejected").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def files_of(corpus: Path) -> dict[bytes, bytes | None]:
    """Every entry that is no folder, found in another way than the pipeline's: os.walk. None: no regular file."""
    found: dict[bytes, bytes | None] = {}
    for folder, folders, names in os.walk(os.fsencode(corpus)):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in (b".git", b"__pycache__")]
        for name in names + links:
            path = os.path.join(folder, name)
            regular = os.path.isfile(path) and not os.path.islink(path)
            found[os.path.relpath(path, os.fsencode(corpus))] = (
                Path(os.fsdecode(path)).read_bytes() if regular else None
            )
    return found


def documents_of(out: Path) -> dict[bytes, dict[str, str | None]]:
    opened = ShardSet.open(out)
    splits = [opened.split(name) for name in ("train", "val")]
    return {split.id(i): split.meta(i) for split in splits for i in range(len(split))}


def test_documents_and_rejected_are_all_that_is_found(troubled: Path, built: Path) -> None:
    found = files_of(troubled)
    kept, rejected = documents_of(built), rejected_rows(built)
    assert len(kept) + len(rejected) == len(found)
    counts = ShardSet.open(built).manifest.counts
    assert counts == {"documents": len(kept), "rejected": len(rejected), "found": len(found), "bytes": counts["bytes"]}
    places = [str(meta["path"]) for meta in kept.values()] + [str(row["path"]) for row in rejected]
    assert sorted(places) == sorted(name.decode("utf-8", "backslashreplace") for name in found)


def test_what_is_kept_is_every_distinct_text_of_a_code_language_within_the_limit(troubled: Path, built: Path) -> None:
    code = {b".py", b".c", b".rs", b".rst"}
    expected = {
        document_id(raw)
        for name, raw in files_of(troubled).items()
        if raw is not None and os.path.splitext(name)[1] in code and len(raw) <= LIMIT and b"\0" not in raw[:8000]
    }
    assert set(documents_of(built)) == expected


def test_every_document_decodes_to_its_own_bytes_from_every_view(troubled: Path, built: Path) -> None:
    originals = {document_id(raw): raw for raw in files_of(troubled).values() if raw is not None}
    opened = ShardSet.open(built)
    assert list(opened.views) == ["sentencepiece", "gzip", "zstd", "brotli"]
    for split in (opened.split("train"), opened.split("val")):
        for i in range(len(split)):
            raw = originals[split.id(i)]
            assert split.raw(i).tobytes() == raw
            for view in opened.views:
                assert opened.codec(view).decode(np.asarray(split.symbols(i, view)), len(raw)) == raw


def test_each_rejection_has_its_reason_and_value(built: Path) -> None:
    rows = {str(row["path"]): row for row in rejected_rows(built)}
    reasons = {path: (row["reason"], row["value"]) for path, row in rows.items()}
    assert reasons["special/binary.py"] == ("binary", "NUL at byte 5")
    assert reasons["special/outside"] == ("symlink", "to /etc")
    assert reasons["special/dangling.py"] == ("symlink", "to nowhere.py")
    assert reasons["special/loop"][0] == "symlink"
    assert reasons["special/pipe.py"] == ("not a regular file", "FIFO")
    assert reasons["special/data.json"] == ("not code", "json")
    assert reasons["special/README"] == ("not code", "plain-text")
    assert reasons["special/empty_too.py"][0] == "duplicate" or reasons["special/empty.py"][0] == "duplicate"
    assert reasons["special/copy_of_ast.py"] == ("duplicate", "of corpus/a_first_copy_of_ast.py")
    assert reasons["ast.py"] == ("duplicate", "of corpus/a_first_copy_of_ast.py")
    assert rows["special/binary.py"]["id"] == document_id(b"a = 1\0\n")
    assert {row["id"] for row in rows.values() if row["reason"] == "not code"} == {None}


def test_names_that_are_not_utf8_or_hold_newlines_are_kept_as_escapes(built: Path) -> None:
    paths = {meta["path"] for meta in documents_of(built).values()}
    assert {"special/caf\\xe9.py", "special/line\nbreak.py", "special/" + "n" * 200 + ".py"} <= paths


def test_nothing_of_the_scratch_stays(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == [
        "README.md", "codecs", "manifest.json", "rejected", "report.html", "report.json", "train", "val",
    ]  # fmt: skip
    assert not [path for path in built.rglob("*") if path.name.startswith(".")]


def test_two_workers_and_another_place_of_the_corpus_give_the_same_bytes(
    troubled: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.build.SURVEY_ALONE", 0)  # or one process would survey so small a corpus
    elsewhere = tmp_path / "corpus"
    shutil.copytree(troubled, elsewhere, symlinks=True, ignore=shutil.ignore_patterns("pipe.py", "loop"))
    os.mkfifo(elsewhere / "special" / "pipe.py")
    (elsewhere / "special" / "loop").symlink_to(troubled)
    assert (
        run_build(
            elsewhere, tmp_path / "set", "--max-bytes", "300k", "--workers", "2", "--block-bytes", "64k", views=VIEWS
        )
        == 0
    )
    assert digests(tmp_path / "set") == digests(built)
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (built, tmp_path / "set"))
    assert {key for key in one if one[key] != two[key]} == {"inputs", "timing", "workers"}
    assert one["inputs"]["digest"] == two["inputs"]["digest"]
    said, counts = capsys.readouterr().err, two["counts"]  # what both workers have counted
    kept = f"{counts['documents']:,} documents, "
    assert f"1 of 5 survey: {kept}" in said and f", {counts['rejected']:,} left out, " in said
    assert all(f"{stage}: {kept}" in said for stage in ("2 of 5 split", "4 of 5 encode", "5 of 5 write"))


def test_the_order_in_which_inputs_are_named_changes_no_byte(code: Path, tmp_path: Path) -> None:
    parts = []
    for letter, names in (("a", ("json", "xml")), ("b", ("email", "xml")), ("c", ("logging",))):
        parts.append(copy_code(tmp_path / letter, names))
        (parts[-1] / "own.py").write_text(f"own = {letter!r}\n")
    assert run_build(",".join(map(str, parts)), tmp_path / "one") == 0
    assert run_build(",".join(map(str, reversed(parts))), tmp_path / "two") == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    winners = {row["value"] for row in rejected_rows(tmp_path / "one") if row["reason"] == "duplicate"}
    assert winners and all(str(value).startswith("of a/") or str(value).startswith("of b/") for value in winners)


def jsonl_lines(code: Path) -> list[str]:
    lines = []
    for number, path in enumerate(sorted(code.rglob("*.py"))):
        text = path.read_bytes().decode("utf-8", "replace")
        name = path.relative_to(code).as_posix()
        body = {"content": text, "path": name, "lang": "Python", "license": "PSF", "repo_name": f"repo-{number % 40}"}
        lines.append(json.dumps(body if number % 3 else {"text": text}))
    return lines


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_keeps_text_and_description_and_counts_what_does_not_parse(
    code: Path, tmp_path: Path, suffix: str
) -> None:
    lines = jsonl_lines(code)
    bad = {5: "{oops", 9: '["a list"]', 12: '{"path": "no text"}', 20: '{"text": 3}'}
    for number, line in bad.items():
        lines.insert(number, line)
    lines.insert(30, "   ")
    lines.append(json.dumps({"text": "lone \ud800 surrogate"}))
    data = ("\n".join(lines)).encode()
    packed = {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix]
    file = tmp_path / f"code.jsonl{suffix}"
    file.write_bytes(packed)
    assert run_build(file, tmp_path / "set") == 0
    kept, rejected = documents_of(tmp_path / "set"), rejected_rows(tmp_path / "set")
    assert len(kept) + len(rejected) == len(lines) - 1  # a blank line is no document
    wrong = [row for row in rejected if row["reason"] == "bad json"]
    assert sorted(int(str(row["value"]).split(":")[0].split()[1]) for row in wrong) == [n + 1 for n in sorted(bad)]
    texts = [json.loads(line) for number, line in enumerate(lines) if number not in bad and line.strip()]
    ids = {document_id((t.get("text") or t.get("content") or "").encode("utf-8", "surrogatepass")) for t in texts}
    assert set(kept) == ids
    described = [meta for meta in kept.values() if meta["path"]]
    assert {(m["language"], m["licence"]) for m in described} == {("python", "PSF")}
    assert {str(meta["source"])[:5] for meta in described} == {"repo-"}
    assert {meta["source"] for meta in kept.values() if not meta["path"]} <= {
        f"code.jsonl{suffix}",
        *(f"repo-{n}" for n in range(40)),
    }


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_input_cut_short_gives_what_could_be_read_and_one_rejection(
    code: Path, tmp_path: Path, suffix: str
) -> None:
    data = "\n".join(jsonl_lines(code)).encode()
    packed = {".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix]
    file = tmp_path / f"cut.jsonl{suffix}"
    file.write_bytes(packed[: len(packed) * 2 // 3])
    assert run_build(file, tmp_path / "set") == 0
    rejected = rejected_rows(tmp_path / "set")
    (cut,) = [row for row in rejected if row["reason"] == "truncated"]
    assert str(cut["path"]).startswith(f"cut.jsonl{suffix}@") and "cut short after" in str(cut["value"])
    assert not [row for row in rejected if row["reason"] == "bad json"]
    assert len(documents_of(tmp_path / "set")) > 50


def test_val_shares_no_group_with_train(code: Path, tmp_path: Path) -> None:
    assert run_build(code, tmp_path / "set") == 0
    opened = ShardSet.open(tmp_path / "set")
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    total = report["counts"]["bytes"]
    assert 0.005 <= report["splits"]["val"]["bytes"] / total <= 0.05
    sizes: dict[str, int] = {}
    for path in code.rglob("*.py"):
        for parent in path.relative_to(code).parents:
            sizes[str(parent)] = sizes.get(str(parent), 0) + path.stat().st_size
    small = {folder for folder, size in sizes.items() if size * 50 <= total * 0.9}
    folders = {
        name: {str(p) for i in range(len(split)) for p in Path(str(split.meta(i)["path"])).parents} & small
        for name, split in (("train", opened.split("train")), ("val", opened.split("val")))
    }
    assert not folders["train"] & folders["val"]


def test_languages_narrow_and_exclude_leaves_out_without_counting(code: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(code, corpus)
    (corpus / "main.c").write_text("int main(void) { return 0; }\n")
    assert run_build(corpus, tmp_path / "set", "--languages", "py", "--exclude", "xml", "--exclude", "email/m*") == 0
    paths = {str(meta["path"]) for meta in documents_of(tmp_path / "set").values()}
    assert not [path for path in paths if path.startswith(("xml/", "email/m"))] and "email/parser.py" in paths
    rejected = rejected_rows(tmp_path / "set")
    assert [(row["reason"], row["value"]) for row in rejected if row["path"] == "main.c"] == [("language", "c")]
    assert not [row for row in rejected if str(row["path"]).startswith("xml/")]
