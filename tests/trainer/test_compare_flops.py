"""The comparison's currency: FLOPs from the planner's pieces, and steps that end within one step of a mark."""

import dataclasses
import itertools

import numpy as np
import pytest

from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from trainer.compare.flops import Work, flops_of, forward_flops_per_byte, raw_share, total_flops, work_of
from trainer.compare.solve import estimate, run_of, solve
from trainer.config import Config, make_config
from trainer.mixture import open_mixture
from trainer.place import CUT, DONE, JOIN
from trainer.plan import Piece

TABLES = [320, 576]
MATRICES = 2 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 64)  # of `tiny_config`


def piece(row: int, at: int, view: int, count: int, bos: bool, tail: int, text: int) -> Piece:
    return Piece(row, at, 0, 0, 0, 0, 0, view, 0, count, bos, tail, text)


def test_flops_of_a_plan_made_by_hand(tiny_config: Config) -> None:
    pieces_PK = np.array([
        piece(0, 0, 0, 5, True, DONE, 5),    # bos <raw> 5 </raw> eos: 9 tokens
        piece(0, 9, 1, 6, True, CUT, 14),    # bos <v> 6: 8 tokens, to the row's end: 17, of which 16 are inputs
        piece(1, 0, 0, 2, True, JOIN, 2),    # bos <raw> 2 </raw>, then the other half, which sees it
        piece(1, 5, 1, 1, False, DONE, 2),   # <v> 1 </v> eos: 9 tokens together; the rest of the row is padding
    ], np.int64)  # fmt: skip
    work = work_of(pieces_PK, 16, 1)
    assert work.positions == 9 + 7 + 9
    assert work.looks == 45 + 28 + 45  # 1 + 2 + … + 9 and so on
    assert work.symbols_V.tolist() == [5 + 1 + 1 + 2 + 1 + 1, 6 + 1 + 1]  # bytes, closers, eos; symbols, closer
    assert work.bytes_V.tolist() == [7, 16] and work.bytes == 23
    found = flops_of(tiny_config, TABLES, work)
    assert found["body"] == 3 * 2 * MATRICES * 25
    assert found["attention"] == 3 * (2 + 2) * (2 * 16) * 118 * 2  # scores and sums over values, 2 heads, 2 layers
    assert found["heads"] == 3 * 2 * 32 * (11 * 320 + 8 * 576)
    assert total_flops(tiny_config, TABLES, work) == sum(found.values())
    raw = (found["body"] + found["attention"]) * 11 / 19 + 3 * 2 * 32 * 11 * 320
    assert raw_share(tiny_config, TABLES, work) == pytest.approx(raw / sum(found.values()))
    assert raw_share(tiny_config, TABLES[:1], work_of(pieces_PK[:1], 16, 0)) == 1
    assert work_of(pieces_PK[:0], 16, 1).positions == 0


@pytest.mark.parametrize("mode", ["proxy", "bytes", "tokens", "parallel"])
def test_what_the_pieces_say_is_what_batches_hold(mode: str, tiny_set: ShardSet, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, mode=mode, views="" if mode == "bytes" else "sentencepiece")
    mixture = open_mixture(config)
    views = len(mixture.views)
    total, looks, positions = Work.none(views), 0, 0
    with loader_of(tiny_set, config) as loader:
        for batch, _ in loader:
            total.symbols_V += batch.symbols
            total.bytes_V += batch.raw_bytes
            bounds = np.unique(batch.cu_seqlens)
            for begin, end in itertools.pairwise(bounds):
                if batch.ids_RT.reshape(-1)[begin]:  # else a stretch of padding
                    looks, positions = looks + (end - begin) * (end - begin + 1) // 2, positions + end - begin
    found = run_of(config, mixture, [320, 576][: views + 1]).work
    assert found.symbols_V.tolist() == total.symbols_V.tolist() and found.bytes_V.tolist() == total.bytes_V.tolist()
    assert (found.positions, found.looks) == (positions, looks)


def test_a_curriculum_of_the_rate_is_solved_step_by_step_and_estimated_as_its_mean(tiny_config: Config) -> None:
    """From nine in ten to none; a step holds more text the more of it is compressed."""
    config = dataclasses.replace(
        tiny_config, views="sentencepiece", translation=0.0, anneal=0.0, rate=0.9, rate_end=0.0, steps=8000
    )
    work = run_of(config, open_mixture(config), [320, 576]).work
    rates = np.linspace(0.9, 0.0, config.steps)
    text = 1 / (1 - rates + rates * work.symbols_V[1] / work.bytes_V[1])
    assert work.bytes_V[1] / work.bytes == pytest.approx((rates * text).sum() / text.sum(), abs=0.03)
    found, constant = (
        estimate(dataclasses.replace(config, rate=rate, rate_end=end), [320, 576], 2.0, "flops", 1e12)
        for rate, end in ((0.9, 0.0), (0.45, -1.0))
    )
    assert found == constant


@pytest.mark.parametrize("unit", ["flops", "bytes"])
@pytest.mark.parametrize("mode", ["proxy", "bytes", "tokens"])
def test_solved_steps_end_within_one_step_of_the_mark(mode: str, unit: str, tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, mode=mode, views="" if mode == "bytes" else "sentencepiece", anneal=0.3)
    mixture = open_mixture(config)
    tables = [320, 576][: len(mixture.views) + 1]
    for mark in (3e9, 1.1e10) if unit == "flops" else (60e3, 250e3):
        solved = solve(config, mixture, tables, unit, mark)
        again = run_of(dataclasses.replace(config, steps=solved.steps), mixture, tables)
        assert again.measure(unit) == solved.measure(unit)
        assert abs(solved.measure(unit) - mark) <= solved.measure(unit) / solved.steps


def test_a_mark_that_falls_into_a_costlier_step_is_solved_by_a_neighbour_of_it(tiny_config: Config) -> None:
    """Of a head of 60,000 rows a step costs several times the mean: one more of these passes many marks at once."""
    config = dataclasses.replace(tiny_config, views="sentencepiece", translation=0.0, rate=1.0, anneal=0.7)
    mixture, tables = open_mixture(config), [320, 60_000]

    def flops(steps: int) -> int:
        return run_of(dataclasses.replace(config, steps=steps), mixture, tables).flops

    costs = {steps: flops(steps) for steps in range(30, 42)}
    jumps = {steps: costs[steps + 1] - costs[steps] for steps in range(30, 41)}
    steps = max(jumps, key=jumps.__getitem__)
    assert jumps[steps] > 2.5 * costs[steps] / steps
    for share in (0.1, 0.45, 0.55, 0.9):
        mark = costs[steps] + share * jumps[steps]
        solved = solve(config, mixture, tables, "flops", mark)
        assert solved.flops == flops(solved.steps)
        assert abs(solved.flops - mark) <= min(share, 1 - share) * jumps[steps] + costs[steps] / steps


def test_a_neural_codec_costs_its_forward_pass() -> None:
    config = make_config({"preset": "lm-3m"})
    weights = config.layers * (4 * config.width**2 + 3 * config.width * config.mlp)
    attention = 4 * config.layers * config.heads * config.head_dim * (config.context + 1) / 2
    assert forward_flops_per_byte("lm-3m") == pytest.approx(2 * (weights + 256 * config.width) + attention)
