"""Compiled blocks: compiled in the first step, then never again, and the losses of a run that is not compiled.

Slow for the compiler: these take a minute or so.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.conftest import TINY
from tests.trainer.loading import loader_of
from tests.trainer.test_ranks import lines, result_of, under_torchrun
from trainer import checkpoint
from trainer.config import Config, make_config
from trainer.model import Model, table_rows
from trainer.runtime import Compilation, compile_blocks
from trainer.train import backward, train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")]


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Config:
    """All phases of a recipe over two views, in passes of fewer rows, with evaluations between."""
    values = {"views": "sentencepiece:0.6,gzip:0.4", "pairs": 0.1, "layers": 3, "batch_rows": 6, "micro_rows": 2,
              "eval_every": 3, "compile": "on", "keep": 0}  # fmt: skip
    return make_config({**TINY, **values, "shards": str(tiny_folder), "run": str(tmp_path / "run")})


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()
    counters.clear()


def compiled_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def losses_are_alike(config: Config, eager: Config) -> None:
    ours, theirs = lines(config), lines(eager)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs] == list(range(1, config.steps + 1))
    for found, expected in zip(ours, theirs, strict=True):
        for key in expected:
            if key.startswith(("loss", "val_bpb")):
                assert found[key] == pytest.approx(expected[key], rel=1e-4), (found["step"], key)


def test_a_run_compiles_each_phase_once_for_all_layers_and_has_the_losses_of_an_eager_one(
    config: Config, tmp_path: Path
) -> None:
    eager = dataclasses.replace(config, run=str(tmp_path / "eager"), compile="off")
    train(eager)
    assert compiled_graphs() == 0
    train(config)  # a compilation after a phase's first use would have raised
    assert compiled_graphs() == 2  # forward with gradients, and without: whatever the number of layers
    losses_are_alike(config, eager)
    for step in (12, 8):
        shutil.rmtree(checkpoint.folder_of(Path(config.run), step))
    (Path(config.run) / "result.json").unlink()
    train(config)  # on from step 4
    losses_are_alike(config, eager)
    assert result_of(config)["raw_bpb"] == pytest.approx(result_of(eager)["raw_bpb"], rel=1e-4)


def test_another_shape_after_the_first_step_is_an_error_that_names_it(config: Config, tiny_set: ShardSet) -> None:
    config = dataclasses.replace(config, views="")
    model, compilation = Model(config, table_rows([512])), Compilation(config)
    compile_blocks(model, config)
    with loader_of(tiny_set, config) as loader:
        batch = next(iter(loader))[0]
    for _ in range(2):
        with compilation.phase("training"):
            backward(model, batch, config.pass_rows)
    message = r"training had to be compiled again(?s:.*)size(?s:.*)--compile off"
    with pytest.raises(ByteproxyError, match=message), compilation.phase("training"):
        backward(model, batch, 1)
    with compilation.phase("training"):  # and the next step of the right shape is none
        backward(model, batch, config.pass_rows)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_ranks_whose_passes_have_different_rows_compile_in_the_first_step_alone(
    sharding: str, config: Config, tmp_path: Path
) -> None:
    # 6 rows on 2 ranks in passes of 2: each has a pass of two rows and one of a single row
    config = dataclasses.replace(config, sharding=sharding, steps=6, eval_every=2, checkpoint_every=0)
    eager = dataclasses.replace(config, run=str(tmp_path / "eager"), compile="off")
    train(eager)
    under_torchrun(config, 2)
    losses_are_alike(config, eager)
