"""add-view: a view added later is the view that a build would have made, and nobody who reads the set is disturbed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.reporting.report_fields import undocumented
from shards.__main__ import main as shards_main
from shards.reader import ShardSet
from tests.pipeline.conftest import copy_code, digests, run_build

SMALL = ("--shard-bytes", "700k", "--row-group-bytes", "300k")
ADDED = "sentencepiece:vocab=400 brotli:level=3"


def add(out: Path, *flags: str) -> int:
    return main(["add-view", str(out), "--workers", "1", "--block-bytes", "100k", *flags])


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some code with files in several languages. Read only."""
    folder = copy_code(tmp_path_factory.mktemp("code") / "corpus", ("json", "email", "xml", "logging"))
    for number in range(30):
        (folder / f"f{number}.c").write_text(f"int f{number}(int x) {{ return x * {number}; }}\n" * (number + 1))
    (folder / "empty.py").write_bytes(b"")
    (folder / "latin1.py").write_bytes("name = 'Grüße'\n".encode("latin-1"))
    return folder


@pytest.fixture(scope="module")
def plain(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in one view and several shards. Read only."""
    out = tmp_path_factory.mktemp("plain") / "set"
    assert run_build(corpus, out, *SMALL, views="gzip") == 0
    assert len(ShardSet.open(out).manifest.splits["train"]) > 2
    return out


@pytest.fixture(scope="module")
def grown(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two views added, the former files still there. Read only."""
    out = copied(plain, tmp_path_factory.mktemp("grown") / "set")
    assert add(out, "--view", ADDED) == 0
    return out


def test_the_set_is_the_one_that_a_build_with_the_view_makes_but_for_its_names(
    corpus: Path, grown: Path, tmp_path: Path
) -> None:
    assert run_build(corpus, tmp_path / "whole", *SMALL, views=f"gzip {ADDED}") == 0
    whole, here = ShardSet.open(tmp_path / "whole").manifest, ShardSet.open(grown).manifest
    assert here.views == whole.views  # with the digests of the fitted codecs
    for split in ("train", "val"):
        assert [file.sha256 for file in here.splits[split]] == [file.sha256 for file in whole.splits[split]]
        assert all(file.path.endswith("-g2.parquet") for file in here.splits[split])
    assert shards_main(["verify", str(grown)]) == 0


def test_documents_order_and_former_views_stay_and_the_set_still_answers_to_its_build(
    corpus: Path, plain: Path, grown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = ShardSet.open(plain).manifest, ShardSet.open(grown).manifest
    for split in ("train", "val"):
        assert after.order_digest(split) == before.order_digest(split)
        assert [after.view_digest(split, n) for n in ("raw", "gzip")] == [
            before.view_digest(split, n) for n in ("raw", "gzip")
        ]
    assert after.rejected == before.rejected and after.counts == before.counts
    assert after.identity != before.identity
    unchanged = digests(grown)
    assert run_build(corpus, grown, *SMALL, views="gzip") == 0
    assert "is there already" in capsys.readouterr().out
    assert add(grown, "--view", "brotli:level=3") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert digests(grown) == unchanged


def test_the_report_and_the_card_know_the_added_views(plain: Path, grown: Path) -> None:
    before, after = (json.loads((out / "report.json").read_text()) for out in (plain, grown))
    assert list(after["views"]) == ["gzip", "sentencepiece", "brotli"]
    assert after["views"]["gzip"] == before["views"]["gzip"] and after["identity"] != before["identity"]
    for name in ("inputs", "rejected", "twins", "licences", "counts"):
        assert after[name] == before[name]
    assert after["views"]["sentencepiece"]["options"] == {"vocab": 400}
    assert set(after["languages"]["c"]["views"]) == {"gzip", "sentencepiece", "brotli"}
    assert set(after["timing"]["codecs"]) == {"gzip", "sentencepiece", "brotli"}
    assert undocumented(after) == (set(), set())
    assert "| `sentencepiece` |" in (grown / "README.md").read_text()
    assert "sentencepiece" in (grown / "report.html").read_text()


def test_a_reader_that_has_the_set_open_goes_on_and_former_files_go_only_when_asked(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(plain, tmp_path / "set")
    opened = ShardSet.open(out)
    train = opened.split("train")
    held = train.raw(0)  # one file mapped, the others not yet
    former = [out / file.path for file in opened.manifest.splits["train"]]
    assert add(out, "--view", "zstd") == 0
    assert "former files" in capsys.readouterr().out and all(path.exists() for path in former)
    again = ShardSet.open(out).split("train")
    for i in range(len(train)):
        assert np.array_equal(train.raw(i), again.raw(i))
        assert np.array_equal(train.symbols(i, "gzip"), again.symbols(i, "gzip"))
    assert add(out, "--view", "brotli:level=1") == 0  # a third generation beside the two
    assert add(out, "--prune") == 0
    assert not any(path.exists() for path in former)
    assert np.array_equal(held, again.raw(0))
    manifest = ShardSet.open(out).manifest
    names = {file.path for files in manifest.splits.values() for file in files}
    assert {path.relative_to(out).as_posix() for path in out.glob("*/shard-*")} == names
    assert {name[-11:] for name in names} == {"-g3.parquet"} and shards_main(["verify", str(out)]) == 0


def test_codecs_may_come_from_another_set(corpus: Path, plain: Path, grown: Path, tmp_path: Path) -> None:
    out = copied(plain, tmp_path / "set")
    assert add(out, "--view", "sentencepiece", "--codecs-from", str(grown), "--prune") == 0
    assert ShardSet.open(out).view("sentencepiece") == ShardSet.open(grown).view("sentencepiece")
    assert shards_main(["verify", str(out)]) == 0


def test_a_name_that_is_taken_and_a_folder_that_is_no_set_are_refused(
    grown: Path, tmp_path: Path, fails_with: Callable[..., str]
) -> None:
    message = fails_with("add-view", str(grown), "--view", "brotli:level=4")
    assert "has a view 'brotli' already: brotli:level=3" in message and "--view other=brotli:level=4" in message
    assert "is no shard set" in fails_with("add-view", str(tmp_path), "--view", "zstd")
    assert "a set in a folder is expected" in fails_with("add-view", "s3://bucket/set", "--view", "zstd")
    assert "no view asked for" in fails_with("add-view", str(grown))
    assert "did you mean --codecs-from" in fails_with("add-view", str(grown), "--view", "zstd", "--codec-from", "x")
    assert not (grown / ".build").exists()


def test_a_damaged_value_ends_it_and_the_set_stays_as_it_was(
    plain: Path, tmp_path: Path, fails_with: Callable[..., str]
) -> None:
    out = copied(plain, tmp_path / "set")
    shard = ShardSet.open(out).manifest.splits["train"][1]
    chunk = shard.row_groups[0].chunks["gzip"]
    with (out / shard.path).open("r+b") as file:
        file.seek(chunk.offset + chunk.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    before = digests(out)
    message = fails_with("add-view", str(out), "--view", "zstd", "--workers", "1")
    assert shard.path in message and "column gzip" in message
    assert digests(out) == before
