"""Stacked Muon against torch's own, matrix by matrix: the same updates but for bfloat16's rounding, and its state."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.test_ranks import lines, short, under_torchrun  # noqa: F401  a fixture
from trainer import muon
from trainer.config import Config
from trainer.muon import Muon, orthogonalise
from trainer.train import train

SHAPES = [(32, 32), (64, 32), (32, 64), (16, 32), (32, 32), (64, 32), (32, 16), (1, 32)]


def torchs(weights: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(weights, lr, decay, adjust_lr_fn="match_rms_adamw")


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def update(weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, seed: int, skip: int = -1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for number, weight in enumerate(weights):
        gradient = torch.randn(weight.shape, generator=generator)
        weight.grad = None if number == skip else gradient
    optimizer.step()


@pytest.mark.parametrize("limit", [1, 5000, 1 << 18])  # one matrix at a time, two or so, all of a shape
def test_updates_and_momentum_are_those_of_torchs_muon(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(muon.STACK, "cpu", limit)
    ours, theirs = parameters(0), parameters(0)
    start = [weight.detach().clone() for weight in ours]
    one, two = Muon(ours, 0.02, 0.1), torchs(theirs, 0.02, 0.1)
    for step in range(5):
        update(ours, one, step, skip=1 if step == 2 else -1)
        update(theirs, two, step, skip=1 if step == 2 else -1)
    for before, mine, other in zip(start, ours, theirs, strict=True):
        moved = (other - before).norm()
        assert moved > 0.05 and (mine - other).norm() < 0.01 * moved, mine.shape
        assert torch.equal(one.state[mine]["momentum_buffer"], two.state[other]["momentum_buffer"])


@pytest.mark.parametrize("ends", [(Muon, torchs), (torchs, Muon)])
def test_each_goes_on_from_the_others_state(ends: tuple[Callable[..., torch.optim.Optimizer], ...]) -> None:
    weights = parameters(0)
    first = ends[0](weights, 0.02, 0.1)
    update(weights, first, 1)
    others = copy.deepcopy(weights)
    second = ends[1](others, 0.02, 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    update(weights, first, 2)
    update(others, second, 2)
    for mine, other in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3)


def test_a_stack_is_orthogonalised_matrix_by_matrix_and_singular_values_come_near_one() -> None:
    group = torch.optim.Muon([nn.Parameter(torch.zeros(2, 2))]).param_groups[0]
    x_SAB = torch.randn(4, 24, 48, generator=torch.Generator().manual_seed(0))

    def of(x: Tensor) -> Tensor:
        return orthogonalise(x, group["ns_coefficients"], group["ns_steps"], group["eps"])

    together = of(x_SAB)
    values = torch.linalg.svdvals(together)
    assert values.min() > 0.5 and values.max() < 1.3
    for alone, found in zip(x_SAB, together, strict=True):
        torch.testing.assert_close(of(alone), found, rtol=1e-4, atol=1e-5)
    assert not of(torch.zeros(1, 4, 8)).any()


@pytest.mark.slow
def test_ranks_that_hold_rows_of_the_weights_have_the_losses_of_one(short: Config, tmp_path: Path) -> None:  # noqa: F811
    alone = dataclasses.replace(short, optimizer="muon", run=str(tmp_path / "alone"))
    config = dataclasses.replace(alone, sharding="fsdp", run=str(tmp_path / "two"))
    train(alone)
    under_torchrun(config, 2)
    for found, expected in zip(lines(config), lines(alone), strict=True):
        # Newton-Schulz is done in bfloat16, which makes more of the order of sums than float32 does
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert lines(alone)[-1]["loss"] < 0.95 * lines(alone)[0]["loss"]
