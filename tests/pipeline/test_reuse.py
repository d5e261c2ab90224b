"""--codecs-from: sets made apart share an alphabet; what cannot be shared is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.__main__ import main as shards_main
from shards.reader import ShardSet
from tests.pipeline.conftest import copy_code, digests, run_build

FITTED = "sentencepiece:vocab=400 zstd:dictionary=4K gzip"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with two fitted codecs. Read only."""
    folder = tmp_path_factory.mktemp("first")
    assert run_build(copy_code(folder / "corpus", ("json", "email", "xml")), folder / "set", views=FITTED) == 0
    return folder / "set"


@pytest.fixture(scope="module")
def other_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other code, some of it in the first set too. Read only."""
    return copy_code(tmp_path_factory.mktemp("other") / "corpus", ("logging", "importlib", "urllib"))


def test_the_fitted_codecs_of_another_set_are_used_and_their_digests_are_part_of_the_identity(
    first: Path, other_code: Path, tmp_path: Path
) -> None:
    views = "gzip:level=3 sentencepiece brotli zstd"
    assert run_build(other_code, tmp_path / "a", "--codecs-from", str(first), views=views) == 0
    there, here = ShardSet.open(first), ShardSet.open(tmp_path / "a")
    assert list(here.views) == ["gzip", "sentencepiece", "brotli", "zstd"]
    shared = {name: there.view(name).digest for name in ("sentencepiece", "zstd")}
    assert {name: here.view(name).digest for name in shared} == shared
    assert here.codec("gzip").settings["level"] == 3 != there.codec("gzip").settings["level"]
    assert here.manifest.config["codecs"] == shared
    assert shards_main(["verify", str(tmp_path / "a")]) == 0
    shutil.copytree(first, tmp_path / "copy")  # the same codecs in another place: the same set
    assert run_build(other_code, tmp_path / "b", "--codecs-from", str(tmp_path / "copy"), views=views) == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert run_build(other_code, tmp_path / "b", "--codecs-from", str(first), views=views) == 0  # is there already


def test_without_views_all_of_the_other_set_are_made_in_its_order(
    first: Path, other_code: Path, tmp_path: Path
) -> None:
    assert run_build(other_code, tmp_path / "set", "--codecs-from", str(first), views="") == 0
    described = [(view.name, view.digest, view.folder) for view in ShardSet.open(tmp_path / "set").manifest.views]
    assert described == [(view.name, view.digest, view.folder) for view in ShardSet.open(first).manifest.views]
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert report["timing"]["stages"]["fit"]["seconds"] < 1  # nothing was fitted


@pytest.mark.parametrize(
    ("views", "text"),
    [
        ("tokens=sentencepiece", "has none of this name and kind. There is sentencepiece:vocab=400, zstd:"),
        ("sentencepiece:vocab=500", "has it with vocab=400"),
        ("gzip=zstd:dictionary=4K", "has none of this name and kind"),
        ("gzip gzip", "two views are named 'gzip'"),
    ],
)
def test_a_view_that_would_have_to_be_fitted_is_refused_and_what_is_there_is_named(
    first: Path, other_code: Path, tmp_path: Path, fails: Callable[..., str], views: str, text: str
) -> None:
    words = (str(other_code), "--out", str(tmp_path / "o"), "--views", views, "--codecs-from", str(first))
    assert text in fails(*words)
    assert not (tmp_path / "o").exists()


def test_a_damaged_codec_is_not_taken_over(
    first: Path, other_code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    shutil.copytree(first, tmp_path / "copy")
    model = next((tmp_path / "copy" / "codecs").glob("sentencepiece-*/sentencepiece.model"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    words = (str(other_code), "--out", str(tmp_path / "o"), "--views", "sentencepiece")
    assert "does not have the manifest's digest" in fails(*words, "--codecs-from", str(tmp_path / "copy"))
