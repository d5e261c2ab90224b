"""Beam's counters, which a runner shows while a job runs: they are the figures of the set."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import build
from pipeline.running import runner
from pipeline.running.counters import counted
from shards.reader import ShardSet
from tests.pipeline.conftest import run_build


def test_counters_of_both_graphs_are_the_figures_of_the_set(
    troubled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[dict[str, Any]] = []
    monkeypatch.setattr(build, "run_graph", lambda *given: results.append(counted(runner.run_graph(*given))))
    monkeypatch.setattr(build, "SURVEY_ALONE", 0)  # so that worker processes count here, too
    flags = ("--max-bytes", "100k", "--workers", "2", "--sample-rate", "0.8", "--block-bytes", "64k")
    assert run_build(troubled, tmp_path / "set", *flags, views="zstd gzip") == 0
    survey, encode = results
    manifest = ShardSet.open(tmp_path / "set").manifest
    counts, files = manifest.counts, [shard for files in manifest.splits.values() for shard in files]
    rejected = [row for file in manifest.rejected for row in pq.read_table(tmp_path / "set" / file.path).to_pylist()]
    reasons = Counter(f"rejected/{row['reason'].replace(' ', '_')}" for row in rejected)
    assert {name: number for name, number in survey.items() if name.startswith("rejected/")} == reasons
    assert {"rejected/not_sampled", "rejected/duplicate", "rejected/symlink", "rejected/too_large"} <= reasons.keys()
    later = [row for row in rejected if row["reason"] in ("duplicate", "not sampled")]
    assert survey["survey/documents"] == counts["documents"] + len(later)
    assert survey["survey/bytes"] == counts["bytes"] + sum(row["size"] for row in later)
    number, total, least, most = survey["survey/document_bytes"]
    assert (number, total, least) == (survey["survey/documents"], survey["survey/bytes"], 0) and most <= 100 << 10
    listed = [row for row in rejected if row["reason"] in ("symlink", "not a regular file")]
    assert survey["survey/found"] == counts["found"] - len(listed)
    assert encode["encode/documents"] == counts["documents"] and encode["encode/bytes"] == counts["bytes"]
    assert (
        encode["encode/shards"] == len(files) and encode["encode/blocks"] == encode["encode/block_milliseconds"][0] > 2
    )
    for view in ("zstd", "gzip"):
        assert encode[f"encode/{view}_bytes"] == sum(shard.symbols[view] for shard in files)
