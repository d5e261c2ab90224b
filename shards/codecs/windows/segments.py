"""Segments: text is cut before a byte that surprises the model more than a threshold, and more than the byte before it.

What the model expects of a byte is known before the byte is read, so a decoder finds the same cuts as it goes. A
surprise is the entropy of the model's prediction in whole units of 1 / UNIT bits.

Legend: N bytes of text, A anchors.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

UNIT = 1024  # a bit of entropy
LONGEST = 64  # bytes of a segment


class Thresholds(NamedTuple):
    """Both must be passed: the entropy of a byte, and its rise over that of the byte before. In 1 / UNIT bits."""

    entropy: int
    rise: int


def segment_ends(entropy_N: np.ndarray, restart_N: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Is a byte the last of its segment? (N,) bool. `restart_N`: the model's context begins anew with this byte."""
    ends = np.zeros(len(entropy_N), np.bool_)
    if len(ends):
        _cut(entropy_N, restart_N, thresholds.entropy, thresholds.rise, ends)
        ends[-1] = True
    return ends


@njit(cache=True, nogil=True)
def _cut(entropy_N, restart_N, least, rise, ends):  # type: ignore[no-untyped-def]
    length = 1
    for n in range(1, len(entropy_N)):
        if restart_N[n] or begins(entropy_N[n], entropy_N[n - 1], length, least, rise):
            ends[n - 1] = True
            length = 0
        length += 1


@njit(cache=True, nogil=True)
def begins(entropy, former, length, least, rise):  # type: ignore[no-untyped-def]
    """Does a segment begin with this byte, behind `length` bytes of the one before?"""
    return length >= LONGEST or (entropy > least and entropy - former > rise)


def fit_thresholds(entropies: list[np.ndarray], mean: float) -> Thresholds:
    """The thresholds whose segments are `mean` bytes long on a sample: both the same quantile, of entropies and rises.

    `entropies`: one array for each stretch that the model reads in one context.
    """
    whole = [entropy.astype(np.int64) for entropy in entropies if len(entropy) > 1]
    if not whole:
        return Thresholds(2 * UNIT, 0)
    levels, rises = np.sort(np.concatenate(whole)), np.sort(np.concatenate([np.diff(entropy) for entropy in whole]))
    size = sum(map(len, whole))

    def at(share: float) -> Thresholds:
        return Thresholds(int(levels[int(share * (len(levels) - 1))]), int(rises[int(share * (len(rises) - 1))]))

    low, high = 0.0, 1.0  # fewer cuts at higher quantiles
    for _ in range(20):
        middle = (low + high) / 2
        cuts = sum(int(segment_ends(entropy, np.zeros(len(entropy), np.bool_), at(middle)).sum()) for entropy in whole)
        low, high = (middle, high) if cuts * mean > size else (low, middle)
    return at((low + high) / 2)


def anchors(ends_N: np.ndarray, marks: np.ndarray, block: int, gap: int) -> np.ndarray:
    """(A, 2) uint32 (raw offset, symbol offset): at ends of segments, each the last within `gap` bytes of the former.

    `marks`: symbols up to each end. Each multiple of `block` bytes, where a segment ends too, is an anchor.
    """
    rows = np.zeros((len(marks) + 1, 2), np.int64)
    rows[1:, 0], rows[1:, 1] = np.flatnonzero(ends_N) + 1, marks
    return rows[_chosen(rows[:, 0].copy(), block, gap)].astype("<u4")


@njit(cache=True, nogil=True)
def _chosen(offsets, block, gap):  # type: ignore[no-untyped-def]
    keep = np.zeros(len(offsets), np.bool_)
    keep[0] = keep[-1] = True
    last = offsets[0]
    for i in range(1, len(offsets) - 1):
        if offsets[i] % block == 0 or offsets[i + 1] - last > gap:
            keep[i] = True
            last = offsets[i]
    return keep
