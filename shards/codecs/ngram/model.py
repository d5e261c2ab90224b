"""What the tables predict of a byte: the successors seen behind the last 6, 5, 4, 3 and 2 bytes, then a row of order 1.

A record holds the likeliest successors of one context, each with its share in 1 / 256, and the rest, which goes to the
next shorter context; what is left at last is shared by the row of the byte before, where every byte has weight. So

    weight[b] = shares[b] * 2**14 + rest * row[b],    total 2**36, whatever the context

and nothing is a float. A context may not reach back over a restart (the begin of a document, or of a segment): the
first bytes behind it are told by contexts of their own, `anchored`, that hold all bytes since.

Legend: N bytes of text, R records of 16 bytes: check (2), entropy in 1/32 bits, rest, 6 times successor and share.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from shards.codecs.windows.coder import CORRUPT, END, next_byte
from shards.codecs.windows.segments import begins

ORDERS = (6, 5, 4, 3, 2)
LONGEST_ORDER = 6
SUCCESSORS = 6
RECORD = 4 + 2 * SUCCESSORS
CHECK, ENTROPY, REST, FIRST = 0, 2, 3, 4  # where these lie in a record
BUCKET = 4  # records that a context may lie in: one cache line
SHARE = 256  # of a record, all shares and the rest
ALL = 1 << 22  # what the records share among them
ROW = 1 << 14  # of a row of order 1
TOTAL = ALL * ROW
START = 256  # the row behind a restart
ANCHORED = 8  # in a context's key, beside the number of its bytes

_U = np.uint64
_MIX1, _MIX2 = _U(0x9E3779B97F4A7C15), _U(0xC2B2AE3D27D4EB4F)


class Tables(NamedTuple):
    """The model."""

    records: np.ndarray  # (R, 16) uint8
    rows: np.ndarray  # (257, 257) int32: cumulated weights behind each byte, and behind a restart
    entropies: np.ndarray  # (257,) int32, of the rows, in 1/1024 bits


@njit(cache=True, nogil=True)
def key_of(history, length, anchored):  # type: ignore[no-untyped-def]
    """A context's key: its bytes, the last one lowest, and how many they are."""
    tag = _U(length + (ANCHORED if anchored else 0))
    return (history & ((_U(1) << _U(8 * length)) - _U(1))) | (tag << _U(56))


@njit(cache=True, nogil=True)
def place_of(key, records):  # type: ignore[no-untyped-def]
    """First record of the bucket of a context, and the check that tells it from others there."""
    key = (key ^ (key >> _U(31))) * _MIX1
    key = (key ^ (key >> _U(29))) * _MIX2
    key = key ^ (key >> _U(32))
    return np.int64(key >> _U(24)) % (records // BUCKET) * BUCKET, np.int64(key & _U(0xFFFF))


@njit(cache=True, nogil=True)
def _find(key, records):  # type: ignore[no-untyped-def]
    first, check = place_of(key, len(records))
    for r in range(first, first + BUCKET):
        if records[r, CHECK] == check & 255 and records[r, CHECK + 1] == check >> 8 and records[r, REST] > 0:
            return r
    return -1


@njit(cache=True, nogil=True)
def contexts(history, length, records, found):  # type: ignore[no-untyped-def]
    """The records of a position's contexts into `found`, the longest context first; how many there are.

    `history`: the last 8 bytes, the last one lowest; `length`: bytes since the restart.
    """
    count = 0
    if 0 < length < LONGEST_ORDER:
        r = _find(key_of(history, length, True), records)
        if r >= 0:
            found[count] = r
            count += 1
    for order in ORDERS:
        if order <= length:
            r = _find(key_of(history, order, False), records)
            if r >= 0:
                found[count] = r
                count += 1
    return count


@njit(cache=True, nogil=True)
def _surprise(found, count, row, records, entropies):  # type: ignore[no-untyped-def]
    """The entropy of what is predicted, in 1/1024 bits, as if no successor of a record stood in a shorter one."""
    entropy = np.int64(entropies[row])
    for i in range(count - 1, -1, -1):
        r = found[i]
        entropy = 32 * np.int64(records[r, ENTROPY]) + (np.int64(records[r, REST]) * entropy >> 8)
    return entropy


@njit(cache=True, nogil=True)
def read_entropies(text_N, restart_N, records, rows, entropies, entropy_N):  # type: ignore[no-untyped-def]
    """The entropy of each byte's prediction, in a context since the last restart."""
    found = np.empty(1 + len(ORDERS), np.int64)
    history, length, row = _U(0), 0, np.int64(START)
    for n in range(len(text_N)):
        if restart_N[n]:
            length, row = 0, np.int64(START)
        count = contexts(history, length, records, found)
        entropy_N[n] = _surprise(found, count, row, records, entropies)
        history, length, row = (history << _U(8)) | _U(text_N[n]), length + 1, np.int64(text_N[n])


@njit(cache=True, nogil=True)
def read_weights(text_N, restart_N, records, rows, below_N, weight_N):  # type: ignore[no-untyped-def]
    """What the coder takes of each byte: its weight, and that of all lesser ones."""
    found = np.empty(1 + len(ORDERS), np.int64)
    history, length, row = _U(0), 0, np.int64(START)
    for n in range(len(text_N)):
        if restart_N[n]:
            length, row = 0, np.int64(START)
        byte = np.int64(text_N[n])
        count = contexts(history, length, records, found)
        rest, below, weight = np.int64(ALL), np.int64(0), np.int64(0)
        for i in range(count):
            r, left = found[i], rest
            for at in range(FIRST, RECORD, 2):
                share = rest * np.int64(records[r, at + 1]) >> 8
                left -= share
                below += share * (records[r, at] < byte)
                weight += share * (records[r, at] == byte)
            rest = left
        below_N[n] = below * ROW + rest * rows[row, byte]
        weight_N[n] = weight * ROW + rest * (rows[row, byte + 1] - rows[row, byte])
        history, length, row = (history << _U(8)) | _U(byte), length + 1, byte


@njit(cache=True, nogil=True)
def _weights(found, count, row, records, rows, shares_B, below_B):  # type: ignore[no-untyped-def]
    """All weights, cumulated, into `below_B` (257,); `shares_B` (256,) is zero before and after."""
    rest = np.int64(ALL)
    for i in range(count):
        r, left = found[i], rest
        for at in range(FIRST, RECORD, 2):
            share = rest * np.int64(records[r, at + 1]) >> 8
            left -= share
            shares_B[records[r, at]] += share
        rest = left
    sum_ = np.int64(0)
    for b in range(256):
        below_B[b] = sum_ * ROW + rest * rows[row, b]
        sum_ += shares_B[b]
    below_B[256] = TOTAL
    for i in range(count):
        for at in range(FIRST, RECORD, 2):
            shares_B[records[found[i], at]] = 0


@njit(cache=True, nogil=True)
def decode(symbols, state, codes, records, rows, entropies, least, rise, by_segment, out):  # type: ignore[no-untyped-def]
    """Bytes into `out` until the symbols are used up; how many, or CORRUPT. `state`: a row of `new_states`."""
    found, below_B, shares_B = np.empty(1 + len(ORDERS), np.int64), np.empty(257, np.int64), np.zeros(256, np.int64)
    history, length, row, own, former = _U(0), 0, np.int64(START), 0, 0
    done = 0
    while True:
        count = contexts(history, length, records, found)
        if by_segment:
            entropy = _surprise(found, count, row, records, entropies)
            if done == 0 or begins(entropy, former, own, least, rise):
                own = 0
            former = entropy
            if own < length:
                count = contexts(history, own, records, found)
        _weights(found, count, row if own or not by_segment else START, records, rows, shares_B, below_B)
        byte = next_byte(state, symbols, below_B, TOTAL, codes)
        if byte == END:
            return done
        if byte == CORRUPT or done == len(out):
            return CORRUPT
        out[done] = byte
        history, length, row = (history << _U(8)) | _U(byte), length + 1, byte
        own, done = own + 1, done + 1
