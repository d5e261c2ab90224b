"""Weights of the views: in the gradients, as by hand; in no figure; and refused where they name what is not there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from trainer import checkpoint
from trainer.compare.arms import wanted_runs
from trainer.compare.plan_file import read_plan
from trainer.config import Config
from trainer.mixture import parse_weights
from trainer.model import Model, table_rows
from trainer.train import backward, train


def test_weights_are_read_and_what_is_wrong_is_named() -> None:
    views = ["raw", "sentencepiece", "gzip"]
    assert parse_weights("", views) == [1.0, 1.0, 1.0]
    assert parse_weights("gzip:0, raw:.5", views) == [0.5, 1.0, 0.0]
    for text in ("raw", "raw:", "raw:-1", "raw:nan", "raw:inf", "raw:x"):
        with pytest.raises(ByteproxyError, match=rf"--weights '{text}': '{text}' found, view:weight \(0 or more\)"):
            parse_weights(text, views)
    with pytest.raises(ByteproxyError, match="raw is there twice"):
        parse_weights("raw:1,raw:2", views)
    with pytest.raises(ByteproxyError, match="view zstd found, one of raw, gzip expected, which the run trains on"):
        parse_weights("zstd:2", ["raw", "gzip"])
    with pytest.raises(ByteproxyError, match="0 for every view found"):
        parse_weights("raw:0", ["raw"])


@pytest.mark.parametrize("change", [{}, {"multi_byte": 3}, {"joint_head": True, "z_loss": 1e-3}, {"micro_rows": 1}])
def test_gradients_are_the_weighted_sums_of_the_views_gradients_over_the_count_of_all(
    change: dict[str, Any], tiny_config: Config, tiny_set: ShardSet
) -> None:
    config = dataclasses.replace(tiny_config, translation=1.0, anneal=0.0, **change)
    model = Model(config, table_rows([512]))
    with loader_of(tiny_set, config) as loader:
        batch = next(iter(loader))[0]
    assert batch.symbols.all()

    def found(*weights: float) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        nats = backward(model, batch, config.pass_rows, weights_V=torch.tensor(weights) if weights else None)
        return nats, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    (nats, mixed), (_, raw), (_, compressed), (plain_nats, plain), (_, ones) = (
        found(0.5, 3.0), found(1.0, 0.0), found(0.0, 1.0), found(), found(1.0, 1.0)
    )  # fmt: skip
    assert torch.equal(nats, plain_nats)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ones, plain, strict=True))
    for mine, first, second, both in zip(mixed, raw, compressed, plain, strict=True):
        torch.testing.assert_close(mine, 0.5 * first + 3.0 * second, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both, first + second, atol=1e-5, rtol=1e-4)


def test_a_run_with_weights_logs_nats_without_them_and_keeps_them(tiny_config: Config) -> None:
    plain = dataclasses.replace(tiny_config, steps=2, eval_every=0)
    weighted = dataclasses.replace(plain, run=plain.run + "-weighted", weights="sentencepiece:0.5,raw:2")
    for config in (plain, weighted):
        train(config)
    first, second = (
        [json.loads(line) for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]
        for config in (plain, weighted)
    )
    same = {key for key in first[0] if key.startswith(("loss", "bpb", "symbols", "bytes"))}
    assert same and all(first[0][key] == second[0][key] for key in same)
    assert first[0]["grad_norm"] != second[0]["grad_norm"] and first[1]["loss"] != second[1]["loss"]
    with pytest.raises(ByteproxyError, match=r"--weights: sentencepiece:0\.5,raw:2 → "):
        train(dataclasses.replace(weighted, weights=""))
    path = checkpoint.folder_of(Path(plain.run), 2) / checkpoint.STATE
    state = json.loads(path.read_text())
    del state["config"]["weights"]  # as if written before there was such a setting
    path.write_text(json.dumps(state))
    assert train(plain)["step"] == 2


def test_a_plan_names_the_arm_whose_weights_are_of_no_view_of_its(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    text = '[sizes.a]\nflops = [1e9]\n[arms.ours]\nviews = "sentencepiece"\nweights = "sentencepiece:0.5"\n'
    path.write_text(text)
    assert wanted_runs(read_plan(path), "set")[0].config.weights == "sentencepiece:0.5"
    path.write_text(text + '[arms.bytes]\nmode = "bytes"\nweights = "sentencepiece:0.5"\n')
    with pytest.raises(ByteproxyError, match=r"arm bytes: --weights .* view sentencepiece found, one of raw expected"):
        wanted_runs(read_plan(path), "set")
