"""The model: its heads and tables by view, its independence of row neighbours."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from trainer.batch import Batch
from trainer.config import Config
from trainer.model import Model, rotate, rotation_at, table_rows
from trainer.norm import rms_norm
from trainer.train import backward


def first_batch(shard_set: ShardSet, config: Config) -> Batch:
    with loader_of(shard_set, config) as loader:
        return next(iter(loader))[0]


def test_parameter_names_are_those_of_qwen3(tiny_config: Config) -> None:
    parts = ["input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    parts += [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    expected = {f"layers.{layer}.{part}.weight" for layer in (0, 1) for part in parts} | {"norm.weight"}
    expected |= {f"{table}.{view}.weight" for table in ("embed_tokens", "lm_head") for view in (0, 1)}
    assert {name for name, _ in Model(tiny_config, [320, 576]).named_parameters()} == expected


def test_a_seed_gives_the_same_weights_and_blocks_start_as_the_identity(tiny_config: Config) -> None:
    first, second = (dict(Model(tiny_config, [320, 576]).named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(
        (first[f"layers.{i}.{part}.weight"] == 0).all()
        for i in (0, 1)
        for part in ("self_attn.o_proj", "mlp.down_proj")
    )


def test_each_position_looks_itself_up_in_its_own_table(tiny_config: Config) -> None:
    model = Model(tiny_config, [320, 576, 100])
    views = torch.tensor([[0, 1, 2, 0, 1]])
    ids = torch.tensor([[319, 575, 99, 1, 0]])
    found = model.embed(ids, views)
    for at, (view, token) in enumerate(zip(views[0].tolist(), ids[0].tolist(), strict=True)):
        table = model.embed_tokens[view].weight
        assert isinstance(table, torch.Tensor) and torch.equal(found[0, at], table[token])


def test_the_written_out_norm_equals_autograd_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 7, generator=generator, dtype=torch.float32).requires_grad_()
    gain = torch.randn(7, generator=generator).requires_grad_()
    weight = torch.randn(5, 3, 7, generator=generator)
    found = torch.autograd.grad((rms_norm(x, gain) * weight).sum(), (x, gain))
    formula = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain
    expected = torch.autograd.grad((formula * weight).sum(), (x, gain))
    torch.testing.assert_close(rms_norm(x, gain), formula)
    torch.testing.assert_close(found, expected)


def test_rotary_embedding_turns_halves_and_keeps_what_depends_on_distance() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator)
    products = []
    for begin in (0, 7, 1000):
        q_cos, q_sin = rotation_at(torch.tensor([[begin + 5]]), 8, 10000.0, torch.float32)
        k_cos, k_sin = rotation_at(torch.tensor([[begin + 2]]), 8, 10000.0, torch.float32)
        products.append((rotate(q, q_cos, q_sin) * rotate(k, k_cos, k_sin)).sum())
    torch.testing.assert_close(torch.stack(products), products[0].expand(3), atol=1e-4, rtol=1e-4)
    one = torch.zeros(1, 1, 1, 8)
    one[..., 0] = 1.0  # the first of its half turns with the first of the other half, as rotate-half does
    turned = rotate(one, *rotation_at(torch.tensor([[1]]), 8, 10000.0, torch.float32)).flatten()
    torch.testing.assert_close(turned[[0, 4]], torch.tensor([np.cos(1.0), np.sin(1.0)], dtype=torch.float32))


def test_changing_one_document_leaves_the_gradients_of_its_row_neighbours_untouched(
    tiny_set: ShardSet, tiny_config: Config
) -> None:
    batch = first_batch(tiny_set, tiny_config)
    model = Model(tiny_config, table_rows([512]))
    with torch.no_grad():  # zero projections would hide a leak
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    bounds = batch.cu_seqlens
    longest = int(np.argmax(np.diff(bounds)))
    begin, end = int(bounds[longest]), int(bounds[longest + 1])
    context = tiny_config.context
    neighbours = np.ones(batch.ids_RT.size, bool)
    neighbours[begin:end] = False
    alone = Batch(**{**vars(batch), "counted_RT": batch.counted_RT & neighbours.reshape(batch.counted_RT.shape)})
    ids = batch.ids_RT.copy()
    inside = ids.reshape(-1)[begin:end]
    inside[inside >= 64] = 64 + (inside[inside >= 64] - 64 + 1) % 256
    changed = Batch(**{**vars(alone), "ids_RT": ids})
    gradients = []
    for each in (alone, changed):
        model.zero_grad()
        nats = backward(model, each, tiny_config.batch_rows)
        gradients.append([nats, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert end - begin > context // 4
    assert all(torch.equal(before, after) for before, after in zip(*gradients, strict=True))


def test_gradients_summed_over_micro_batches_are_those_of_the_batch(tiny_set: ShardSet, tiny_config: Config) -> None:
    batch = first_batch(tiny_set, tiny_config)
    model = Model(tiny_config, table_rows([512]))
    found = []
    for rows in (4, 1):
        model.zero_grad()
        nats = backward(model, batch, rows)
        found.append([nats, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("init", ["zero", "scaled", "width"])
def test_weights_start_with_the_deviation_of_their_scheme_by_part(init: str, tie: bool, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, init=init, tie=tie, width=128, mlp=256)
    into_stream = {"scaled": 0.02 / math.sqrt(2 * 2)}.get(init, 0.0)
    for name, parameter in Model(config, [320, 576]).named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
            continue
        inputs = 32 if "o_proj" in name else 256 if "down_proj" in name else 128  # 2 heads of 16; the MLP; the width
        assert parameter.shape[1] == inputs
        expected = into_stream if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
        if init == "width" and expected:
            expected = 1 / math.sqrt(inputs)
        assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name
        assert abs(float(parameter.detach().mean())) <= 0.1 * expected, name
