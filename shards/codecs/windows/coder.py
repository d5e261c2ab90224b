"""Windows of W bits: every code is the name of one byte string, given what the model predicts at each of its bytes.

A window has M codes. Its state is an interval of codes, [low, low + r), at first all of them. The code `low` means that
the string ends here; the other r - 1 codes are shared among the 256 next bytes in proportion to the model's weights,
rounded down to whole codes by integer arithmetic:

    byte b gets  [low + 1 + below[b] * (r - 1) // total,  low + 1 + (below[b] + weight[b]) * (r - 1) // total)

where below[b] is the weight of all lesser bytes. A byte whose share is empty does not fit: the window is emitted as
`low`, and the byte begins the next one, with all codes again. If it does not fit there either it is escaped: code
M + byte. So no bit is padded, the decoder learns from the code itself where the string ends, and nothing but the bytes
and the weights decides the code. Ids: [0, M) windows, [M, M + 256) escapes.

Without `ends` (the fuzzy mode) `low` is no end of its own, and all r codes are shared. Then a string and its likely
continuations may have one name: fewer symbols, which cannot be decoded.

Legend: N bytes of text, S symbols, B = 256 byte values.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

BYTES = 256
MOST = 1 << 40  # of a model's total weight: times the codes of a window it stays within 63 bits


class Alphabet(NamedTuple):
    """The ids of windows of so many bits."""

    bits: int
    codes: int  # M: windows are [0, M), escapes [M, M + 256)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.codes + BYTES

    @property
    def width(self) -> int:
        """Bytes a symbol."""
        return 2 if self.size > 256 else 1


def alphabet(bits: int) -> Alphabet:
    """Windows and escapes together are 2**bits ids; but windows of 8 bits, of which none would be left, have 256."""
    return Alphabet(bits, 256 if bits == 8 else (1 << bits) - BYTES)


def encode_windows(
    text_N: np.ndarray, below_N: np.ndarray, weight_N: np.ndarray, total_N: np.ndarray, ends_N: np.ndarray, codes: int,
    ends: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Symbols, (S,) uint16, and how many there are behind each byte that ends a segment, (segments,) int64.

    `below_N`, `weight_N`, `total_N`: of each byte of the text, integers. `ends_N`: is a byte the last of its segment?
    There the window ends too. Needs room for N symbols at most: each holds at least one byte.
    """
    symbols = np.empty(len(text_N), np.uint16)
    marks = np.empty(len(text_N), np.int64)
    count, segments = _encode(text_N, below_N, weight_N, total_N, ends_N, codes, ends, symbols, marks)
    return symbols[:count].copy(), marks[:segments].copy()


@njit(cache=True, nogil=True)
def _encode(text_N, below_N, weight_N, total_N, ends_N, codes, ends, symbols, marks):  # type: ignore[no-untyped-def]
    first = 1 if ends else 0
    low, r, held, count, segments = 0, codes, 0, 0, 0
    for n in range(len(text_N)):
        below, above, total = np.int64(below_N[n]), np.int64(below_N[n]) + np.int64(weight_N[n]), np.int64(total_N[n])
        begin, end = below * (r - first) // total, above * (r - first) // total
        if begin == end and held:
            symbols[count] = low
            count += 1
            low, r, held = 0, codes, 0
            begin, end = below * (r - first) // total, above * (r - first) // total
        if begin == end:
            symbols[count] = codes + text_N[n]
            count += 1
        else:
            low, r, held = low + first + begin, end - begin, held + 1
        if ends_N[n]:
            if held:
                symbols[count] = low
                count += 1
                low, r, held = 0, codes, 0
            marks[segments] = count
            segments += 1
    if held:
        symbols[count] = low
        count += 1
    return count, segments


# A decoder's state: the symbols [AT, UNTIL) to read, the interval, and whether a window is open. One row a lane.
AT, UNTIL, LOW, RANGE, OPEN = 0, 1, 2, 3, 4
STATE = 5
END, CORRUPT = -1, -2


@njit(cache=True, nogil=True)
def next_byte(state, symbols, below_B, total, codes):  # type: ignore[no-untyped-def]
    """The next byte of a lane by the model's weights for it; END where its symbols are used up, CORRUPT if impossible.

    `below_B`: (257,) cumulated weights, from 0 to `total`. Impossible: a code of no byte, an empty window, the escape
    of a byte that fits a window.
    """
    if state[OPEN] and symbols[state[AT]] == state[LOW]:
        state[AT] += 1
        state[OPEN] = 0
    if not state[OPEN]:
        if state[AT] == state[UNTIL]:
            return END
        state[LOW], state[RANGE] = 0, codes
        symbol = np.int64(symbols[state[AT]])
        if symbol >= codes:
            byte = symbol - codes
            if byte >= 256 or _fits(below_B, total, byte, codes):
                return CORRUPT
            state[AT] += 1
            return byte
        if symbol == 0:
            return CORRUPT
    wanted, room = np.int64(symbols[state[AT]]) - state[LOW] - 1, state[RANGE] - 1
    if wanted < 0 or wanted >= room:
        return CORRUPT
    least, most = 0, 256  # below[least] * room // total <= wanted < below[most] * room // total
    while most - least > 1:
        middle = (least + most) // 2
        if below_B[middle] * room // total <= wanted:
            least = middle
        else:
            most = middle
    begin, end = below_B[least] * room // total, below_B[least + 1] * room // total
    state[LOW], state[RANGE], state[OPEN] = state[LOW] + 1 + begin, end - begin, 1
    return least


@njit(cache=True, nogil=True)
def _fits(below_B, total, byte, r):  # type: ignore[no-untyped-def]
    return below_B[byte] * (r - 1) // total != below_B[byte + 1] * (r - 1) // total


def new_states(spans: Any) -> np.ndarray:
    """(lanes, STATE) int64 of lanes that begin to read the symbols of each (from, until)."""
    states = np.zeros((len(spans), STATE), np.int64)
    states[:, :2] = spans
    return states
