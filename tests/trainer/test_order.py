"""The order of an epoch: a keyed bijection, uniform enough, without memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.order import Order, permute


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


def test_positions_and_neighbours_are_uniform() -> None:
    """Chi-square over 10 bins of value by position, and of the distance between neighbours, against uniform."""
    n, bins = 100_003, 10
    values = permute(np.arange(n), n, 3, 0)
    table = np.histogram2d(np.arange(n), values, bins=bins)[0]
    expected = n / bins**2
    assert ((table - expected) ** 2 / expected).sum() < 150  # 81 degrees of freedom: 150 has p < 1e-5
    distance = (np.diff(values) % n) * bins // n
    counts = np.bincount(distance, minlength=bins)
    assert ((counts - n / bins) ** 2 / (n / bins)).sum() < 40  # 9 degrees of freedom


def test_running_counts_go_through_epoch_after_epoch() -> None:
    order = Order(2500, 11)
    taken = [order[count] for count in range(5000)]
    assert sorted(taken[:2500]) == sorted(taken[2500:]) == list(range(2500)) and taken[:2500] != taken[2500:]
    assert order[17] == taken[17] and order.epoch(2499) == 0 and order.epoch(2500) == 1
