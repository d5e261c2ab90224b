"""Checkpoints written beside training: the same as those written at once, through errors and through kills."""

import dataclasses
import json
import random
import subprocess
import time
from pathlib import Path

import pytest
import torch

from shards.errors import ByteproxyError
from tests.trainer.test_train import arguments, assert_same_run
from trainer import checkpoint
from trainer.config import Config
from trainer.distributed import ALONE
from trainer.saving import Saver
from trainer.train import train


@pytest.fixture(scope="module")
def reference(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run left alone, that wrote its checkpoints at once."""
    from tests.trainer.conftest import TINY
    from trainer.config import make_config

    config = make_config({**TINY, "shards": str(tiny_folder), "run": str(tmp_path_factory.mktemp("reference") / "run")})
    train(config)
    return config


def test_a_checkpoint_written_beside_training_holds_the_weights_of_its_own_step(
    reference: Config, tmp_path: Path
) -> None:
    config = dataclasses.replace(reference, run=str(tmp_path / "run"), background=True, checkpoint_every=2, keep=0)
    train(config)
    assert_same_run(config, reference)
    assert checkpoint.steps_of(Path(config.run)) == [2, 4, 6, 8, 10, 12]
    for step in (8, 12):  # the steps that the reference has kept
        folders = [checkpoint.folder_of(Path(each.run), step) for each in (config, reference)]
        sums = [checkpoint.read_state(folder)["xxh3"] for folder in folders]
        assert sums[0] == sums[1]


def test_the_copy_is_taken_when_save_is_called_and_one_is_written_at_a_time(tiny_config: Config) -> None:
    run = Path(tiny_config.run)
    (run / "checkpoints").mkdir(parents=True)
    weight = torch.zeros(1 << 20)
    with Saver(run, dataclasses.replace(tiny_config, background=True, keep=0), ALONE) as saver:
        for step in range(1, 5):
            weight.fill_(step)
            saver.save(step, {"w": weight}, {}, {})
            assert len(list((run / "checkpoints").glob(".tmp*"))) <= 1
        weight.fill_(-1)
    for step in range(1, 5):
        found = checkpoint.read_tensors(checkpoint.folder_of(run, step), checkpoint.MODEL, {"w": weight})
        assert (found["w"] == step).all()


def test_what_goes_wrong_beside_training_is_raised_by_the_next_save_or_at_the_end(tiny_config: Config) -> None:
    run = Path(tiny_config.run)  # has no folder for checkpoints: each write fails
    config = dataclasses.replace(tiny_config, background=True)
    with pytest.raises(FileNotFoundError), Saver(run, config, ALONE) as saver:
        saver.save(1, {"w": torch.zeros(1)}, {}, {})
        with pytest.raises(FileNotFoundError):
            saver.save(2, {"w": torch.zeros(1)}, {}, {})
        saver.save(2, {"w": torch.zeros(1)}, {}, {})


def test_of_a_checkpoint_in_parts_every_part_is_checked(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    whole = torch.arange(10.0).view(5, 2)
    state = {"w": whole, "n.step": torch.tensor(3.0)}
    for part in (1, 0):  # the first waits for the other
        own = {"w": whole[3:]} if part else {"w": whole[:3], "n.step": state["n.step"]}
        folder = checkpoint.save(tmp_path, 7, own, own, {"views": ["raw"]}, part, 2)
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        found = checkpoint.read_tensors(folder, name, state)
        assert all(torch.equal(found[key], state[key]) for key in state)
    second = folder / "model-2-of-2.safetensors"
    damaged = bytearray(second.read_bytes())
    damaged[-1] ^= 1
    second.write_bytes(damaged)
    with pytest.raises(ByteproxyError, match=r"model-2-of-2.safetensors: checksum"):
        checkpoint.read_tensors(folder, checkpoint.MODEL, state)
    second.unlink()
    with pytest.raises(ByteproxyError, match=r"model-2-of-2.safetensors is missing"):
        checkpoint.read_tensors(folder, checkpoint.MODEL, state)


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_killed_at_random_moments_a_run_ends_bit_for_bit_alike(
    background: bool, reference: Config, tmp_path: Path
) -> None:
    config = dataclasses.replace(reference, run=str(tmp_path / "run"), background=background)
    # checkpoints at every step: about half of the time is spent in writing one
    command = arguments(config, checkpoint_every=1, keep=1, log_every=1)
    draw, kills, within = random.Random(background), 0, 0
    while not (Path(config.run) / "result.json").exists():
        begun = {path.name for path in Path(config.run).glob("checkpoints/step_*")}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        patience, moving = time.monotonic() + 120, False
        while process.poll() is None and not moving and time.monotonic() < patience:
            time.sleep(0.001)
            moving = {path.name for path in Path(config.run).glob("checkpoints/step_*")} != begun  # it has gone on
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        errors = process.communicate()[1]
        assert b"Error" not in errors, errors.decode()
        kills += 1
        within += any(Path(config.run).glob("checkpoints/.tmp*"))
        assert kills < 60
    train(config)
    assert kills >= 4 and within >= 1
    assert_same_run(config, reference)
    assert json.loads((Path(config.run) / "result.json").read_text())["step"] == 12
