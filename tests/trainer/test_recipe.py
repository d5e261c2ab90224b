"""The recipe: rates by step, and draws that keep the share of compressed streams."""

from dataclasses import dataclass

import numpy as np
import pytest

from trainer.recipe import (
    COMPRESSED,
    PAIR_COMPRESSED_FIRST,
    PAIR_RAW_FIRST,
    RAW,
    layout_of,
    most_pairs,
    rates_at,
    stream_rate,
)


@dataclass(frozen=True)
class Schedule:
    mode: str = "proxy"
    steps: int = 100
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    rate_end: float = -1.0
    translation: float = 0.2
    anneal: float = 0.0
    pairs: float = 0.0
    switch: float = 0.0
    rate_unit: str = "documents"


def streams(layout: int) -> tuple[int, int]:
    return {RAW: (1, 0), COMPRESSED: (0, 1)}.get(layout, (1, 1))


def test_the_rate_ramps_in_the_warm_up_then_holds_then_anneals_to_raw_bytes() -> None:
    config = Schedule(anneal=0.6)
    assert rates_at(config, 0).compressed == 0.4 and rates_at(config, 10).compressed == pytest.approx(0.65)
    assert rates_at(config, 19).anchors and not rates_at(config, 20).anchors
    assert [rates_at(config, s).compressed for s in (20, 39, 40, 99)] == [0.9, 0.9, 0.0, 0.0]


def test_a_curriculum_moves_the_rate_through_the_steady_phase_and_leaves_the_others_alone() -> None:
    for end in (0.0, 0.3, 1.0):
        config, constant = Schedule(anneal=0.4, pairs=0.05, rate_end=end), Schedule(anneal=0.4, pairs=0.05)
        rates = [rates_at(config, step) for step in range(100)]
        assert rates[:21] == [rates_at(constant, step) for step in range(21)]  # the warm-up, and the first step behind
        assert rates[60:] == [rates_at(constant, step) for step in range(60, 100)]
        steady = [each.compressed for each in rates[20:60]]
        assert steady == pytest.approx([0.9 + (end - 0.9) * step / 40 for step in range(40)])
    assert rates_at(Schedule(rate_end=0.5), 99).compressed == pytest.approx(0.9 - 0.4 * 79 / 80)  # without annealing
    assert rates_at(Schedule(mode="tokens", rate_end=0.5), 60) == rates_at(Schedule(mode="tokens"), 60)


def test_a_curriculum_is_of_the_unit_of_rates_and_pairs_leave_room_for_it() -> None:
    config = Schedule(translation=0.0, rate=0.0, rate_end=1.0, rate_unit="symbols", pairs=0.5)
    assert rates_at(config, 50, 3.0).compressed == stream_rate(0.5, 3.0)
    for step in range(100):
        rates = rates_at(config, step, 3.0)
        assert rates.pair <= 1 and rates.pair == min(0.5, most_pairs(rates.compressed))


def test_single_view_modes() -> None:
    assert (
        rates_at(Schedule(mode="bytes"), 0).compressed == 0.0 and rates_at(Schedule(mode="tokens"), 0).compressed == 1.0
    )


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("pairable", [True, False])
def test_the_share_of_compressed_streams_is_the_rate(rate: float, pairable: bool) -> None:
    """Whether documents can be paired or not; 20,000 draws, so the share is within 0.012 (3 sigma)."""
    rates = rates_at(Schedule(rate_start=rate, rate=rate, translation=1.0), 0)
    pair = rates.pair if pairable else 0.0
    draws = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    layouts = [layout_of(draw, rates.compressed, pair) for draw in draws]
    raw, compressed = map(sum, zip(*map(streams, layouts), strict=True))
    assert compressed / (raw + compressed) == pytest.approx(rate, abs=0.012)
    pairs = [layout for layout in layouts if layout in (PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST)]
    assert bool(pairs) == pairable
    if pairable:
        first = sum(layout == PAIR_RAW_FIRST for layout in pairs) / len(pairs)
        assert first == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("anneal", "rate"), [(0.0, 0.9), (0.0, 0.3), (1.0, 0.9)])
def test_pairs_throughout_come_at_their_share_and_the_share_of_compressed_streams_stays(
    anneal: float, rate: float
) -> None:
    """Steady and annealing phases; an annealed document is raw, or a pair."""
    rates = rates_at(Schedule(translation=0.0, rate=rate, pairs=0.05, anneal=anneal), 50)
    draws = np.random.default_rng(1).integers(0, 2**64, 40_000, np.uint64)
    layouts = [layout_of(draw, rates.compressed, rates.pair) for draw in draws]
    pairs = sum(layout in (PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST) for layout in layouts)
    assert pairs / len(draws) == pytest.approx(0.05, abs=0.004)
    raw, compressed = map(sum, zip(*map(streams, layouts), strict=True))
    wanted = 0.05 / 1.05 if anneal else rate
    assert compressed / (raw + compressed) == pytest.approx(wanted, abs=0.008)
    assert not anneal or COMPRESSED not in layouts


def test_more_pairs_than_a_rate_leaves_room_for_are_as_many_as_it_does() -> None:
    rates = rates_at(Schedule(translation=0.0, pairs=0.5), 0)
    assert rates.pair == pytest.approx(1 / 0.9 - 1) and rates.compressed == 0.9


def test_a_rate_of_symbols_becomes_the_rate_of_streams_that_gives_it() -> None:
    rate = rates_at(Schedule(translation=0.0, rate=0.5, rate_unit="symbols"), 0, 3.0).compressed
    assert rate == stream_rate(0.5, 3.0) == 0.75  # 3 of 4 streams, each with a third of the symbols
    assert rates_at(Schedule(translation=0.0, rate=1.0, rate_unit="symbols"), 0, 3.0).compressed == 1.0


def test_over_half_of_the_warm_ups_documents_are_pairs() -> None:
    """The published ramp, 0.4 to 0.9 over the first 20%: 54% of its documents."""
    config = Schedule(steps=1000)
    share = sum(rates_at(config, step).pair for step in range(200)) / 200
    assert share == pytest.approx(0.54, abs=0.01)
