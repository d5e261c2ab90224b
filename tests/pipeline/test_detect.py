"""The language by content, where the name says nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.reading.detect import language_by_content, name_says_nothing
from shards.manifest import Manifest
from tests.pipeline.conftest import STDLIB, digests, run_build
from tests.pipeline.test_inputs import assert_whole, reasons_of

C = b'#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf("%d\\n", argc);\n    return 0;\n}\n' * 4


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        (None, True), ("configure", True), ("a/b/x.unheardof", True), ("x.png", False), ("x.py", False),
        ("x.txt", False), ("Makefile", False), ("x.json", False), ("dir.py/run", True),
    ],
)  # fmt: skip
def test_only_names_that_say_nothing_are_looked_into(name: str | None, nothing: bool) -> None:
    assert name_says_nothing(name) == nothing


def test_the_content_says_the_language_under_our_own_name() -> None:
    assert language_by_content((STDLIB / "ast.py").read_bytes()) == "python"
    assert language_by_content(C) == "c"
    assert [language_by_content(raw) for raw in (b"", b"?", bytes(100), b"some words\n")] == [None] * 4


def test_documents_without_a_telling_name_are_labelled_or_left_out_by_their_content(code: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    shutil.copytree(code, corpus)
    (corpus / "script").write_bytes((STDLIB / "difflib.py").read_bytes() + b"# more\n")
    (corpus / "main.unheardof").write_bytes(C)
    (corpus / "data.unheardof").write_text(json.dumps({"a": list(range(300))}, indent=1))
    (corpus / "words").write_text("Nothing that is a program, in so many words.\n" * 20)
    (corpus / "x.png").write_bytes(C)
    lines = tmp_path / "x.jsonl"
    lines.write_text(json.dumps({"text": C.decode() + "\n"}) + "\n" + json.dumps({"text": "words, words"}) + "\n")
    run_build(f"{corpus},{lines}", tmp_path / "set", "--detect-language")
    assert_whole(tmp_path / "set")
    rows = [row for path in (tmp_path / "set").glob("[tv]*/*.parquet") for row in pq.read_table(path).to_pylist()]
    found = {(row["source"], row["path"]): row["language"] for row in rows}
    assert found["c", "script"] == "python" and found["c", "main.unheardof"] == "c"
    assert sorted(str(row["language"]) for row in rows if row["source"] == "x.jsonl") == ["None", "c"]
    reasons = {"data.unheardof": "not code", "words": "not code", "x.png": "not code"}
    assert reasons.items() <= reasons_of(tmp_path / "set").items()
    assert {"magika", "onnxruntime"} <= Manifest.load(tmp_path / "set").libraries.keys()


@pytest.mark.slow
def test_labels_by_content_are_the_same_with_any_number_of_workers(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.build.SURVEY_ALONE", 0)
    lines = tmp_path / "x.jsonl"
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(code.rglob("*.py"))]
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for workers in (1, 2):
        run_build(lines, tmp_path / str(workers), "--detect-language", "--workers", str(workers))
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_without_the_package_the_flag_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.setattr("pipeline.reading.detect.find_spec", lambda _: None)
    assert "byteproxy[magika]" in fails(str(tmp_path), "--out", str(tmp_path / "o"), "--detect-language")


def test_without_the_flag_no_model_is_loaded() -> None:
    code = "import pipeline.build, sys; print('magika' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
