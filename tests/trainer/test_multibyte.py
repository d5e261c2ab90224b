"""Heads for the bytes after the next: their targets against brute force, their gradients, counts, resume and export."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.conftest import TINY
from tests.trainer.loading import loader_of, planner_of
from tests.trainer.test_packing import begun
from trainer import checkpoint
from trainer.batch import Batch
from trainer.config import Config, make_config
from trainer.counts import count_parameters, flops_by_part
from trainer.export import export
from trainer.export_cli import summary
from trainer.feed import Rows, rows_of
from trainer.load import load_model
from trainer.model import Model, table_rows
from trainer.multibyte import nats_ahead, targets_ahead
from trainer.optim import make_optimizers
from trainer.specials import SPECIALS
from trainer.train import backward, train


def batches(shard_set: ShardSet, config: Config, model: Model, count: int) -> Iterator[Rows]:
    with loader_of(shard_set, config) as loader:
        for batch, _ in itertools.islice(loader, count):
            yield rows_of(batch, model, 0, config.batch_rows)


@pytest.mark.parametrize("mode", ["bytes", "proxy", "parallel"])
@pytest.mark.parametrize("seed", [0, 1])
def test_targets_are_the_bytes_so_far_ahead_in_the_same_piece_of_a_document_and_no_others(
    mode: str, seed: int, tiny_set: ShardSet, tiny_config: Config
) -> None:
    config = dataclasses.replace(tiny_config, mode=mode, seed=seed, pairs=0.3)
    model = Model(config, table_rows([512] if mode != "bytes" else []))
    planner, state = planner_of(tiny_set, config), None
    split, pieces_seen = tiny_set.split("train"), 0
    for rows in batches(tiny_set, config, model, 6):
        plan, state = planner.next(state or planner.initial())
        for offset in (1, 2, 3, 7):
            expected = {}
            for piece in plan.pieces:
                if piece.view == 0:
                    text = bytes(split.raw(piece.ordinal))[piece.begin : piece.end]
                    first = piece.row * config.context + piece.at + piece.bos  # of the opener, which predicts byte 0
                    pairs = enumerate(text[offset - 1 :])
                    expected |= {first + place: SPECIALS + byte for place, byte in pairs}
                    pieces_seen += 1
            index_C, targets_C = targets_ahead(rows, offset)
            assert dict(zip(index_C.tolist(), targets_C.tolist(), strict=True)) == expected
            assert len(index_C) == len(expected)
    assert pieces_seen > 20


def test_a_masked_document_gives_no_target_to_any_head(tiny_set: ShardSet, tiny_config: Config) -> None:
    model = Model(tiny_config, table_rows([512]))
    rows = next(batches(tiny_set, tiny_config, model, 1))
    masked = rows._replace(counted_N=torch.zeros_like(rows.counted_N))
    assert len(targets_ahead(rows, 2)[0]) > 100 and len(targets_ahead(masked, 2)[0]) == 0
    assert len(targets_ahead(rows, tiny_config.context + 5)[0]) == 0


def test_no_gradient_of_a_head_crosses_documents(tiny_set: ShardSet, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, mode="bytes", multi_byte=4, multi_byte_weight=1.0)
    with loader_of(tiny_set, config) as loader:
        batch = next(iter(loader))[0]
    model = begun(Model(config, table_rows([])))
    bounds = batch.cu_seqlens
    inner = [i for i, (begin, end) in enumerate(itertools.pairwise(bounds)) if end - begin > 20]
    begin, end = (int(bounds[inner[1] + i]) for i in (0, 1))
    others = np.ones(batch.ids_RT.size, bool)
    others[begin:end] = False
    alone = Batch(**{**vars(batch), "counted_RT": batch.counted_RT & others.reshape(batch.counted_RT.shape)})
    found = []
    for shift in (0, 1):
        ids, targets = batch.ids_RT.copy(), batch.targets_RT.copy()
        for array, edge in ((ids, end), (targets, end - 1)):  # all that the document holds
            inside = array.reshape(-1)[begin:edge]
            inside[inside >= SPECIALS] = SPECIALS + (inside[inside >= SPECIALS] - SPECIALS + shift) % 256
        model.zero_grad()
        nats = backward(model, Batch(**{**vars(alone), "ids_RT": ids, "targets_RT": targets}), config.batch_rows)
        found.append([nats, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(before, after) for before, after in zip(*found, strict=True))
    assert all(layer.weight.grad.any() for layer in model.multi_byte)  # type: ignore[union-attr]


def periodic(config: Config) -> Rows:
    """One document over and over, byte i is i mod 7: positions of the bytes alone."""
    ids_RT = SPECIALS + (torch.arange(config.context + 1)[None] + torch.arange(4)[:, None]) % 7
    counted_N = torch.ones(ids_RT[:, 1:].numel(), dtype=torch.bool)
    views_RT = torch.zeros_like(ids_RT[:, :-1])
    return Rows(ids_RT[:, :-1], views_RT, views_RT, lambda layer, q, k, v: q, ids_RT[:, 1:].flatten(), counted_N,
                views_RT.flatten())  # fmt: skip


def test_the_second_head_learns_a_periodic_text(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, multi_byte=2, multi_byte_weight=1.0, context=64)
    model, rows = Model(config, table_rows([])), periodic(config)
    optimizers, losses = make_optimizers(model, config), []
    for _ in range(40):
        x_NW = model(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
        nats, count = nats_ahead(model, x_NW, rows)[0]
        losses.append(float(nats / count))
        assert count == 4 * 63
        (nats / count).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    assert losses[0] == pytest.approx(np.log(320), rel=0.1) and losses[-1] < 0.1


def test_a_run_with_heads_resumes_bit_for_bit_and_names_its_losses(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, multi_byte=3, rate=0.5, steps=8, eval_every=0, keep=0)
    train(config)
    run, last = Path(config.run), checkpoint.folder_of(Path(config.run), 8)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all({"loss/raw+2", "loss/raw+3"} <= line.keys() and "loss/raw+4" not in line for line in lines)
    assert lines[-1]["loss/raw+2"] < lines[0]["loss/raw+2"]
    nats = sum(
        line[f"loss/{view}"] * line[f"symbols/{view}"] for line in lines[:1] for view in ("raw", "sentencepiece")
    )
    assert lines[0]["loss"] == pytest.approx(nats / (lines[0]["symbols/raw"] + lines[0]["symbols/sentencepiece"]))
    expected = [(last / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)]
    for path in (*last.iterdir(), run / "result.json"):
        path.unlink()
    last.rmdir()  # as if it had stopped after step 4
    train(config)
    assert [(last / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)] == expected
    with pytest.raises(ByteproxyError, match="--multi-byte: 3 → 1"):
        train(dataclasses.replace(config, multi_byte=1))


def test_export_drops_the_heads_and_says_how_large_they_were(tiny_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config, multi_byte=3, steps=2, eval_every=0)
    train(config)
    out = tmp_path / "out"
    origin = export(Path(config.run), out)
    heads = 2 * config.width**2
    assert origin["before"]["multi_byte"] == heads
    stripped = heads + sum(list(origin["before"]["tables"].values())[1:])
    assert origin["before"]["parameters"] - origin["after"]["parameters"] == stripped
    assert f"heads for bytes after the next, {heads:,} parameters" in summary(out, origin)
    assert origin["before"]["bytes"] - origin["after"]["bytes"] == pytest.approx(4 * stripped, rel=0.02)


def test_heads_leave_the_initial_model_as_it_is_and_count_as_by_hand(tiny_config: Config) -> None:
    tables, config = [320, 576], dataclasses.replace(tiny_config, multi_byte=3)
    plain, model = Model(tiny_config, tables), Model(config, tables)
    assert all(torch.equal(model.get_parameter(name), parameter) for name, parameter in plain.named_parameters())
    counts = count_parameters(config, tables)
    assert counts == count_parameters(tiny_config, tables) | {"multi_byte": 2 * 32 * 32}
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    flops = flops_by_part(vars(config), tables, [700, 300])
    # two heads: at 700 positions a square of 32 x 32 and the raw head of 320 x 32, 2 FLOPs a weight; backward: twice
    assert flops == flops_by_part(vars(tiny_config), tables, [700, 300]) | {
        "multi_byte": 2 * 3 * 2 * 700 * (32 * 32 + 320 * 32)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mode": "tokens"}, "1 expected in --mode tokens"), ({"context": 3}, "less than --context 3"),
     ({"multi_byte": 0}, "--multi-byte: 0 found"), ({"multi_byte_weight": -1.0}, "--multi-byte-weight: -1.0 found")],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ByteproxyError, match=message):
        make_config({**TINY, "multi_byte": 3, **change})


def test_sampling_and_bits_per_byte_know_nothing_of_the_heads(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, multi_byte=3, steps=2, eval_every=0)
    result = train(config)
    model, _, _ = load_model(Path(config.run))
    from trainer.evaluate import score
    from trainer.sample import Drawing, sample_text

    with torch.no_grad():
        for parameter in model.multi_byte.parameters():
            parameter.fill_(float("nan"))
    found = score(model, ShardSet.open(config.shards).split("val"), config.pass_rows, config.context)
    assert found.bits_per_byte == result["raw_bpb"]
    assert sample_text(model, b"def ", 400, Drawing(seed=config.seed)) == result["sample"]
