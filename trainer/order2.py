"""An adaptive order-2 byte model, and its product with the language model: the tables that the coder codes with.

The order-2 model counts what followed the last two bytes, the last one, and none; each order gives what it has seen,
and hands the share of the unseen (Witten and Bell's: distinct / (total + distinct)) down to the next, at last to 1/256.

The product is p(byte) ~ model(byte)^u * order2(byte)^w (Hinton's product of experts, with weights). The log-loss is
convex in u and w, which follow its gradient after every byte (AdaGrad: Duchi, Hazan and Singer 2011). A set of weights
is kept for each magnitude of how often the two bytes were seen before. With weights at zero all bytes are equally
likely: so what neither expert can foretell costs little more than 8 bits a byte.

All lanes share the counts and the weights; within a step all are predicted before any is learned from.

Legend: L lanes, S = 256 byte values, O contexts of all orders, B sets of weights.
"""

import math

import numpy as np
from numba import njit

BYTES = 256
ORDER_0, ORDER_1, ORDER_2 = 0, 1, 1 + BYTES  # where each order's contexts begin among all
CONTEXTS = ORDER_2 + BYTES * BYTES
LIMIT = 1023  # a count that gets there halves its context's: what is recent weighs more
SETS = 12
RATE = 0.2
START = (0.6, 0.4)
FLOOR = -16.0  # of a log-probability, in nats: no expert may forbid a byte
TOTAL = 1 << 22  # of a table: whole numbers that float32 holds


class Experts:
    """The adaptive state. `tables` from the language model's predictions, then `learn` the bytes that came."""

    def __init__(self, lanes: int) -> None:
        self.counts_OS = np.zeros((CONTEXTS, BYTES), np.uint16)
        self.totals_O = np.zeros(CONTEXTS, np.int64)
        self.distinct_O = np.zeros(CONTEXTS, np.int64)
        self.weights_B2 = np.tile(np.array(START), (SETS, 1))
        self.squares_B2 = np.full((SETS, 2), 1.0)
        self.last_L2 = np.zeros((lanes, 2), np.int64)  # the last byte of each lane, and the one before it
        self.sets_L = np.zeros(lanes, np.int64)
        self.logs_L2S = np.zeros((lanes, 2, BYTES))
        self.mixed_LS = np.zeros((lanes, BYTES))
        self.tables_LS = np.zeros((lanes, BYTES), np.float32)
        self.nats_3 = np.zeros(3)  # so far: of the language model alone, of order 2 alone, of both

    def tables(self, model_LS: np.ndarray) -> np.ndarray:
        """From log-probabilities of the next bytes, (L, S) float32: whole numbers of sum TOTAL, (L, S) float32.

        The array is filled anew by the next call.
        """
        _predict(
            model_LS, self.counts_OS, self.totals_O, self.distinct_O, self.last_L2, self.weights_B2,
            self.sets_L, self.logs_L2S, self.mixed_LS, self.tables_LS,
        )  # fmt: skip
        return self.tables_LS

    def learn(self, bytes_L: np.ndarray) -> None:
        """Take in the bytes of the first `len(bytes_L)` lanes; the others have ended."""
        _learn(
            bytes_L, self.counts_OS, self.totals_O, self.distinct_O, self.last_L2, self.weights_B2, self.squares_B2,
            self.sets_L, self.logs_L2S, self.mixed_LS, self.nats_3,
        )  # fmt: skip


@njit(cache=True)
def _predict(model_LS, counts_OS, totals_O, distinct_O, last_L2, weights_B2,  # type: ignore[no-untyped-def]
             sets_L, logs_L2S, mixed_LS, tables_LS):  # fmt: skip
    order2_S = np.empty(BYTES)
    for lane in range(len(model_LS)):
        one, two = last_L2[lane]
        order2_S[:] = 1.0 / BYTES
        for context in (ORDER_0, ORDER_1 + one, ORDER_2 + two * BYTES + one):
            total, distinct = totals_O[context], distinct_O[context]
            if total:
                scale = 1.0 / (total + distinct)
                for s in range(BYTES):
                    order2_S[s] = (counts_OS[context, s] + distinct * order2_S[s]) * scale
        total, number = totals_O[ORDER_2 + two * BYTES + one], 0
        while total and number < SETS - 1:
            total, number = total >> 1, number + 1
        sets_L[lane] = number
        u, w = weights_B2[number]
        largest = -np.inf
        for s in range(BYTES):
            logs_L2S[lane, 0, s] = max(FLOOR, np.float64(model_LS[lane, s]))
            logs_L2S[lane, 1, s] = max(FLOOR, math.log(order2_S[s]))
            mixed_LS[lane, s] = u * logs_L2S[lane, 0, s] + w * logs_L2S[lane, 1, s]
            largest = max(largest, mixed_LS[lane, s])
        total_p = 0.0
        for s in range(BYTES):
            mixed_LS[lane, s] = math.exp(mixed_LS[lane, s] - largest)
            total_p += mixed_LS[lane, s]
        left, best = TOTAL, 0
        for s in range(BYTES):
            mixed_LS[lane, s] /= total_p
            share = 1 + int(mixed_LS[lane, s] * (TOTAL - BYTES))
            tables_LS[lane, s] = share
            left -= share
            if mixed_LS[lane, s] > mixed_LS[lane, best]:
                best = s
        tables_LS[lane, best] += left


@njit(cache=True)
def _learn(bytes_L, counts_OS, totals_O, distinct_O, last_L2, weights_B2, squares_B2,  # type: ignore[no-untyped-def]
           sets_L, logs_L2S, mixed_LS, nats_3):  # fmt: skip
    slopes_B2, lanes_B = np.zeros((SETS, 2)), np.zeros(SETS)
    for lane in range(len(bytes_L)):
        byte, number = np.int64(bytes_L[lane]), sets_L[lane]
        lanes_B[number] += 1
        for expert in range(2):
            expected = 0.0
            for s in range(BYTES):
                expected += mixed_LS[lane, s] * logs_L2S[lane, expert, s]
            slopes_B2[number, expert] += expected - logs_L2S[lane, expert, byte]
            nats_3[expert] -= logs_L2S[lane, expert, byte]
        nats_3[2] -= math.log(max(mixed_LS[lane, byte], 1.0 / TOTAL))
    for number in range(SETS):
        if lanes_B[number]:
            for expert in range(2):
                slope = slopes_B2[number, expert] / lanes_B[number]
                squares_B2[number, expert] += slope * slope
                step = RATE * slope / math.sqrt(squares_B2[number, expert])
                weights_B2[number, expert] = max(0.0, weights_B2[number, expert] - step)
    for lane in range(len(bytes_L)):
        byte = np.int64(bytes_L[lane])
        one, two = last_L2[lane]
        for context in (ORDER_0, ORDER_1 + one, ORDER_2 + two * BYTES + one):
            if counts_OS[context, byte] == LIMIT:
                totals_O[context] = distinct_O[context] = 0
                for s in range(BYTES):
                    counts_OS[context, s] >>= 1
                    totals_O[context] += counts_OS[context, s]
                    distinct_O[context] += counts_OS[context, s] > 0
            distinct_O[context] += counts_OS[context, byte] == 0
            counts_OS[context, byte] += 1
            totals_O[context] += 1
        last_L2[lane, 0], last_L2[lane, 1] = byte, one
