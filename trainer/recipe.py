"""Which views of a document are trained on, by step: the proxy-compression recipe as a function without state.

The draw of a document is a hash of (seed, epoch, id), against the rates of the step its first row is built for, so it
does not depend on workers, prefetch depth or resumes. Rates are shares of *streams* (a pair is two streams), or by
`rate_unit` of symbols, and move with the optimizer's steps.
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
    def rate_end(self) -> float: ...
    @property
    def translation(self) -> float: ...
    @property
    def anneal(self) -> float: ...
    @property
    def pairs(self) -> float: ...
    @property
    def switch(self) -> float: ...
    @property
    def rate_unit(self) -> str: ...


# How a document is laid out. Integers, for compiled code.
RAW, COMPRESSED = 0, 1
PAIR_RAW_FIRST, PAIR_COMPRESSED_FIRST = 2, 3  # in-context translation: the second view attends to the first
PARALLEL = 4  # both views, as two documents that cannot see each other
SWITCH = 5  # one stream of parts that are raw and compressed in turn, each of which sees those before it


@dataclass(frozen=True)
class Rates:
    """The probability of a document to be laid out in turns; of the others the share of compressed streams, and the
    probability to be a pair. `parallel`: these are each laid out in both views, apart, whatever the rates.
    """

    compressed: float
    pair: float = 0.0
    switch: float = 0.0
    parallel: bool = False

    @property
    def anchors(self) -> bool:
        """Whether documents may hold both views, in a pair or in turns."""
        return self.pair > 0.0 or self.switch > 0.0


def most_pairs(compressed: float) -> float:
    """The largest probability of a pair at which the share of compressed streams can still be `compressed`."""
    return 1 / compressed - 1 if compressed > 0.5 else compressed / (1 - compressed)


def stream_rate(rate: float, bytes_per_symbol: float) -> float:
    """The share of compressed streams at which a share `rate` of all *symbols* is compressed.

    Streams of either view come from the same documents, so on average a compressed one has that many fewer symbols.
    """
    return rate * bytes_per_symbol / (rate * bytes_per_symbol + 1 - rate)


def rates_at(config: Schedule, step: int, bytes_per_symbol: float = 1.0) -> Rates:
    """The rates in force at an optimizer step, by mode; `proxy` is translation warm-up, steady phase, annealing.

    `bytes_per_symbol`: what the run's views make of the set, which shares of symbols are turned into shares of streams
    by. Outside the warm-up a share `pairs` of the documents holds both views, annealing not excepted. With a `rate_end`
    the steady phase is a curriculum: its rate moves from `rate` in its first step to `rate_end` behind its last.
    """
    if config.mode == "bytes":
        return Rates(0.0)
    if config.mode == "tokens":
        return Rates(1.0)
    warm, cold = boundaries(config)
    if step >= cold:
        return Rates(config.pairs / (1 + config.pairs), config.pairs)
    if step < warm:
        rate = config.rate_start + (config.rate - config.rate_start) * step / warm
    elif config.rate_end < 0:
        rate = config.rate
    else:
        rate = config.rate + (config.rate_end - config.rate) * (step - warm) / (cold - warm)
    if config.rate_unit == "symbols":
        rate = stream_rate(rate, bytes_per_symbol)
    most = most_pairs(rate)
    pair = most if step < warm else min(config.pairs, most)
    return Rates(rate, pair, config.switch if config.mode == "proxy" else 0.0, config.mode == "parallel")


def phase_at(config: Schedule, step: int) -> int:
    """The step at which the phase of the schedule that `step` lies in began: warm-up, steady phase or annealing."""
    warm, cold = boundaries(config)
    return cold if step >= cold else warm if step >= warm else 0


def boundaries(config: Schedule) -> tuple[int, int]:
    """The steps at which the steady phase and the annealing begin."""
    return round(config.translation * config.steps), config.steps - round(config.anneal * config.steps)


@njit(cache=True, nogil=True)
def is_switched(draw, share):  # type: ignore[no-untyped-def]
    """Whether the document with this draw is laid out in turns: from the draw remixed, so whatever its layout else."""
    mixed = (draw ^ (draw >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)
    return np.float64((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(11)) * 2.0**-53 < share


@njit(cache=True, nogil=True)
def part_bytes(draw, anchor, around):  # type: ignore[no-untyped-def]
    """The least bytes of text of a part that begins at an anchor: by hash, from half of `around` to three halves."""
    mixed = (draw ^ (np.uint64(anchor) * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return max(1, around // 2 + np.int64((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(33)) % around)


@njit(cache=True, nogil=True)
def layout_of(draw, compressed, pair):  # type: ignore[no-untyped-def]
    """The layout that a document's draw (uint64) means at a share of compressed streams and a probability of a pair.

    A document that cannot be paired comes with `pair` 0 and takes one view with the stream's own rate, so the share of
    streams holds.
    """
    uniform = np.float64(draw >> np.uint64(11)) * 2.0**-53
    if uniform < pair:
        return PAIR_RAW_FIRST if draw & np.uint64(1) else PAIR_COMPRESSED_FIRST
    # Of 1 + pair streams a document, a share `compressed` shall be: those in pairs, and as many more alone.
    return COMPRESSED if uniform < compressed * (1.0 + pair) else RAW
