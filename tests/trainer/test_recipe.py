"""The recipe: rates by step, and draws that keep the share of compressed streams."""

from dataclasses import dataclass, replace

import pytest

from trainer.recipe import Layout, draw_layout, rates_at


@dataclass(frozen=True)
class Schedule:
    mode: str = "proxy"
    steps: int = 100
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    translation: float = 0.2
    anneal: float = 0.0


def streams(layout: Layout) -> tuple[int, int]:
    return {Layout.RAW: (1, 0), Layout.COMPRESSED: (0, 1)}.get(layout, (1, 1))


def test_the_rate_ramps_in_the_warm_up_then_holds_then_anneals_to_raw_bytes() -> None:
    config = Schedule(anneal=0.6)
    assert rates_at(config, 0).compressed == 0.4 and rates_at(config, 10).compressed == pytest.approx(0.65)
    assert rates_at(config, 19).pairs and not rates_at(config, 20).pairs
    assert [rates_at(config, s).compressed for s in (20, 39, 40, 99)] == [0.9, 0.9, 0.0, 0.0]


def test_single_view_modes() -> None:
    assert (
        rates_at(Schedule(mode="bytes"), 0).compressed == 0.0 and rates_at(Schedule(mode="tokens"), 0).compressed == 1.0
    )
    assert draw_layout(Schedule(mode="parallel"), 0, b"x", 50, True) == Layout.PARALLEL


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("pairable", [True, False])
def test_the_share_of_compressed_streams_is_the_rate(rate: float, pairable: bool) -> None:
    """Whether documents can be paired or not; 20,000 draws, so the share is within 0.012 (3 sigma)."""
    config = Schedule(rate_start=rate, rate=rate, translation=1.0)
    layouts = [draw_layout(config, 0, i.to_bytes(4, "big"), 0, pairable) for i in range(20_000)]
    raw, compressed = map(sum, zip(*map(streams, layouts), strict=True))
    assert compressed / (raw + compressed) == pytest.approx(rate, abs=0.012)
    pairs = [layout for layout in layouts if layout in (Layout.PAIR_RAW_FIRST, Layout.PAIR_COMPRESSED_FIRST)]
    assert bool(pairs) == pairable
    if pairable:
        first = sum(layout == Layout.PAIR_RAW_FIRST for layout in pairs) / len(pairs)
        assert first == pytest.approx(0.5, abs=0.03)


def test_over_half_of_the_warm_ups_documents_are_pairs() -> None:
    """The published ramp, 0.4 to 0.9 over the first 20%: 54% of its documents."""
    config = Schedule(steps=1000)
    share = sum(rates_at(config, step).pair_probability for step in range(200)) / 200
    assert share == pytest.approx(0.54, abs=0.01)


def test_the_draw_depends_on_seed_epoch_and_document_alone() -> None:
    config = Schedule()
    draws = [draw_layout(config, 0, i.to_bytes(4, "big"), 5, True) for i in range(200)]
    assert draws == [draw_layout(config, 0, i.to_bytes(4, "big"), 5, True) for i in range(200)]
    for other in (replace(config, seed=1), config):
        epoch = 1 if other is config else 0
        assert draws != [draw_layout(other, epoch, i.to_bytes(4, "big"), 5, True) for i in range(200)]
