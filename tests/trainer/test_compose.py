"""Symbols composed of their bytes: rows and gradients against a slow reference, resumes, export, names of old runs."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from tests.trainer.test_ranks import lines, under_torchrun
from trainer import checkpoint
from trainer.__main__ import main
from trainer.compare.arms import identity
from trainer.compare.plan_file import read_plan
from trainer.compose import spellings_of
from trainer.config import Config
from trainer.counts import count_parameters
from trainer.export import export
from trainer.feed import rows_of
from trainer.load import load_model
from trainer.loss import nats_by_view
from trainer.model import Model, table_rows
from trainer.specials import SPECIALS
from trainer.train import backward, train

SPELLINGS = [[b"", b"ab", b"\xff", b"aaab", b"b"], []]  # the second view has none
TABLES = table_rows([5, 7])


def slow_rows(own: Tensor, raw: Tensor) -> Tensor:
    """The composed table of the first view, row by row."""
    rows = list(own[:SPECIALS])
    for row, piece in zip(own[SPECIALS:], SPELLINGS[0], strict=True):
        rows.append(row + sum(raw[SPECIALS + byte] for byte in piece) / len(piece) if piece else row)
    return torch.stack(rows)


def composing(config: Config, compose: str) -> Model:
    return Model(dataclasses.replace(config, compose=compose), TABLES, spellings=SPELLINGS)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("compose", ["input", "both"])
def test_rows_and_gradients_are_those_of_sums_made_one_by_one(compose: str, tie: bool, tiny_config: Config) -> None:
    model = composing(dataclasses.replace(tiny_config, tie=tie), compose)
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(0, 3, (2, 40), generator=generator)
    ids = (torch.rand(2, 40, generator=generator) * torch.tensor(TABLES)[views]).long()
    targets = (torch.rand(80, generator=generator) * torch.tensor(TABLES)[views.flatten()]).long()
    counted = torch.ones(80, dtype=torch.bool)

    def slow() -> tuple[Tensor, list[Tensor]]:
        tables: list[Tensor] = [table.weight for table in model.embed_tokens]  # type: ignore[misc]
        heads: list[Tensor] = [head.weight for head in model.lm_head]  # type: ignore[misc]
        composed = [tables[0], slow_rows(tables[1], tables[0]), tables[2]]
        if compose == "both":
            heads[1] = slow_rows(heads[1], heads[0])
        rows = [composed[view][row] for view, row in zip(views.flatten(), ids.flatten(), strict=True)]
        x_NW, nats = torch.stack(rows), []
        for view in range(3):
            mine = views.flatten() == view
            nats.append(nn.functional.cross_entropy(x_NW[mine] @ heads[view].T, targets[mine], reduction="sum"))
        return torch.stack(nats), heads

    expected, heads = slow()
    found = nats_by_view(model, model.embed(ids, views).flatten(0, 1), views.flatten(), targets, counted)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(model.heads(), heads, strict=True):
        torch.testing.assert_close(mine, theirs)
    parameters = [p for name, p in model.named_parameters() if name.startswith(("embed_tokens", "lm_head"))]
    ours, reference = (torch.autograd.grad(nats.sum(), parameters) for nats in (found, expected))
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_raw_rows_are_their_own_and_without_gradients_the_same_rows_come_out(tiny_config: Config) -> None:
    model, plain = composing(tiny_config, "both"), Model(tiny_config, TABLES)
    assert all(torch.equal(model.get_parameter(name), parameter) for name, parameter in plain.named_parameters())
    ids = torch.arange(SPECIALS, SPECIALS + 5)[None]
    raw, symbols = torch.zeros_like(ids), torch.ones_like(ids)
    with torch.no_grad():
        assert torch.equal(model.embed(ids, raw), plain.embed(ids, raw))
        assert torch.equal(model.head(0), plain.head(0)) and torch.equal(model.head(2), plain.head(2))
        found = model.embed(ids, symbols)
    torch.testing.assert_close(found, model.embed(ids, symbols).detach(), rtol=0, atol=0)
    differs = (found != plain.embed(ids, symbols))[0].any(-1)
    assert differs.tolist() == [False, True, True, True, True]  # the first stands for nothing


def test_the_spelling_of_every_symbol_is_what_documents_decode_to(tiny_set: ShardSet) -> None:
    view = tiny_set.view("sentencepiece")
    found = spellings_of(tiny_set, [view, tiny_set.view("gzip")], "input")
    assert len(found[0]) == view.alphabet and found[1] == []
    assert {bytes([byte]) for byte in range(256)} < set(found[0])
    split = tiny_set.split("train")
    for i in range(len(split)):
        symbols = split.symbols(i, "sentencepiece").tolist()
        assert b"".join(found[0][symbol] for symbol in symbols) == split.raw(i).tobytes()
    assert spellings_of(tiny_set, [view], "off") == spellings_of(tiny_set, [], "input") == []
    with pytest.raises(ByteproxyError, match="--compose both: views gzip found, in none of which a symbol always"):
        spellings_of(tiny_set, [tiny_set.view("gzip")], "both")


@pytest.mark.parametrize("compose", ["input", "both"])
def test_a_run_that_composes_resumes_bit_for_bit_and_its_model_is_whole_without_the_set(
    compose: str, tiny_config: Config, tiny_set: ShardSet
) -> None:
    config = dataclasses.replace(tiny_config, compose=compose, steps=8, eval_every=0, keep=0)
    train(config)
    last = checkpoint.folder_of(Path(config.run), 8)
    expected = [(last / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)]
    shutil.rmtree(last)
    (Path(config.run) / "result.json").unlink()
    train(config)
    assert [(last / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)] == expected

    model, state, _ = load_model(Path(config.run))
    assert model.spellings == spellings_of(tiny_set, [tiny_set.view("sentencepiece")], compose)
    assert sum(p.numel() for p in model.parameters()) == sum(count_parameters(config, state["tables"]).values())
    with loader_of(tiny_set, config) as loader:
        rows = rows_of(next(iter(loader))[0], model, 0, 4)
    nats = {}
    for name, off in (("composed", {}), ("plain", {"compose": "off"})):
        other = Model(dataclasses.replace(config, **off), model.tables, spellings=() if off else model.spellings)
        other.load_state_dict(model.state_dict())
        x_NW = other(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
        nats[name] = nats_by_view(other, x_NW, rows.views_N, rows.targets_N, rows.counted_N)
    assert nats["composed"][1] < nats["plain"][1]  # what was learnt of symbols is spread over both
    assert main(["evaluate", "--run", config.run, "--view", "sentencepiece", "--json"]) == 0
    with pytest.raises(ByteproxyError, match=f"--compose: {compose} → off"):
        train(dataclasses.replace(config, compose="off"))


def test_an_exported_model_has_no_symbols_and_the_runs_logits(tiny_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config, compose="both", steps=2, eval_every=0)
    train(config)
    origin = export(Path(config.run), tmp_path / "out")  # which compares logits before it says that it is done
    assert origin["before"]["parameters"] - origin["after"]["parameters"] == 2 * (64 + 512) * 32


def test_off_is_the_run_of_before(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, steps=2, eval_every=0)
    train(config)
    path = checkpoint.folder_of(Path(config.run), 2) / checkpoint.STATE
    state = json.loads(path.read_text())
    assert "spellings" not in state
    del state["config"]["compose"]  # as if written before there was such a setting
    path.write_text(json.dumps(state))
    assert train(config)["step"] == 2
    with pytest.raises(ByteproxyError, match="--compose: off → input"):
        train(dataclasses.replace(config, compose="input"))


def test_runs_of_comparisons_keep_their_names_where_a_later_setting_is_at_its_default() -> None:
    """A field that is new needs `later`, or this name changes, and with it those of all runs that are done."""
    assert identity(Config(shards="set"), {"raw": "1"}) == "aa799000a02ffa62"
    for field in (field for field in dataclasses.fields(Config) if field.metadata["later"]):
        config = Config(**{"shards": "set", field.name: {"": "raw:2", "off": "both"}.get(field.default, 1)})
        assert identity(config, {"raw": "1"}) != "aa799000a02ffa62"


def test_a_plan_can_ask_for_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('[sizes.a]\nflops = [1e9]\n[arms.ours]\nviews = "sentencepiece"\ncompose = "both"\n')
    assert read_plan(path).arms[0].settings["compose"] == "both"


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_compose_as_one_does(sharding: str, tiny_config: Config, tmp_path: Path) -> None:
    alone = dataclasses.replace(tiny_config, compose="both", steps=4, eval_every=2, optimizer="adamw")
    train(alone)
    config = dataclasses.replace(alone, run=str(tmp_path / "two"), sharding=sharding)
    under_torchrun(config, 2)
    for ours, theirs in zip(lines(config), lines(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
def test_a_compiled_run_compiles_as_often_as_one_that_does_not_compose(tiny_config: Config, tmp_path: Path) -> None:
    eager = dataclasses.replace(tiny_config, compose="both", views="sentencepiece:0.6,gzip:0.4", eval_every=3)
    train(eager)
    torch.compiler.reset()
    counters.clear()
    config = dataclasses.replace(eager, run=str(tmp_path / "compiled"), compile="on")
    train(config)  # a compilation after a phase's first use would have raised
    assert counters["stats"]["unique_graphs"] == 2
    for ours, theirs in zip(lines(config), lines(eager), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_backward_gives_both_tables_a_gradient_from_symbols_alone(tiny_config: Config, tiny_set: ShardSet) -> None:
    """In mode tokens no raw byte is read: what reaches the raw rows comes through the symbols."""
    config = dataclasses.replace(tiny_config, mode="tokens", compose="input")
    model = Model(
        config, table_rows([512]), spellings=spellings_of(tiny_set, [tiny_set.view("sentencepiece")], "input")
    )
    with loader_of(tiny_set, config) as loader:
        backward(model, next(iter(loader))[0], config.batch_rows)
    raw, own = (table.weight.grad for table in model.embed_tokens)
    assert raw is not None and own is not None
    assert raw[SPECIALS + ord("e")].any() and not raw[SPECIALS + 0x01].any() and own.any()
