"""Which views of a document are trained on, by step: the proxy-compression recipe as a function without state.

The draw of a document is a hash of (seed, epoch, id), against the rates of the step its first row is built for, so it
does not depend on workers, prefetch depth or resumes. Rates are shares of *streams* (a pair is two streams) and move
with the optimizer's steps.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit


class Schedule(Protocol):
    """The fields of the trainer's config that the recipe reads."""

    @property
    def mode(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def rate_start(self) -> float: ...
    @property
    def translation(self) -> float: ...
    @property
    def anneal(self) -> float: ...


# How a document is laid out. Integers, for compiled code.
RAW, COMPRESSED = 0, 1
PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST = 2, 3  # in-context translation: the second view attends to the first
PARALLEL = 4  # both views, as two documents that cannot see each other


@dataclass(frozen=True)
class Rates:
    """The share of compressed streams, and whether documents may hold both views."""

    compressed: float
    pairs: bool

    @property
    def pair_probability(self) -> float:
        """Of a document to hold a pair, such that the share of compressed streams stays `compressed`."""
        if not self.pairs:
            return 0.0
        x = self.compressed
        return 1 / x - 1 if x > 0.5 else x / (1 - x)


def rates_at(config: Schedule, step: int) -> Rates:
    """The rates in force at an optimizer step, by mode; `proxy` is translation warm-up, steady phase, annealing."""
    if config.mode == "bytes":
        return Rates(0.0, False)
    if config.mode == "tokens":
        return Rates(1.0, False)
    warm, cold = round(config.translation * config.steps), config.steps - round(config.anneal * config.steps)
    if step >= cold:
        return Rates(0.0, False)
    if step < warm:
        return Rates(config.rate_start + (config.rate - config.rate_start) * step / warm, True)
    return Rates(config.rate, False)


@njit(cache=True, nogil=True)
def layout_of(draw, compressed, pair):  # type: ignore[no-untyped-def]
    """The layout that a document's draw (uint64) means at a share of compressed streams and a probability of a pair.

    A document that cannot be paired comes with `pair` 0 and takes one view with the stream's own rate, so the share of
    streams holds.
    """
    uniform = np.float64(draw >> np.uint64(11)) * 2.0**-53
    if uniform < pair:
        return PAIR_RAW_FIRST if draw & np.uint64(1) else PAIR_COMPRESSED_FIRST
    # Of the rest: with pairs, only the view that is in the majority remains; without, the rate itself.
    single = compressed > 0.5 if pair > 0.0 else uniform < compressed
    return COMPRESSED if single else RAW
