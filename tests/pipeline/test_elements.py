"""A corpus of any size makes a small job: its work items lie in scratch, and change nothing."""

from pathlib import Path

import apache_beam as beam
import pytest

from pipeline import graph
from pipeline.config import BuildConfig, parse_views
from pipeline.reading.inputs import Inventory
from pipeline.reading.items import Files, Lines
from pipeline.reading.languages import DEFAULT
from pipeline.running import elements
from pipeline.running.scratch import Scratch
from tests.pipeline.conftest import digests, run_build


def test_elements_that_lie_in_scratch_give_the_same_set(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_build(code, tmp_path / "inline", "--block-bytes", "64k") == 0
    monkeypatch.setattr(elements, "INLINE_BYTES", 0)
    monkeypatch.setattr(elements, "PART_BYTES", 50)
    assert run_build(code, tmp_path / "apart", "--block-bytes", "64k") == 0
    assert digests(tmp_path / "inline") == digests(tmp_path / "apart")


def test_the_description_of_a_job_over_terabytes_is_small(tmp_path: Path) -> None:
    names = [f"folder/of/some/length/{number}.py".encode() for number in range(512)]
    files = [Files("code", b"gs://bucket/code", names, 1)] * 100
    lines = [Lines("more.jsonl", b"gs://bucket/more.jsonl", n << 23, (n + 1) << 23) for n in range(50_000)]
    config = BuildConfig(("gs://bucket/code",), tmp_path, parse_views("zstd"), DEFAULT)
    root = beam.Pipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    graph.survey(root, Inventory(files, lines), config, Scratch(tmp_path))
    assert root.to_runner_api().ByteSize() < 1 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "items").iterdir()) > 3 << 20
