"""Stability: edits touch what they say, distances are Levenshtein's, and the figures tell gzip from a tokenizer."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.reporting.page import page
from pipeline.reporting.report_fields import undocumented
from pipeline.stability.edits import EDITS, edited, edited_once
from pipeline.stability.measure import distance, downstream
from shards.codecs import codec_class
from shards.reader import ShardSet

SOURCE = Path(ast.__file__).read_bytes()[:8192]

sequences = st.lists(st.integers(0, 3), max_size=12)


def levenshtein(a: list[int], b: list[int]) -> int:
    """By the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@given(sequences, sequences)
def test_a_distance_is_levenshteins_by_the_longer_and_downstream_leaves_out_what_is_the_same_before(
    a: list[int], b: list[int]
) -> None:
    expected = levenshtein(a, b) / max(len(a), len(b), 1)
    assert distance(np.array(a, np.uint16), np.array(b, np.uint16)) == pytest.approx(expected)
    head = [9] * 20
    rest = downstream(np.array(head + a, np.uint16), np.array(head + b, np.uint16))
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    longer = max(len(a), len(b)) - common
    assert rest == pytest.approx(levenshtein(a[common:], b[common:]) / max(longer, 1))


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_an_edit_touches_about_the_share_of_bytes_that_it_says(kind: str, rate: float) -> None:
    after = edited(SOURCE, kind, rate, 0)
    found = distance(np.frombuffer(SOURCE, np.uint8), np.frombuffer(after, np.uint8))
    assert 0.5 * rate < found < 2.5 * rate
    assert after == edited(SOURCE, kind, rate, 0) != edited(SOURCE, kind, rate, 1)


def test_a_renamed_identifier_is_renamed_everywhere() -> None:
    text = b"def area(width, height):\n    return width * height\n\nprint(area(1, 2), area(3, 4))\n" * 3
    before, after = (re.findall(rb"\w+", source) for source in (text, edited(text, "rename", 0.05, 3)))
    assert len(before) == len(after) and before != after
    assert len(set(zip(before, after, strict=True))) == len(set(before))  # each name has one new name


@settings(max_examples=60)
@given(st.binary(max_size=64), st.sampled_from(sorted(EDITS)), st.integers(0, 5))
def test_any_bytes_can_be_edited(raw: bytes, kind: str, seed: int) -> None:
    edited(raw, kind, 0.1, seed)
    if raw:
        after, place = edited_once(raw, seed)
        assert after != raw or len(set(raw)) == 1
        assert after[:place] == raw[:place] and abs(len(after) - len(raw)) <= 1


@pytest.fixture(scope="module")
def measured(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with a tokenizer's view and gzip's, measured by one process."""
    out = tmp_path_factory.mktemp("stability") / "set"
    views = "sentencepiece:vocab=2048 gzip"
    assert (
        main(["build", str(code), "--out", str(out), "--views", views, "--workers", "1", "--val-fraction", "0.05"]) == 0
    )
    assert main(["stability", str(out), "--documents", "8", "--workers", "1"]) == 0
    return out


def test_one_byte_changes_a_tokenizers_view_here_and_there_and_gzips_to_the_end(measured: Path) -> None:
    report = json.loads((measured / "report.json").read_text())
    assert undocumented(report) == (set(), set())
    views = report["stability"]["views"]
    assert list(views) == ["raw", "sentencepiece", "gzip"]
    assert views["sentencepiece"]["downstream"]["mean"] < 0.1 < 0.5 < views["gzip"]["downstream"]["mean"]
    for view in views.values():
        means = [figure["mean"] for figure in view["distance"].values()]
        assert means[0] < means[-1]
    assert views["raw"]["distance"]["0.1"]["mean"] == pytest.approx(0.1, rel=0.4)
    assert views["raw"]["bytes_a_symbol"] == 1 and 1.5 < views["sentencepiece"]["bytes_a_symbol"] < 4
    text = page(report)
    assert "Stability" in text and "downstream" in text and "sentencepiece, 1%" in text


def test_figures_are_those_of_the_codec_and_the_same_on_two_processes(measured: Path, tmp_path: Path) -> None:
    again = tmp_path / "set"
    shutil.copytree(measured, again)
    assert main(["stability", str(again), "--documents", "8", "--workers", "2"]) == 0
    assert (again / "report.json").read_bytes() == (measured / "report.json").read_bytes()
    split = ShardSet.open(again).split("val")
    assert json.loads((again / "report.json").read_text())["stability"]["documents"] == min(
        8, sum(256 <= split.length("raw", i) <= 16384 for i in range(len(split)))
    )
    gzip = codec_class("gzip").fit([], level=9)
    before, after = (gzip.encode(text).symbols for text in (SOURCE, edited_once(SOURCE, 0)[0]))
    assert downstream(before, after) > 0.5


def test_what_cannot_be_measured_is_one_error(measured: Path, fails_with: Callable[..., str]) -> None:
    assert "has no view 'zstd'" in fails_with("stability", str(measured), "--views", "zstd")
    assert "--documents: 0 found" in fails_with("stability", str(measured), "--documents", "0")
    assert "did you mean --views" in fails_with("stability", str(measured), "--view", "gzip")
