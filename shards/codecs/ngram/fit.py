"""Tables from a sample: exact counts by sorting, so that no order of documents and no hash decides anything.

Orders below the longest count not how often a byte followed, but behind how many different longer contexts it did
(Kneser and Ney 1995), with the three discounts of Chen and Goodman (1998). The longest count documents: what one
repeats says little of others. Where the table is too small, the contexts that occur most often stay.

Legend: as in model.py; P pairs of a context and a successor, C contexts.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numba import njit

from shards.codecs.ngram.model import (
    ALL,
    ANCHORED,
    BUCKET,
    CHECK,
    ENTROPY,
    FIRST,
    LONGEST_ORDER,
    ORDERS,
    RECORD,
    REST,
    ROW,
    SHARE,
    START,
    SUCCESSORS,
    Tables,
    place_of,
    read_entropies,
)  # fmt: skip
from shards.codecs.windows.segments import LONGEST, UNIT, Thresholds, fit_thresholds, segment_ends

HELD = 16  # one document in so many tells the thresholds and is not counted
MOST_HELD = 1 << 20  # bytes of these
FEW = 32  # documents; where there are no more, all are counted and tell the thresholds too
LEAST = 3  # occurrences of a context, at each document one: what is rarer says too little
_LOGS = np.array([0, *(round(UNIT * float(np.log2(n))) for n in range(1, SHARE + 1))], np.int64)

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # (P,) context and successor; weight; occurrences


def fit_tables(sample: Sequence[bytes], records: int, segment: int, by_segment: bool) -> tuple[Tables, Thresholds]:
    """Tables of at most so many records, and the thresholds for segments of `segment` bytes."""
    documents = sorted(sample, key=lambda raw: (blake2b(raw).digest(), raw))
    held, counted = documents[::HELD], [raw for i, raw in enumerate(documents) if i % HELD]
    if len(documents) <= FEW:
        held = counted = documents
    text_N, restart_N = joined(counted)
    length_N, history_N = _since(restart_N), _histories(text_N)
    document_N = np.cumsum(restart_N)
    parts = list(_by_orders(text_N, history_N, length_N, document_N))
    rows = _rows(text_N, length_N)
    tables = _made(parts, rows, records)
    thresholds = fit_thresholds(list(_entropies(tables, held)), segment)
    if by_segment:
        ends_N = segment_ends(entropies(tables, text_N, restart_N), restart_N, thresholds)
        restart_N = np.concatenate((restart_N[:1], ends_N[:-1]))
        length_N = _since(restart_N)
        parts += _anchored(text_N, history_N, length_N)
        rows[START] = _row(np.bincount(text_N[length_N == 0], minlength=256), rows[START])
        tables = _made(parts, rows, records)
    return tables, thresholds


def joined(raws: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The texts one after another, (N,) uint8, and where each begins, (N,) bool."""
    text_N = np.frombuffer(b"".join(raws), np.uint8)
    restart_N = np.zeros(len(text_N), np.bool_)
    restart_N[np.cumsum([0, *map(len, (raw for raw in raws if raw))])[:-1]] = True
    return text_N, restart_N


def entropies(tables: Tables, text_N: np.ndarray, restart_N: np.ndarray) -> np.ndarray:
    """(N,) int64, in 1/1024 bits."""
    entropy_N = np.empty(len(text_N), np.int64)
    read_entropies(text_N, restart_N, *tables, entropy_N)
    return entropy_N


def _entropies(tables: Tables, raws: Sequence[bytes]) -> Iterator[np.ndarray]:
    size = 0
    for raw in raws:
        if size < MOST_HELD:
            size += len(raw)
            yield entropies(tables, *joined([raw[:MOST_HELD]]))


def _since(restart_N: np.ndarray) -> np.ndarray:
    """Bytes since the last restart, (N,) int64."""
    at_N = np.arange(len(restart_N))
    return at_N - np.maximum.accumulate(np.where(restart_N, at_N, 0))


def _histories(text_N: np.ndarray) -> np.ndarray:
    """The bytes before each, as many as the longest order has, the last one lowest: (N,) uint64."""
    history_N = np.zeros(len(text_N), np.uint64)
    for back in range(1, LONGEST_ORDER + 1):
        history_N[back:] |= text_N[:-back].astype(np.uint64) << np.uint64(8 * (back - 1))
    return history_N


def _once(pairs: np.ndarray, document_P: np.ndarray) -> np.ndarray:
    """Sorted, each pair once for each document that has it: what one document repeats says little of others."""
    by = np.lexsort((document_P, pairs))
    pairs, document_P = pairs[by], document_P[by]
    new = np.ones(len(pairs), np.bool_)
    new[1:] = (pairs[1:] != pairs[:-1]) | (document_P[1:] != document_P[:-1])
    return pairs[new]


def _mask(size: int) -> np.uint64:
    return np.uint64((1 << 8 * size) - 1)


def _by_orders(
    text_N: np.ndarray, history_N: np.ndarray, length_N: np.ndarray, document_N: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each order: keys of contexts (C,), records with (C,) occurrences."""
    whole = length_N >= LONGEST_ORDER
    pairs = _once(history_N[whole] << np.uint64(8) | text_N[whole], document_N[whole])
    counts = _runs(pairs, np.ones(len(pairs), np.int64))
    for order in ORDERS:
        if order < LONGEST_ORDER:
            pairs = counts[0] & _mask(order + 1)
            by = np.argsort(pairs, kind="stable")
            counts = _runs(pairs[by], counts[2][by])
        yield _contexts(counts, order)


def _anchored(
    text_N: np.ndarray, history_N: np.ndarray, length_N: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for length in range(1, LONGEST_ORDER):
        here = length_N == length
        pairs = ((history_N[here] & _mask(length)) << np.uint64(8)) | text_N[here]
        pairs.sort()
        yield _contexts(_runs(pairs, np.ones(len(pairs), np.int64), True), length + ANCHORED)


def _runs(pairs: np.ndarray, occurrences: np.ndarray, plain: bool = False) -> Counts:
    """Equal pairs as one: how many there were (their weight), and the sum of their occurrences."""
    starts = np.flatnonzero(np.concatenate((pairs[:1] == pairs[:1], pairs[1:] != pairs[:-1])))
    if not len(starts):
        return pairs, occurrences, occurrences
    return pairs[starts], np.diff(starts, append=len(pairs)), np.add.reduceat(occurrences, starts)


def _contexts(counts: Counts, tag: int) -> tuple[np.ndarray, np.ndarray]:
    pairs, weight_P, occurrences_P = counts
    bytes_P = pairs >> np.uint64(8)
    starts = np.flatnonzero(np.concatenate((pairs[:1] == pairs[:1], bytes_P[1:] != bytes_P[:-1])))
    records = np.zeros((len(starts), RECORD + 8), np.uint8)
    if len(starts):
        occurrences = np.add.reduceat(occurrences_P, starts)
        records[:, RECORD:] = occurrences.astype("<i8").view(np.uint8).reshape(-1, 8)
        of = np.bincount(np.minimum(weight_P, 5), minlength=6).tolist()
        _fill((pairs & np.uint64(255)).astype(np.uint8), weight_P, np.append(starts, len(pairs)), _discounts(of),
              _LOGS, records)  # fmt: skip
    return bytes_P[starts] | np.uint64(tag << 56), records


def _discounts(of: list[int]) -> np.ndarray:
    """What is taken from a weight of 1, 2, 3 or more, in 1/100, from how many pairs have weights 1 to 4."""
    found = [0, 60, 100, 130]
    if min(of[1:5]) > 0:
        for n in (1, 2, 3):
            taken = 100 * n - 100 * (n + 1) * of[1] * of[n + 1] // ((of[1] + 2 * of[2]) * of[n])
            found[n] = min(max(taken, 10), 100 * n - 5)
    return np.array(found, np.int64)


@njit(cache=True, nogil=True)
def _fill(successor_P, weight_P, starts, discounts, logs, records):  # type: ignore[no-untyped-def]
    for c in range(len(starts) - 1):
        begin, end = starts[c], starts[c + 1]
        sum_ = 0
        for p in range(begin, end):
            sum_ += weight_P[p]
        rest, entropy = SHARE, 0
        limit, last = np.int64(1 << 62), -1
        for i in range(SUCCESSORS):  # the next in order of weight, then of byte
            best = -1
            for p in range(begin, end):
                w = weight_P[p]
                if (w < limit or (w == limit and p > last)) and (best < 0 or w > weight_P[best]):
                    best = p
            if best < 0:
                break
            limit, last = weight_P[best], best
            share = (SHARE * (100 * limit - discounts[min(limit, 3)]) + 50 * sum_) // (100 * sum_)
            share = min(share, rest - 1)
            if share <= 0:
                break
            records[c, FIRST + 2 * i], records[c, FIRST + 2 * i + 1] = successor_P[best], share
            rest -= share
            entropy += share * (logs[SHARE] - logs[share])
        entropy += rest * (logs[SHARE] - logs[rest])
        if rest < SHARE:
            records[c, ENTROPY], records[c, REST] = min(255, entropy // SHARE // 32), rest


def _made(parts: Sequence[tuple[np.ndarray, np.ndarray]], rows: np.ndarray, records: int) -> Tables:
    keys, filled = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    table = np.zeros((records, RECORD), np.uint8)
    occurrences = filled[:, RECORD:].copy().view("<i8")[:, 0]
    used = np.flatnonzero((occurrences >= LEAST) & (filled[:, REST] > 0))
    used = used[np.lexsort((keys[used], -occurrences[used]))]
    _insert(keys, filled, used, table)
    below = np.zeros((len(rows), 257), np.int32)
    np.cumsum(rows, axis=1, out=below[:, 1:])
    logs = np.array([0, *(round(UNIT * float(np.log2(n))) for n in range(1, ROW + 1))], np.int64)
    return Tables(table, below, ((rows * (logs[ROW] - logs[rows])).sum(axis=1) // ROW).astype(np.int32))


@njit(cache=True, nogil=True)
def _insert(keys, filled, order, table):  # type: ignore[no-untyped-def]
    for c in order:
        first, check = place_of(keys[c], len(table))
        for r in range(first, first + BUCKET):
            if table[r, REST] == 0:
                table[r] = filled[c, :RECORD]
                table[r, CHECK], table[r, CHECK + 1] = check & 255, check >> 8
                break
            if table[r, CHECK] == check & 255 and table[r, CHECK + 1] == check >> 8:
                break


def _rows(text_N: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """(257, 256) int64: weights behind each byte, by Witten and Bell, each at least 1; behind a restart, of order 0."""
    zero = _row(np.bincount(text_N, minlength=256), np.full(256, ROW // 256))
    rows = np.tile(zero, (257, 1))
    inside = np.flatnonzero(length_N > 0)
    pairs = np.bincount(text_N[inside - 1].astype(np.int64) * 256 + text_N[inside], minlength=1 << 16)
    for byte, counts in enumerate(pairs.reshape(256, 256)):
        rows[byte] = _row(counts, zero)
    return rows


def _row(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
    seen = int((counts > 0).sum())
    weights = 1 + (ROW - 256) * (counts * ROW + seen * lower) // (max(int(counts.sum()) + seen, 1) * ROW)
    weights[np.argmax(weights)] += ROW - weights.sum()
    return weights


assert ALL * ROW < 1 << 40 and LONGEST > LONGEST_ORDER
