"""--fingerprint content: a corpus that was only touched is the same; one that changed without a trace is not."""

import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.reading.fingerprint import content_fingerprint
from pipeline.reading.inputs import corpora, take_inventory
from tests.pipeline.conftest import digests, run_build

CONTENT = ("--fingerprint", "content")


@pytest.fixture
def corpus(code: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    shutil.copytree(code, folder)
    (folder / "link.py").symlink_to("json/decoder.py")
    return folder


def touch_all(corpus: Path) -> None:
    for path in corpus.rglob("*.py"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)


def test_a_corpus_that_was_only_touched_is_recognised_by_content_and_not_by_times(
    corpus: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run_build(corpus, out, *CONTENT) == 0
    whole = digests(out)
    touch_all(corpus)
    words = (str(corpus), "--out", str(out), "--views", "zstd", "--sample-bytes", "200k")
    assert "--fingerprint content tells" in fails(*words)
    assert run_build(corpus, out, *CONTENT) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert digests(out) == whole


def test_a_change_that_leaves_size_and_time_is_seen_by_content_only(
    corpus: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out, path = tmp_path / "set", corpus / "json" / "decoder.py"
    assert run_build(corpus, out, *CONTENT) == 0
    status, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw[:-2] + b"#\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run_build(corpus, out) == 0  # by times there is nothing to see
    words = (str(corpus), "--out", str(out), "--views", "zstd", "--sample-bytes", "200k")
    assert "the corpus has changed since: choose another --out" in fails(*words, *CONTENT)


def test_a_set_that_was_built_by_times_says_that_content_cannot_be_told(
    corpus: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out = tmp_path / "set"
    assert run_build(corpus, out) == 0
    assert run_build(corpus, out, *CONTENT) == 0  # times have not changed either
    touch_all(corpus)
    words = (str(corpus), "--out", str(out), "--views", "zstd", "--sample-bytes", "200k")
    assert "built without --fingerprint content" in fails(*words, *CONTENT)


def test_the_fingerprint_covers_every_kind_of_input_and_no_place_or_number_of_threads(
    corpus: Path, tmp_path: Path
) -> None:
    lines = "\n".join(json.dumps({"text": f"x = {n}\n"}) for n in range(50)).encode()
    plain, packed, archive = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.tar"))
    with tarfile.open(archive, "w") as tar:
        tar.add(corpus / "json", "json")
    inputs = (plain, packed, archive)

    def found(*paths: Path, threads: int = 1) -> str:
        inventory = take_inventory(corpora([str(path) for path in paths]), (), tmp_path / "out")
        return content_fingerprint(inventory, threads)

    def write(text: bytes) -> None:
        plain.write_bytes(text)
        packed.write_bytes(gzip.compress(text, mtime=0))

    write(lines)
    before = found(corpus, *inputs)
    assert found(*reversed(inputs), corpus, threads=3) == before
    shutil.copytree(corpus, tmp_path / "elsewhere" / "corpus", symlinks=True)
    assert found(tmp_path / "elsewhere" / "corpus", *inputs) == before
    seen = {before}
    for path in (*inputs, corpus / "json" / "decoder.py"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        seen.add(found(corpus, *inputs))
    (corpus / "link.py").unlink()
    (corpus / "link.py").symlink_to("json/encoder.py")
    seen.add(found(corpus, *inputs))
    (corpus / "added.txt").write_bytes(b"")
    seen.add(found(corpus, *inputs))
    assert len(seen) == 7
