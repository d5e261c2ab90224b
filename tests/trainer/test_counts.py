"""Parameters, FLOPs and memory: by hand for one small config, and against a real model and its optimizers."""

import dataclasses

import pytest
import torch

from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from trainer.config import Config, make_config
from trainer.counts import count_parameters, describe_counts, flops_by_part, memory_bytes, most_flops, training_flops
from trainer.loss import SHAPE_STEP
from trainer.model import Model, table_rows
from trainer.optim import make_optimizers, optimizer_tensors
from trainer.presets import PRESETS
from trainer.train import backward, train

TABLES = [320, 576]
# of `tiny_config`: width 32, 2 query heads and 1 key head of 16, MLP 64, 2 layers, 4 rows of 272
MATRICES = 2 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 64)
GAINS = 2 * (16 + 16 + 32 + 32) + 32
TABLE = (320 + 576) * 32


def test_parameters_count_as_by_hand(tiny_config: Config) -> None:
    assert table_rows([512]) == [64 + 256, 64 + 512] == TABLES
    expected = {"body": MATRICES + GAINS, "embeddings": TABLE, "heads": TABLE}
    assert count_parameters(tiny_config, TABLES) == expected
    assert sum(p.numel() for p in Model(tiny_config, TABLES).parameters()) == sum(expected.values())


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("5m", 4.5, 5.5), ("25m", 23, 27), ("100m", 95, 105), ("500m", 475, 525),
     ("lm-1m", 0.95, 1.1), ("lm-3m", 2.85, 3.15), ("lm-40m", 38, 42)],
)  # fmt: skip
def test_presets_have_bodies_of_the_size_they_are_named_for(preset: str, low: float, high: float) -> None:
    assert set(PRESETS) == {"demo", "5m", "25m", "100m", "500m", "lm-1m", "lm-3m", "lm-40m"}
    assert low < count_parameters(make_config({"preset": preset}), [320])["body"] / 1e6 < high


def test_flops_are_those_counted_by_hand(tiny_config: Config) -> None:
    # forward, a weight is one multiplication and one addition a position; backward costs twice that
    positions = 4 * 272
    causal = 2 * 2 * (2 * 16) * 272 // 2  # scores and sums over values, 2 FLOPs each, over half of the square
    expected = {"body": 3 * 2 * MATRICES * positions, "attention": 3 * causal * positions * 2}
    heads = 3 * 2 * 32 * (700 * 320 + 300 * 576)
    assert flops_by_part(vars(tiny_config), TABLES, [700, 300]) == expected | {"heads": heads}
    assert training_flops(vars(tiny_config), TABLES, [700, 300]) == sum(expected.values()) + heads
    assert most_flops(tiny_config, TABLES) == expected | {"heads": 3 * 2 * 32 * positions * 576}


def test_flops_of_the_body_are_those_that_torch_counts(tiny_set: ShardSet, tiny_config: Config) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with loader_of(tiny_set, tiny_config) as loader:
        batch = next(iter(loader))[0]
    model = Model(tiny_config, TABLES)
    with FlopCounterMode(display=False) as counter:
        backward(model, batch, tiny_config.batch_rows)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "attention" not in str(operation))
    flops = flops_by_part(vars(tiny_config), TABLES, batch.symbols.tolist())
    # counted targets are padded for the head to a multiple, of each view: a little more than the formula's
    padded = [-(-targets // SHAPE_STEP) * SHAPE_STEP for targets in batch.symbols.tolist()]
    most = flops_by_part(vars(tiny_config), TABLES, padded)
    assert flops["body"] + flops["heads"] <= products < 1.01 * (most["body"] + most["heads"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_memory_is_that_of_a_model_and_its_optimizers(optimizer: str, tiny_set: ShardSet, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, optimizer=optimizer)
    total = MATRICES + GAINS + 2 * TABLE
    moments = 2 * total if optimizer == "adamw" else MATRICES + 2 * (GAINS + 2 * TABLE)
    expected = {"weights": 4 * total, "gradients": 4 * total, "optimizer": 4 * moments}
    assert memory_bytes(config, TABLES) == expected

    with loader_of(tiny_set, config) as loader:
        batch = next(iter(loader))[0]
    model = Model(config, TABLES)
    optimizers = make_optimizers(model, config)
    backward(model, batch, config.batch_rows)
    for each in optimizers:
        each.step()
    parameters = list(model.parameters())
    state = [tensor for tensor in optimizer_tensors(model, optimizers).values() if tensor.dim()]  # not its counters

    def size(tensors: list[torch.Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    found = {"weights": size(parameters), "gradients": size([p.grad for p in parameters if p.grad is not None])}
    assert found | {"optimizer": size(state)} == expected


def test_a_run_says_before_its_first_step_what_it_costs(
    tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dataclasses.replace(tiny_config, mode="bytes", steps=1, eval_every=0))
    shown = capsys.readouterr().out.split("step 1/1")[0]
    lines = describe_counts(tiny_config, [320])
    assert all(line in shown for line in lines) and "FLOPs a step" in lines[0] and "MB of memory" in lines[1]
