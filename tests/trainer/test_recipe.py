"""The recipe: rates by step, and draws that keep the share of compressed streams."""

from dataclasses import dataclass

import numpy as np
import pytest

from trainer.recipe import COMPRESSED, PAIR_COMPRESSED_FIRST, PAIR_RAW_FIRST, RAW, layout_of, rates_at


@dataclass(frozen=True)
class Schedule:
    mode: str = "proxy"
    steps: int = 100
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    translation: float = 0.2
    anneal: float = 0.0


def streams(layout: int) -> tuple[int, int]:
    return {RAW: (1, 0), COMPRESSED: (0, 1)}.get(layout, (1, 1))


def test_the_rate_ramps_in_the_warm_up_then_holds_then_anneals_to_raw_bytes() -> None:
    config = Schedule(anneal=0.6)
    assert rates_at(config, 0).compressed == 0.4 and rates_at(config, 10).compressed == pytest.approx(0.65)
    assert rates_at(config, 19).pairs and not rates_at(config, 20).pairs
    assert [rates_at(config, s).compressed for s in (20, 39, 40, 99)] == [0.9, 0.9, 0.0, 0.0]


def test_single_view_modes() -> None:
    assert (
        rates_at(Schedule(mode="bytes"), 0).compressed == 0.0 and rates_at(Schedule(mode="tokens"), 0).compressed == 1.0
    )


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("pairable", [True, False])
def test_the_share_of_compressed_streams_is_the_rate(rate: float, pairable: bool) -> None:
    """Whether documents can be paired or not; 20,000 draws, so the share is within 0.012 (3 sigma)."""
    rates = rates_at(Schedule(rate_start=rate, rate=rate, translation=1.0), 0)
    pair = rates.pair_probability if pairable else 0.0
    draws = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    layouts = [layout_of(draw, rates.compressed, pair) for draw in draws]
    raw, compressed = map(sum, zip(*map(streams, layouts), strict=True))
    assert compressed / (raw + compressed) == pytest.approx(rate, abs=0.012)
    pairs = [layout for layout in layouts if layout in (PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST)]
    assert bool(pairs) == pairable
    if pairable:
        first = sum(layout == PAIR_RAW_FIRST for layout in pairs) / len(pairs)
        assert first == pytest.approx(0.5, abs=0.03)


def test_over_half_of_the_warm_ups_documents_are_pairs() -> None:
    """The published ramp, 0.4 to 0.9 over the first 20%: 54% of its documents."""
    config = Schedule(steps=1000)
    share = sum(rates_at(config, step).pair_probability for step in range(200)) / 200
    assert share == pytest.approx(0.54, abs=0.01)
