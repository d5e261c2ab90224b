"""Real processes that train one model: the batches and losses of one, and checkpoints that any number goes on from.

Weights are float32 here: what differs is the order in which gradients are summed.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.errors import ByteproxyError
from tests.trainer.conftest import TINY
from trainer import checkpoint
from trainer.config import Config, make_config
from trainer.load import load_model
from trainer.train import train


def torchrun(config: Config, ranks: int) -> subprocess.CompletedProcess[str]:
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in dataclasses.asdict(config).items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "trainer", "--", "train", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def under_torchrun(config: Config, ranks: int) -> None:
    run = torchrun(config, ranks)
    assert run.returncode == 0, run.stderr[-3000:]


def lines(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]


def same_batches(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Counts to the last one, losses but for the order of sums."""
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for key in theirs:
            if key.startswith(("symbols/", "bytes/")) or key in ("documents", "unpaired", "left", "lr"):
                assert ours[key] == theirs[key], key
            elif key.startswith("loss") or key == "grad_norm":
                assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


@pytest.fixture(scope="module")
def short(tiny_folder: Path) -> Config:
    values = {"steps": 8, "checkpoint_every": 4, "eval_every": 0, "batch_rows": 5, "keep": 0, "optimizer": "adamw"}
    return make_config({**TINY, **values, "shards": str(tiny_folder)})


@pytest.fixture(scope="module")
def alone(short: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The run that others are compared with."""
    config = dataclasses.replace(short, run=str(tmp_path_factory.mktemp("alone") / "run"))
    train(config)
    return config


def state_of(config: Config) -> dict[str, Any]:
    return checkpoint.read_state(checkpoint.folder_of(Path(config.run), 8))


def result_of(config: Config) -> dict[str, Any]:
    return json.loads((Path(config.run) / "result.json").read_text())


def forget_second_half(config: Config) -> None:
    """As if the run had stopped after step 4."""
    shutil.rmtree(checkpoint.folder_of(Path(config.run), 8))
    (Path(config.run) / "result.json").unlink()


def is_like(config: Config, alone: Config) -> None:
    same_batches(lines(config), lines(alone))
    assert state_of(config)["planner"] == state_of(alone)["planner"]
    found, expected = result_of(config), result_of(alone)
    assert found["symbols"] == expected["symbols"]
    assert found["raw_bpb"] == pytest.approx(expected["raw_bpb"], rel=1e-5)


def test_two_gloo_ranks_train_from_one_ranks_state_and_the_reverse_with_the_same_losses(
    alone: Config, short: Config, tmp_path: Path
) -> None:
    for name, first, then in (("12", 1, 2), ("21", 2, 1)):
        config = dataclasses.replace(short, run=str(tmp_path / name))
        under_torchrun(config, first)
        is_like(config, alone)
        forget_second_half(config)
        under_torchrun(config, then)
        is_like(config, alone)


def test_ranks_that_hold_parts_write_checkpoints_in_parts_which_other_numbers_of_ranks_go_on_from(
    alone: Config, short: Config, tmp_path: Path
) -> None:
    # 5 rows in passes of one: a rank of two has two rows or three, one of four has one or two
    config = dataclasses.replace(short, run=str(tmp_path / "run"), sharding="fsdp", micro_rows=1, eval_every=4)
    under_torchrun(dataclasses.replace(config, background=True, recompute=True), 2)
    same_batches(lines(config), lines(alone))
    folder = checkpoint.folder_of(Path(config.run), 4)
    assert {path.name for path in folder.iterdir()} == {
        *(f"{kind}-{part}-of-2.safetensors" for kind in ("model", "optimizer") for part in (1, 2)), "state.json",
    }  # fmt: skip
    sizes = [(folder / f"optimizer-{part}-of-2.safetensors").stat().st_size for part in (1, 2)]
    assert max(sizes) < 1.1 * min(sizes)
    forget_second_half(config)
    under_torchrun(config, 4)
    is_like(config, alone)
    whole, cut = (load_model(Path(c.run), 8)[0].state_dict() for c in (alone, config))
    for (
        name,
        tensor,
    ) in whole.items():  # Adam moves a weight of about no gradient by that gradient's sign: by its rounding
        torch.testing.assert_close(cut[name], tensor, rtol=1e-3, atol=1e-4)
    shutil.rmtree(folder)
    (Path(config.run) / "result.json").unlink()
    assert train(config)["raw_bpb"] == pytest.approx(
        result_of(alone)["raw_bpb"], rel=1e-5
    )  # by one, of what four wrote


@pytest.mark.slow
def test_four_gloo_ranks_have_the_losses_of_one(alone: Config, short: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(short, run=str(tmp_path / "run"))
    under_torchrun(config, 4)
    is_like(config, alone)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["bfloat16", "powersgd"])
def test_gradients_in_bfloat16_and_by_factors_train_about_as_well(exchange: str, short: Config, tmp_path: Path) -> None:
    exact = dataclasses.replace(short, run=str(tmp_path / "exact"), steps=30, checkpoint_every=0)
    config = dataclasses.replace(exact, run=str(tmp_path / "other"), exchange=exchange)
    for each in (exact, config):
        under_torchrun(each, 2)
    ours, theirs = ([entry["loss"] for entry in lines(each)] for each in (config, exact))
    begun = 1 if exchange == "bfloat16" else 10  # steps until it makes a difference
    assert ours[:begun] == theirs[:begun] and ours[begun + 1] != theirs[begun + 1]
    assert np.mean(ours[-5:]) == pytest.approx(np.mean(theirs[-5:]), rel=0.05)


def test_a_loss_that_is_not_finite_ends_all_ranks_with_a_report(short: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(short, run=str(tmp_path / "run"), lr=1e30, clip=0.0, log_every=1)
    run = torchrun(config, 2)
    assert run.returncode and "not finite" in run.stderr
    assert len(list(Path(config.run).glob("guard-*.json"))) == 1


def test_what_ranks_cannot_share_is_refused(short: Config, tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError, match="--exchange bfloat16: with --sharding ddp only"):
        dataclasses.replace(short, sharding="fsdp", exchange="bfloat16")
    run = torchrun(dataclasses.replace(short, run=str(tmp_path / "run"), batch_rows=1), 2)
    assert run.returncode and "--batch-rows 1: at least one for each of 2 ranks expected" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_gloo_ranks_have_the_losses_of_one_in_heads_for_further_bytes_too(
    sharding: str, short: Config, tmp_path: Path
) -> None:
    alone = dataclasses.replace(short, run=str(tmp_path / "alone"), multi_byte=3, checkpoint_every=0)
    config = dataclasses.replace(alone, run=str(tmp_path / "two"), sharding=sharding)
    train(alone)
    under_torchrun(config, 2)
    same_batches(lines(config), lines(alone))
    assert all({"loss/raw+2", "loss/raw+3"} <= line.keys() for line in lines(config) + lines(alone))
    assert result_of(config)["raw_bpb"] == pytest.approx(result_of(alone)["raw_bpb"], rel=1e-5)
