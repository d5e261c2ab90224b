"""Learning rates as functions of the step; which parameters decay."""

import dataclasses
import itertools
import math

import pytest
import torch

from trainer.config import Config, make_config
from trainer.model import Model
from trainer.optim import (
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    make_optimizers,
    optimizer_tensors,
    set_learning_rate,
)


def rates(schedule: str) -> list[float]:
    config = make_config(
        {"schedule": schedule, "steps": 100, "warmup_steps": 10, "decay": 0.4, "lr": 1.0, "lr_floor": 0.1}
    )
    return [learning_rate(config, step) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_rate_warms_up_linearly_peaks_and_never_rises_again(schedule: str) -> None:
    found = rates(schedule)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(found) == pytest.approx(1.0) and found[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))
    assert 0.1 <= found[-1] < 0.13


def test_cosine_is_halfway_down_in_the_middle() -> None:
    assert rates("cosine")[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)


def test_wsd_holds_the_peak_and_then_falls_linearly() -> None:
    found = rates("wsd")
    assert found[10:61] == pytest.approx([1.0] * 51)
    assert found[80] == pytest.approx(0.1 + 0.9 * 20 / 40)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_of_the_body_decay(name: str, tiny_config: Config) -> None:
    model = Model(tiny_config, [320, 576])
    optimizers = make_optimizers(model, dataclasses.replace(tiny_config, optimizer=name))
    groups = [(type(o).__name__, group) for o in optimizers for group in o.param_groups]
    found = {id(p): (kind, group["weight_decay"]) for kind, group in groups for p in group["params"]}
    assert sum(len(group["params"]) for _, group in groups) == len(found) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        matrix = parameter_name.startswith("layers.") and "norm" not in parameter_name
        kind = "Muon" if matrix and name == "muon" else "AdamW"
        assert found[id(parameter)] == (kind, 0.1 if matrix else 0.0), parameter_name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_that_is_saved_and_loaded_updates_alike_bit_for_bit(name: str, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, optimizer=name)
    first, second = Model(config, [320]), Model(config, [320])
    one, two = make_optimizers(first, config), make_optimizers(second, config)
    empty = optimizer_tensors(first, one)

    def update(model: Model, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        set_learning_rate(optimizers, 0.01)
        for optimizer in optimizers:
            optimizer.step()

    update(first, one, 1)
    saved = {key: tensor.clone() for key, tensor in optimizer_tensors(first, one).items()}
    assert {key: tensor.shape for key, tensor in saved.items()} == {key: tensor.shape for key, tensor in empty.items()}
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(second, two, saved)
    update(first, one, 2)
    update(second, two, 2)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_clipping_scales_to_the_limit_and_zero_leaves_gradients_alone() -> None:
    layer = torch.nn.Linear(3, 3, bias=False)
    for limit, expected in ((1.0, 1.0), (0.0, 6.0)):
        layer.weight.grad = torch.full((3, 3), 2.0)
        assert float(clip_gradients(layer, limit)) == pytest.approx(6.0)
        assert float(layer.weight.grad.norm()) == pytest.approx(expected)
