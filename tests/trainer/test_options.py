"""Options of the model: the joint softmax against the split heads, tied tables, no norm of queries and keys."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.loading import loader_of, views_of
from trainer.config import Config
from trainer.counts import count_parameters, flops_by_part
from trainer.export import export
from trainer.feed import rows_of
from trainer.load import load_model
from trainer.loss import nats_by_view
from trainer.model import Model, table_rows
from trainer.train import backward, train

TABLES = table_rows([100, 40])


def positions(width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_NW, views, targets and which are counted, of all three views."""
    generator = torch.Generator().manual_seed(3)
    views = torch.randint(0, 3, (90,), generator=generator)
    targets = (torch.rand(90, generator=generator) * torch.tensor(TABLES)[views]).long()
    counted = torch.rand(90, generator=generator) < 0.8
    return torch.randn(90, width, generator=generator), views, targets, counted


def joint_reference(model: Model, masked: bool) -> Tensor:
    """Nats by view by plain cross-entropy over the logits of all tables; `masked`: -inf outside the active view."""
    x, views, targets, counted = positions(model.config.width)
    logits = x @ torch.cat(model.heads()).T
    view_of_row = torch.repeat_interleave(torch.arange(3), torch.tensor(TABLES))
    if masked:
        logits = logits.masked_fill(view_of_row != views[:, None], float("-inf"))
    first = torch.tensor([0, TABLES[0], TABLES[0] + TABLES[1]])
    nats = nn.functional.cross_entropy(logits, targets + first[views], reduction="none")
    return torch.stack([nats[counted & (views == view)].sum() for view in range(3)])


def gradients(nats: Tensor, model: Model) -> list[Tensor]:
    return list(torch.autograd.grad(nats.sum(), [head.weight for head in model.lm_head]))  # type: ignore[misc]


def test_the_joint_head_is_one_softmax_and_masked_to_the_active_view_it_is_the_split_heads(tiny_config: Config) -> None:
    split = Model(tiny_config, TABLES)
    joint = Model(dataclasses.replace(tiny_config, joint_head=True), TABLES)
    found = {name: nats_by_view(model, *positions(32)) for name, model in (("split", split), ("joint", joint))}
    for name, model, masked in (("split", split, True), ("joint", joint, False)):
        expected = joint_reference(model, masked)
        torch.testing.assert_close(found[name], expected)
        for mine, theirs in zip(gradients(found[name], model), gradients(expected, model), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert (found["joint"] > found["split"]).all()  # more to choose from


@pytest.mark.parametrize(
    "change", [{"tie": True}, {"qk_norm": False}, {"joint_head": True}, {"tie": True, "joint_head": True}]
)
def test_a_model_with_the_option_trains_counts_and_resumes(change: dict[str, Any], tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, steps=6, checkpoint_every=3, eval_every=0, **change)
    result = train(config)
    assert 1 < result["raw_bpb"] < 8
    model, state, folder = load_model(Path(config.run))
    tensors = load_file(folder / "model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == sum(count_parameters(config, state["tables"]).values())
    if config.tie:
        assert model.lm_head[0].weight is model.embed_tokens[0].weight
        assert not any(name.startswith("lm_head") for name in tensors)
    again = dataclasses.replace(config, run=config.run + "-again")
    train(dataclasses.replace(again, seed=0))
    weights = load_file(Path(again.run) / "checkpoints" / "step_00000006" / "model.safetensors")
    assert all(torch.equal(weights[name], tensors[name]) for name in tensors)
    with pytest.raises(ByteproxyError, match=r"--(qk-norm|tie|joint-head): "):
        train(dataclasses.replace(config, **{name: not value for name, value in change.items()}))


def test_a_joint_head_costs_all_tables_at_every_symbol(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, joint_head=True)
    assert flops_by_part(vars(config), [320, 164], [10, 5])["heads"] == 6 * 15 * 32 * (320 + 164)
    assert flops_by_part(vars(tiny_config), [320, 164], [10, 5])["heads"] == 6 * 32 * (10 * 320 + 5 * 164)


@pytest.mark.parametrize("change", [{"tie": True}, {"joint_head": True}])
def test_transformers_loads_what_qwen3_knows_with_the_same_logits(change: dict[str, Any], tiny_config: Config) -> None:
    from transformers import AutoModelForCausalLM

    config = dataclasses.replace(tiny_config, steps=6, eval_every=0, **change)
    train(config)
    out = Path(config.run).with_name("out")
    export(Path(config.run), out)
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=False).eval()
    ours = load_model(Path(config.run), dtype="float32")[0].eval()
    ids = torch.tensor([[1, 3, *range(64, 200)]])
    tables, at = torch.zeros_like(ids), torch.arange(ids.shape[1])[None]
    causal = lambda layer, q, k, v: nn.functional.scaled_dot_product_attention(  # noqa: E731
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    with torch.no_grad():
        mine = ours.logits(ours(ids, tables, at, causal)[0], 0)
        torch.testing.assert_close(theirs(ids).logits[0], mine, atol=1e-4, rtol=0)


def test_a_model_without_the_norm_of_queries_and_keys_is_no_qwen3_and_export_says_so(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, steps=2, eval_every=0, qk_norm=False)
    train(config)
    with pytest.raises(ByteproxyError, match="--qk-norm False: Qwen3 cannot express that"):
        export(Path(config.run), Path(config.run).with_name("out"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_are_not_kept_and_change_no_bit_of_a_gradient(
    dtype: torch.dtype, tiny_config: Config, tiny_set: ShardSet
) -> None:
    gradients, kept = {}, {False: 0, True: 0}
    for recompute in (False, True):
        config = dataclasses.replace(tiny_config, recompute=recompute, layers=6)
        batch, _ = next(iter(loader_of(tiny_set, config)))
        model = Model(config, table_rows([view.alphabet for view in views_of(tiny_set, config)]), dtype)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.1, torch.Generator().manual_seed(parameter.numel()))

        def keep(tensor: Tensor, recompute: bool = recompute) -> Tensor:
            kept[recompute] += tensor.numel() * tensor.element_size()
            return tensor

        rows = rows_of(batch, model, 0, config.batch_rows)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend)
        nats_V = backward(model, batch, config.batch_rows)
        gradients[recompute] = [nats_V, *(parameter.grad for parameter in model.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(gradients[False], gradients[True], strict=True))  # type: ignore[arg-type]
    assert kept[True] < kept[False] / 5
