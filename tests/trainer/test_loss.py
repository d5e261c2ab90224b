"""The loss: nats by view equal a plain cross-entropy over the counted positions, with the same gradients."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import trainer.loss as loss
from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from trainer.config import Config
from trainer.metrics import step_figures
from trainer.model import Model, table_rows
from trainer.train import backward


def test_chunked_head_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 7 * 30})
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 8, generator=generator), torch.randn(30, 8, generator=generator)
    targets = torch.randint(0, 30, (50,), generator=generator)
    x.requires_grad_(), weight.requires_grad_()
    found = loss.summed_nats(x, weight, targets)
    expected = nn.functional.cross_entropy(x @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found * 0.25, (x, weight)), torch.autograd.grad(expected * 0.25, (x, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("z_loss", [1e-4, 0.3])
def test_z_loss_is_in_the_gradients_and_not_in_the_figure(monkeypatch: pytest.MonkeyPatch, z_loss: float) -> None:
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 7 * 30})
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 8, generator=generator), torch.randn(30, 8, generator=generator)
    targets = torch.randint(0, 30, (50,), generator=generator)
    found = loss.summed_nats(x.requires_grad_(), weight.requires_grad_(), targets, z_loss)
    logits = x.double() @ weight.double().T
    nats = nn.functional.cross_entropy(logits, targets, reduction="sum")
    formula = nats + z_loss * logits.exp().sum(-1).log().square().sum()
    assert torch.equal(found, loss.summed_nats(x, weight, targets))
    torch.testing.assert_close(found.double(), nats, rtol=1e-6, atol=0)
    mine, theirs = torch.autograd.grad(found * 0.25, (x, weight)), torch.autograd.grad(formula * 0.25, (x, weight))
    torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def test_a_config_with_z_loss_adds_it_for_every_counted_target_of_each_view(
    tiny_set: ShardSet, tiny_config: Config
) -> None:
    with loader_of(tiny_set, tiny_config) as loader:
        batch = next(iter(loader))[0]
    plain, with_z = (Model(dataclasses.replace(tiny_config, z_loss=weight), table_rows([512])) for weight in (0.0, 0.5))
    assert torch.equal(*(backward(model, batch, 2) for model in (plain, with_z)))
    # the blocks are the identity as yet: see the test below
    views, ids = torch.from_numpy(batch.views_RT).long(), torch.from_numpy(batch.ids_RT).long()
    x, counted = plain.norm(plain.embed(ids, views)), torch.from_numpy(batch.counted_RT)
    for view in (0, 1):
        totals = plain.logits(x[counted & (views == view)], view).logsumexp(-1)
        (0.5 * totals.square().sum() / int(batch.symbols.sum())).backward(retain_graph=True)
    for name in ("lm_head.0.weight", "lm_head.1.weight", "embed_tokens.0.weight", "embed_tokens.1.weight"):
        expected, found = plain.get_parameter(name).grad, with_z.get_parameter(name).grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_no_position_of_a_view_costs_no_nats_and_gives_zero_gradients() -> None:
    weight = torch.randn(30, 8).requires_grad_()
    nats = loss.summed_nats(torch.empty(0, 8), weight, torch.empty(0, dtype=torch.long))
    nats.backward()
    assert nats.item() == 0.0 and weight.grad is not None and not weight.grad.any()


def test_each_counted_target_is_scored_by_the_head_of_its_input_and_once(
    tiny_set: ShardSet, tiny_config: Config
) -> None:
    with loader_of(tiny_set, tiny_config) as loader:
        batch = next(iter(loader))[0]
    model = Model(tiny_config, table_rows([512]))
    nats = backward(model, batch, tiny_config.batch_rows)
    # at the start every block is the identity: the stream is the normalised embedding, position by position
    views, ids = torch.from_numpy(batch.views_RT).long(), torch.from_numpy(batch.ids_RT).long()
    with torch.no_grad():
        x = model.norm(model.embed(ids, views))
    expected = np.zeros(2)
    for row, at in zip(*np.nonzero(batch.counted_RT), strict=True):
        view, target = int(batch.views_RT[row, at]), int(batch.targets_RT[row, at])
        with torch.no_grad():
            expected[view] -= float(model.logits(x[row, at], view).log_softmax(-1)[target])
    np.testing.assert_allclose(nats.numpy(), expected, rtol=1e-5)
    assert batch.symbols.sum() == batch.counted_RT.sum() and (batch.symbols > 0).all()


def test_figures_by_view_add_up_to_the_loss_and_bits_are_of_raw_bytes() -> None:
    figures = step_figures(["raw", "sp"], np.array([100, 50]), np.array([90, 160]), [200.0, 300.0])
    assert figures["loss"] == pytest.approx(500 / 150)
    assert (figures["loss/raw"], figures["loss/sp"]) == (2.0, 6.0)
    assert figures["bpb/sp"] == pytest.approx(300 / np.log(2) / 160)
    empty = step_figures(["raw", "sp"], np.array([100, 0]), np.array([90, 0]), [200.0, 0.0])
    assert "loss/sp" not in empty and "bpb/sp" not in empty
