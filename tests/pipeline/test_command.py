"""The command line: what it refuses, and how."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def test_a_missing_corpus_is_named(tmp_path: Path, fails: Callable[..., str]) -> None:
    assert fails(str(tmp_path / "none"), "--out", str(tmp_path / "o")) == (
        f"error: corpus {tmp_path / 'none'}: No such file or directory"
    )


def test_a_list_of_corpora_may_be_longer_than_a_path(tmp_path: Path, fails: Callable[..., str]) -> None:
    names = ",".join(str(tmp_path / f"none{i}") for i in range(200))
    assert len(names) > os.pathconf("/", "PC_PATH_MAX")
    assert (
        fails(names, "--out", str(tmp_path / "o")) == f"error: corpus {tmp_path / 'none0'}: No such file or directory"
    )


def test_a_corpus_without_documents_says_what_was_found(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "c").mkdir()
    assert "no documents left of 0 found" in fails(str(tmp_path / "c"), "--out", str(tmp_path / "o"), "--views", "zstd")
    (tmp_path / "c" / "x.png").write_bytes(b"x")
    message = fails(str(tmp_path / "c"), "--out", str(tmp_path / "o"), "--views", "zstd")
    assert "no documents left of 1 found (not code 1)" in message


def test_a_gzip_without_a_whole_line_is_an_error(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"text": "hello"}')[:20])
    message = fails(str(tmp_path / "x.jsonl.gz"), "--out", str(tmp_path / "o"), "--views", "zstd")
    assert "no documents left of 1 found (truncated 1)" in message


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "x.rar").write_bytes(b"x")
    assert "expected to be JSONL" in fails(str(tmp_path / "x.rar"))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--viws", "zstd"], "no flag --viws; did you mean --views?"),
        (["--direct_num_worker=2"], "no flag --direct_num_worker; did you mean --direct_num_workers?"),
        (["more"], "unexpected argument 'more': separate several corpora by commas"),
        (["--views", "zstd gzp"], "gzip"),
        (["--views", "zstd zstd"], "two views are named 'zstd'"),
        (["--views", "zstd:levl=3"], "level"),
        (["--languages", "pyhton"], "did you mean 'python'"),
        (["--val-fraction", "0.2"], "--val-fraction 0.2: must be between 0.005 and 0.05"),
        (["--max-bytes", "lots"], "'lots' is no size"),
        (["--workers", "0"], "--workers 0: must be between"),
        (["--max-expansion", "0"], "--max-expansion 0: must be between"),
        (["--sample-rate", "0"], "--sample-rate 0.0: must be between"),
        (["--limit", "0"], "--limit 0: must be between"),
        (["--runner", "DaskRunner"], "it loses output without an error"),
        (["--runner", "DirectRunner"], "it tries to download another engine"),
    ],
)
def test_a_wrong_flag_is_one_line_that_helps(
    code: Path, tmp_path: Path, fails: Callable[..., str], flags: list[str], text: str
) -> None:
    assert text in fails(str(code), "--out", str(tmp_path / "o"), *flags)
    assert not (tmp_path / "o").exists()


def test_help_teaches_and_needs_no_beam() -> None:
    script = "import sys\nfrom pipeline.__main__ import parser\nassert 'apache_beam' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPO)
    text = subprocess.run(
        [sys.executable, "-m", "pipeline", "build", "--help"], check=True, cwd=REPO, capture_output=True, text=True
    ).stdout
    assert "examples:" in text and "--views" in text and "default" in text


def test_an_unreadable_file_or_folder_is_counted_and_the_build_goes_on(code: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(code, corpus)
    (corpus / "closed").mkdir()
    for path in (corpus / "secret.py", corpus / "closed" / "y.py"):
        path.write_text("x = 1")
    (corpus / "secret.py").chmod(0)
    (corpus / "closed").chmod(0)
    words = [sys.executable, "-m", "pipeline", "build", str(corpus), "--out", str(tmp_path / "set"), "--views", "zstd"]
    if os.geteuid() == 0:  # root reads everything, unless it gives up its capabilities
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to run as a root that obeys permissions")
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *words]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "unreadable 2" in done.stdout
    (corpus / "closed").chmod(0o700)
