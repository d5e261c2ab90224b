"""The order of an epoch: a keyed bijection, uniform enough, without memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.order import Order, permute, quality


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 100))
def test_the_order_of_an_epoch_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, seed, epoch)), np.arange(n))


@pytest.mark.parametrize("bits", [1, 2, 20, 33, 40])
def test_any_size_up_to_a_trillion_documents(bits: int) -> None:
    n = 2**bits
    positions = np.unique(np.linspace(0, n - 1, 1000).astype(np.int64))
    values = permute(positions, n, 7, 0)
    assert values.min() >= 0 and values.max() < n and len(np.unique(values)) == len(positions)


def test_another_order_each_epoch_and_each_seed() -> None:
    orders = [permute(np.arange(1000), 1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert (first == second).mean() < 0.02


@pytest.mark.parametrize("window", [0, 40])
def test_positions_and_neighbours_are_uniform(window: int) -> None:
    """Chi-square over 10 bins of value by position, and of the distance between neighbours, against uniform.

    With a window, inside it: 40 shards of 2,500 documents, the first of two windows.
    """
    n, bins = 100_003, 10
    if window:
        order = Order([2500] * 80, 3, window)
        n, documents = 2500 * window, order.documents(0, 2500 * window)
        shards = np.sort(order.files_ahead(0)[:window])
        values = np.searchsorted(shards, documents // 2500) * 2500 + documents % 2500  # as if the window were the set
        assert np.array_equal(np.sort(values), np.arange(n))
    else:
        values = permute(np.arange(n), n, 3, 0)
    table = np.histogram2d(np.arange(n), values, bins=bins)[0]
    expected = n / bins**2
    assert ((table - expected) ** 2 / expected).sum() < 150  # 81 degrees of freedom: 150 has p < 1e-5
    distance = (np.diff(values) % n) * bins // n
    counts = np.bincount(distance, minlength=bins)
    assert ((counts - n / bins) ** 2 / (n / bins)).sum() < 40  # 9 degrees of freedom


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum), st.integers(0, 14), st.integers(0, 99))
def test_running_counts_go_through_epoch_after_epoch(files: list[int], window: int, seed: int) -> None:
    """Every document once an epoch, in another order each, a window's documents together, any count on its own."""
    order, n = Order(files, seed, window), sum(files)
    taken = order.documents(0, 3 * n)
    for epoch in range(3):
        assert np.array_equal(np.sort(taken[epoch * n : (epoch + 1) * n]), np.arange(n))
    assert [order[count] for count in range(2 * n)] == taken[: 2 * n].tolist()
    assert order.epoch(n - 1) == 0 and order.epoch(n) == 1
    if n > 30:
        assert (taken[:n] != taken[n : 2 * n]).any()
    if window:
        files_D = np.searchsorted(np.cumsum(files), taken, side="right")
        for count in range(0, n, 7):
            ahead = order.files_ahead(count)
            assert files_D[count] in ahead[:window]
            assert set(files_D[count : count + 1 + len(ahead) // 99].tolist()) <= set(ahead.tolist())


def test_the_quality_of_an_order_is_measured_against_uniform() -> None:
    files = [100] * 1000
    uniform, windowed, single = (quality(Order(files, 1, window)) for window in (0, 50, 1))
    assert uniform["displacement"] == pytest.approx(1 / 3, abs=0.01)
    assert uniform["neighbour_distance"] == pytest.approx(0.293, abs=0.01)
    assert windowed["neighbour_distance"] == pytest.approx(0.28, abs=0.03)  # 50 shards from anywhere
    assert single["neighbour_distance"] < 0.001  # neighbours stay neighbours
