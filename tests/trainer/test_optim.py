"""Learning rates as functions of the step; which parameters decay."""

import itertools
import math

import pytest
import torch

from trainer.config import Config, make_config
from trainer.model import Model
from trainer.optim import clip_gradients, learning_rate, make_optimizer


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


def test_only_matrices_of_the_body_decay(tiny_config: Config) -> None:
    model = Model(tiny_config, [320, 576])
    optimizer = make_optimizer(model, tiny_config)
    by_id = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.1 if name.startswith("layers.") and "norm" not in name else 0.0
        assert by_id[id(parameter)] == expected, name


def test_clipping_scales_to_the_limit_and_zero_leaves_gradients_alone() -> None:
    layer = torch.nn.Linear(3, 3, bias=False)
    for limit, expected in ((1.0, 1.0), (0.0, 6.0)):
        layer.weight.grad = torch.full((3, 3), 2.0)
        assert float(clip_gradients(layer, limit)) == pytest.approx(6.0)
        assert float(layer.weight.grad.norm()) == pytest.approx(expected)
