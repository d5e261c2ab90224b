"""Checkpoints: whole or not there; what is not this model's, or was changed, is refused with a reason."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shards.errors import ByteproxyError
from trainer import checkpoint
from trainer.config import Config
from trainer.train import train

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, step, TENSORS, {"a.step": torch.tensor(float(step))}, {"planner": {"step": step}})
    return tmp_path


def test_what_was_saved_comes_back(run: Path) -> None:
    folder = checkpoint.folder_of(run, 4)
    assert folder.name == "step_00000004" and checkpoint.steps_of(run) == [2, 4, 6]
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert checkpoint.read_state(folder)["planner"] == {"step": 4}
    found = checkpoint.read_tensors(folder, checkpoint.MODEL, TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_pruning_keeps_the_last_and_zero_keeps_all(run: Path) -> None:
    checkpoint.prune(run, 0)
    assert checkpoint.steps_of(run) == [2, 4, 6]
    checkpoint.prune(run, 2)
    assert checkpoint.steps_of(run) == [4, 6]
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_checkpoints_at_multiples_of_keep_every_stay_also_of_a_run_that_is_resumed(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, checkpoint_every=2, keep=1, keep_every=4, eval_every=0, steps=10)
    run = Path(config.run)
    train(config)
    assert checkpoint.steps_of(run) == [4, 8, 10]
    for step in (8, 10):  # as if it had been killed behind step 4
        shutil.rmtree(checkpoint.folder_of(run, step))
    train(dataclasses.replace(config, keep_every=6))  # may be changed; from then on, 4 is like any other
    assert checkpoint.steps_of(run) == [6, 10]


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER])
@pytest.mark.parametrize("where", [0.05, 0.5, 0.99])
def test_a_flipped_bit_anywhere_is_refused(run: Path, name: str, where: float) -> None:
    folder = checkpoint.folder_of(run, 6)
    data = bytearray((folder / name).read_bytes())
    data[int(len(data) * where)] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ByteproxyError, match="checksum") as error:
        checkpoint.read_tensors(folder, name, {})
    assert name in str(error.value) and "go on from the one before" in str(error.value)


def test_a_file_cut_short_missing_or_of_another_kind_is_refused(run: Path) -> None:
    folder = checkpoint.folder_of(run, 6)
    for damage, message in (
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "checksum"),
        (lambda path: path.unlink(), "missing"),
    ):
        target = run / "copy"
        shutil.copytree(folder, target)
        damage(target / checkpoint.MODEL)
        with pytest.raises(ByteproxyError, match=message):
            checkpoint.read_tensors(target, checkpoint.MODEL, TENSORS)
        shutil.rmtree(target)
    for text, message in (("{", "not valid JSON"), ("[]", "format 'list'"), ('{"format": 99}', "format 99")):
        (folder / checkpoint.STATE).write_text(text)
        with pytest.raises(ByteproxyError, match=message):
            checkpoint.read_state(folder)
    (folder / checkpoint.STATE).unlink()
    with pytest.raises(ByteproxyError, match="is no checkpoint"):
        checkpoint.read_state(folder)


def test_a_pickle_in_the_place_of_tensors_is_refused_and_not_run(run: Path) -> None:
    folder = checkpoint.folder_of(run, 6)
    torch.save(TENSORS, folder / checkpoint.MODEL)
    body = json.loads((folder / checkpoint.STATE).read_text())
    body["xxh3"][checkpoint.MODEL] = checkpoint.digest_of(folder / checkpoint.MODEL)
    (folder / checkpoint.STATE).write_text(json.dumps(body))
    with pytest.raises(ByteproxyError, match="not a valid file of tensors"):
        checkpoint.read_tensors(folder, checkpoint.MODEL, TENSORS)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"a": torch.zeros(3, 2), "b": torch.ones(4)},
            r"tensor a: torch.float32 \[2, 3\] found, torch.float32 \[3, 2\]",
        ),
        ({"a": TENSORS["a"]}, r"tensor b: torch.float32 \[4\] found, none expected"),
        ({**TENSORS, "c": torch.ones(1)}, r"tensor c: none found, torch.float32 \[1\] expected"),
        ({"a": TENSORS["a"], "b": torch.ones(4).double()}, r"tensor b: torch.float32 \[4\] found, torch.float64"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_tensor(
    run: Path, expected: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ByteproxyError, match=message):
        checkpoint.read_tensors(checkpoint.folder_of(run, 6), checkpoint.MODEL, expected)


def test_a_failed_save_leaves_what_was_there_and_nothing_else(run: Path) -> None:
    class Broken(dict[str, torch.Tensor]):
        def items(self):  # type: ignore[no-untyped-def]
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        checkpoint.save(run, 8, TENSORS, Broken(), {})
    assert checkpoint.steps_of(run) == [2, 4, 6] and len(list((run / "checkpoints").iterdir())) == 3


def test_taking_the_lock_removes_half_written_checkpoints_and_refuses_a_second_taker(run: Path) -> None:
    half = run / "checkpoints" / ".tmp-step_00000008-123"
    half.mkdir()
    (half / checkpoint.MODEL).write_bytes(b"half")
    take = "import sys, pathlib, trainer.checkpoint as c\nwith c.locked(pathlib.Path(sys.argv[1])): pass"
    with checkpoint.locked(run):
        assert not half.exists() and checkpoint.steps_of(run) == [2, 4, 6]
        with pytest.raises(ByteproxyError, match="is being trained by another process"), checkpoint.locked(run):
            pass
        other = subprocess.run([sys.executable, "-c", take, str(run)], capture_output=True, text=True, timeout=120)
        assert other.returncode and "is being trained by another process" in other.stderr
    assert subprocess.run([sys.executable, "-c", take, str(run)], timeout=120).returncode == 0
