"""The benchmark of training steps takes steps that train, ours and the plain loop's, on a real set."""

from pathlib import Path

import pytest

from tests.bench.train.__main__ import export, job_of, parse
from tests.bench.train.measure import measure
from tests.bench.train.shape import ROWS
from tests.sets import build_set, standard_library


@pytest.mark.parametrize("peer", ["ours", "nano"])
def test_a_row_takes_steps_and_reports_their_parts(tmp_path: Path, peer: str) -> None:
    texts = standard_library(12_000, 20)
    shards = build_set(tmp_path, texts[4:], texts[:4], "sentencepiece:vocab=512")
    arguments = ["--shards", str(shards), "--rows", "1", "--steps", "2", "--warmup", "1", "--threads", "1"]
    options = parse([*arguments, "--dtype", "float32"])
    row = next(row for row in ROWS if row.peer == peer)
    found = measure(job_of(row, "demo", options, export(shards, tmp_path / "text.bin")))
    assert found["step_s"] > 0 and {"data", "forward", "backward", "optimizer"} <= found["parts"].keys()
    assert sum(found["parts"].values()) > 0 and 0 < found["bytes"] <= 512
    assert (found["waited_share"] is not None) == (peer == "ours")
