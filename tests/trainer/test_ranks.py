"""Two real processes that train one model: the same batches as one, and checkpoints that either goes on from."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.config import Config
from trainer.train import train


def under_torchrun(config: Config, ranks: int) -> None:
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in dataclasses.asdict(config).items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    run = subprocess.run([*command, "-m", "trainer", "--", "train", *flags], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def lines(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]


def same_batches(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Counts to the last one, losses but for the order of sums."""
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for key in theirs:
            if key.startswith(("symbols/", "bytes/")) or key in ("documents", "unpaired", "lr"):
                assert ours[key] == theirs[key], key
            elif key.startswith("loss") or key == "grad_norm":
                assert ours[key] == pytest.approx(theirs[key], rel=2e-4), key


@pytest.fixture(scope="module")
def short(tiny_folder: Path) -> dict[str, object]:
    return {"steps": 8, "checkpoint_every": 4, "eval_every": 0, "batch_rows": 5, "keep": 0, "optimizer": "adamw"}


def test_two_gloo_ranks_train_from_one_ranks_state_and_the_reverse_with_the_same_batches(
    tiny_config: Config, short: dict[str, object], tmp_path: Path
) -> None:
    base = dataclasses.replace(tiny_config, **short)  # type: ignore[arg-type]
    alone, one_two, two_one = (dataclasses.replace(base, run=str(tmp_path / name)) for name in ("1", "12", "21"))
    train(alone)
    expected = lines(alone)
    for config, first, then in ((one_two, 1, 2), (two_one, 2, 1)):
        under_torchrun(config, first)
        assert len(lines(config)) == 8
        for path in (Path(config.run) / "checkpoints" / "step_00000008", Path(config.run) / "result.json"):
            subprocess.run(["rm", "-r", str(path)], check=True)  # as if it had stopped after step 4
        under_torchrun(config, then)
        same_batches(lines(config), expected)
        state = json.loads((Path(config.run) / "checkpoints" / "step_00000008" / "state.json").read_text())
        reference = json.loads((Path(alone.run) / "checkpoints" / "step_00000008" / "state.json").read_text())
        assert state["planner"] == reference["planner"]
        result = json.loads((Path(config.run) / "result.json").read_text())
        assert result["symbols"] == json.loads((Path(alone.run) / "result.json").read_text())["symbols"]
        assert np.isfinite(result["raw_bpb"])
