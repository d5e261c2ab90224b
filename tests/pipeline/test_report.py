"""report.json: every figure is the same as in a count of the finished set made in another way, and is documented."""

import json
import shlex
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.build
from pipeline.__main__ import main
from pipeline.config import BuildConfig
from pipeline.reporting.command import command_of
from pipeline.reporting.report_fields import FIELDS, undocumented
from pipeline.reporting.statistics import bin_start, block_statistics, log2_bins, merged, rejection_statistics
from shards.codecs import load_codec
from shards.manifest import View
from shards.reader import ShardSet
from shards.writer import Document, table_of


@pytest.fixture(scope="session")
def report(built: Path) -> dict:
    return json.loads((built / "report.json").read_text())


def expected_bins(values: list[int]) -> list[int]:
    bins = Counter(value.bit_length() for value in values)
    return [bins[n] for n in range(max(bins) + 1)]


def test_every_key_is_documented_and_every_documented_key_is_there(report: dict) -> None:
    assert undocumented(report) == (set(), set())
    damaged = report | {"news": 1, "counts": {k: v for k, v in report["counts"].items() if k != "checked"}}
    assert undocumented(damaged) == ({"news"}, {"counts.checked"})
    assert "rejected.*.examples.[].value" in FIELDS


def test_lengths_and_anchors_are_those_of_the_documents_in_the_set(built: Path, report: dict) -> None:
    opened = ShardSet.open(built)
    anchors: dict[str, list[int]] = {view: [] for view in opened.views}
    largest = dict.fromkeys(opened.views, 0)
    gaps = dict.fromkeys(opened.views, 0)
    for name in ("train", "val"):
        split = opened.split(name)
        lengths = report["splits"][name]["lengths"]
        assert lengths["raw"] == expected_bins([len(split.raw(i)) for i in range(len(split))])
        for view in opened.views:
            assert lengths[view] == expected_bins([len(split.symbols(i, view)) for i in range(len(split))])
            for i in range(len(split)):
                offsets = split.anchors(i, view)[:, 0].astype(int).tolist()
                anchors[view].append(len(offsets))
                steps = [b - a for a, b in pairwise(offsets)]
                gaps[view] += len(steps)
                largest[view] = max([largest[view], *steps])
    for view, facts in report["views"].items():
        found = facts["anchors"]
        assert found["documents"] == expected_bins(anchors[view])
        assert found["largest_gap"] == largest[view]
        assert found["mean_gap"] == pytest.approx(report["counts"]["bytes"] / gaps[view])
    assert report["views"]["sentencepiece"]["anchors"]["largest_gap"] <= 128
    assert report["views"]["gzip"]["anchors"]["largest_gap"] > 100_000


def test_languages_with_their_ratios_are_those_of_the_documents_in_the_set(built: Path, report: dict) -> None:
    opened = ShardSet.open(built)
    documents: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    symbols: Counter[tuple[str, str]] = Counter()
    for name in ("train", "val"):
        split = opened.split(name)
        for i in range(len(split)):
            language = str(split.meta(i)["language"])
            documents[language, name] += 1
            sizes[language, name] += len(split.raw(i))
            for view in opened.views:
                symbols[language, view] += len(split.symbols(i, view))
    assert {(lang, s): n["documents"] for lang, f in report["languages"].items() for s, n in f["splits"].items()} == (
        documents
    )
    assert {(lang, s): n["bytes"] for lang, f in report["languages"].items() for s, n in f["splits"].items()} == sizes
    for language, facts in report["languages"].items():
        assert facts["bytes"] == sizes[language, "train"] + sizes[language, "val"]
        for view, found in facts["views"].items():
            assert found["symbols"] == symbols[language, view]
            width = opened.views[view].width
            assert found["ratio"] == pytest.approx(facts["bytes"] / max(1, width * symbols[language, view]))
    assert list(report["languages"]) == sorted(report["languages"], key=lambda n: -report["languages"][n]["bytes"])


def test_rejections_are_those_of_rejected_and_examples_are_places_not_texts(built: Path, report: dict) -> None:
    rows = [row for path in (built / "rejected").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    reasons = Counter(row["reason"] for row in rows)
    assert {reason: facts["documents"] for reason, facts in report["rejected"].items()} == reasons
    triples = {(row["source"], row["path"], row["value"], row["reason"]) for row in rows}
    for reason, facts in report["rejected"].items():
        assert 0 < len(facts["examples"]) <= 5
        assert facts["bytes"] == sum(row["size"] or 0 for row in rows if row["reason"] == reason)
        for example in facts["examples"]:
            assert set(example) == {"source", "path", "value"}
            assert (*example.values(), reason) in triples


def test_gathering_costs_less_than_a_fiftieth_of_the_blocks_time(report: dict) -> None:
    assert 0 < report["timing"]["statistics"] < 0.02 * report["timing"]["blocks"]


@pytest.fixture(scope="session")
def rows(built: Path) -> tuple[pa.Table, list[View]]:
    """The documents of val as a block, encoded again."""
    opened = ShardSet.open(built)
    views = [opened.views[name] for name in ("sentencepiece", "zstd")]
    codecs = {view.name: load_codec(built / view.folder) for view in views}
    split = opened.split("val")
    raws = sorted({split.raw(i).tobytes() for i in range(len(split))} | {b"", b"x"})
    documents = [
        Document(
            raw, "s", None, [None, "c", "python"][n % 3], None, None, {k: c.encode(raw) for k, c in codecs.items()}
        )
        for n, raw in enumerate(raws)
    ]
    return table_of(documents, views), views


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_statistics_of_parts_add_up_to_those_of_the_whole(
    rows: tuple[pa.Table, list[View]], data: st.DataObject
) -> None:
    table, views = rows
    cuts = sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=4)))
    edges = list(zip([0, *cuts], [*cuts, len(table)], strict=True))
    parts = [block_statistics(table.slice(a, b - a), views) for a, b in data.draw(st.permutations(edges))]
    assert merged(parts) == block_statistics(table, views)
    assert merged(json.loads(json.dumps(parts))) == block_statistics(table, views)


@given(st.lists(st.integers(0, 2**40)))
def test_bins_hold_each_number_between_their_starts(values: list[int]) -> None:
    bins = log2_bins(np.array(values, np.int64))
    expected = [sum(bin_start(n) <= v < bin_start(n + 1) for v in values) for n in range(len(bins))]
    assert bins == expected and sum(bins) == len(values)


def test_examples_and_values_do_not_depend_on_how_rejections_are_dealt_out(built: Path) -> None:
    rows = pa.concat_tables([pq.read_table(path) for path in (built / "rejected").glob("*.parquet")])
    whole = merged([rejection_statistics(rows)])
    mixed = rows.take(np.random.default_rng(0).permutation(len(rows)))
    assert merged([rejection_statistics(mixed.slice(0, 7)), rejection_statistics(mixed.slice(7))]) == whole


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--views", "sentencepiece:vocab=512 small=zstd:level=1,dictionary=64k gzip"],
        ["--languages", "py c", "--exclude", "*_pb2.py", "--exclude", "a b", "--max-bytes", "300k", "--keep-binary"],
        [
            "--val-fraction",
            "0.031",
            "--seed",
            "7",
            "--shard-bytes",
            "1M",
            "--sample-bytes",
            "99",
            "--sample-rate",
            "0.5",
        ],
        ["--clean"],
        ["--clean", "--rule", "longest-line=500.5", "--no-rule", "bytes", "--licences", "permissive"],
        ["--limit", "1048576", "--row-group-bytes", "3M"],
    ],
)
def test_the_command_in_the_report_asks_for_the_same_set(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    asked: list[BuildConfig] = []
    monkeypatch.setattr(pipeline.build, "build", lambda config: asked.append(config) or 0)
    main(["build", str(code), "--out", str(tmp_path / "o"), *flags])
    words = shlex.split(command_of(asked[0], [str(code)]))
    assert words[:3] == ["python", "-m", "pipeline"]
    main(words[3:])
    assert asked[1].identity() == asked[0].identity()
    assert asked[1].corpus == asked[0].corpus
