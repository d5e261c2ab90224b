"""The planner's inner loop, compiled: documents laid into the rows of one global batch.

It is a state machine over a few integers a lane. Row after row, a lane goes on with its document, and when that has
ended takes the next; what does not fit a row goes on in the lane's next row, behind `bos` and the view's sentinel.

Legend: R rows, each of a lane; F fields of a lane, S sets, D documents looked up, A fields of a record, P pieces, K
fields of a piece, V compressed views.
"""

import numpy as np
from numba import njit

from trainer.ahead import (
    ANCHOR_COUNT,
    ANCHORS,
    GROUP,
    LENGTH,
    ORDINAL,
    PAIRABLE,
    RAW_LENGTH,
    RECORD,
    ROW,
    SKIP,
    VIEW_RECORD,
)
from trainer.memory import load_u32
from trainer.recipe import (
    COMPRESSED,
    PAIR_COMPRESSED_FIRST,
    PAIR_RAW_FIRST,
    PARALLEL,
    RAW,
    SWITCH,
    is_switched,
    layout_of,
    part_bytes,
)
from trainer.specials import END_OVERHEAD, PAIR_OVERHEAD, SHORTEST

# A lane: the five integers of the state, then what follows from them.
SET, NUMBER, START, PART, OFFSET, STATE_FIELDS = 0, 1, 2, 3, 4, 5
LAYOUT, VIEW, L_ORDINAL, L_GROUP, L_ROW, L_RAW, L_LENGTH, L_ANCHORS, L_COUNT, L_DRAW, L_PAIRABLE = range(5, 16)
LANE_FIELDS = 16
# A piece: a run of one document's symbols at one place of the batch.
P_ROW, P_AT, P_SET, P_NUMBER, P_ORDINAL, P_GROUP, P_DOC_ROW, P_STREAM, P_BEGIN, P_END, P_BOS, P_TAIL, P_TEXT = range(13)
PIECE_FIELDS = 13
# What follows a piece's symbols.
CUT, JOIN, JOIN_CUT, DONE = 0, 1, 2, 3

BY_DOCUMENTS, BY_BYTES, BY_SYMBOLS = 0, 1, 2  # what the weights of mixed sets are shares of

# Results other than a number of pieces.
NEEDS_DOCUMENTS, DOES_NOT_FIT = -1, -1000  # minus the set, minus the lane


@njit(cache=True, nogil=True)
def plan_rows(lanes_RF, taken_S, used_S, weights_S, unit, ahead, draws, base_S, rates, shares_V,  # type: ignore[no-untyped-def]
              row_tokens, step, phase, pieces_PK, counts):  # fmt: skip
    """Fill the rows of one batch; returns the number of pieces, or what is missing.

    `ahead`, `draws`: tuples of each set's records (D, A) and draws (D,), which begin at running count `base_S`.
    `rates`: (share of compressed streams, probability of a pair, are all in parallel, probability of turns, bytes of a
    part in these). `shares_V`: cumulated. `phase`: the step that the schedule's present phase began at.
    `counts`: (3,) documents begun, of these not pairable; left. On a negative result everything given is spoilt.
    """
    pieces = 0
    for r in range(len(lanes_RF)):
        lane, at = lanes_RF[r], 0
        if lane[NUMBER] >= 0 and lane[START] < phase and not is_kept(lane, rates):
            lane[NUMBER] = -1
            counts[2] += 1
        while row_tokens - at >= SHORTEST:
            if lane[NUMBER] < 0:
                s = next_set(used_S, weights_S)
                index = next_document(ahead[s], taken_S[s] - base_S[s])
                if index < 0:
                    return NEEDS_DOCUMENTS - s
                lane[SET], lane[NUMBER], lane[START], lane[PART], lane[OFFSET] = s, base_S[s] + index, step, 0, 0
                counts[0] += 1
                counts[1] += open_document(lane, ahead[s][index], draws[s][index], rates, shares_V)
                taken_S[s] = base_S[s] + index + 1
                used_S[s] += amount(lane, unit)
            if lane[LAYOUT] == PAIR_RAW_FIRST or lane[LAYOUT] == PAIR_COMPRESSED_FIRST:
                placed = place_pair(lane, r, at, row_tokens, pieces_PK, pieces)
                if placed == 0:
                    if at == 0:
                        return DOES_NOT_FIT - r
                    break  # the rest of the row is padding
            elif lane[LAYOUT] == SWITCH:
                placed = place_turns(lane, r, at, row_tokens, rates[4], pieces_PK, pieces)
            else:
                placed = place_stream(lane, r, at, row_tokens, pieces_PK, pieces)
            pieces += placed
            at = pieces_PK[pieces - 1, P_AT] + tokens_of(pieces_PK[pieces - 1])
    return pieces


@njit(cache=True, nogil=True)
def next_set(used_S, weights_S):  # type: ignore[no-untyped-def]
    """The set that is furthest behind its share."""
    best = 0
    for s in range(1, len(used_S)):
        if used_S[s] * weights_S[best] < used_S[best] * weights_S[s]:
            best = s
    return best


@njit(cache=True, nogil=True)
def next_document(records_DA, index):  # type: ignore[no-untyped-def]
    """The next document from `index` on that is not left out; -1 where none has been looked up."""
    while index < len(records_DA):
        if not records_DA[index, SKIP]:
            return index
        index += 1
    return -1


@njit(cache=True, nogil=True)
def open_document(lane, record, draw, rates, shares_V):  # type: ignore[no-untyped-def]
    """Decide a document's layout and view; returns 1 if it could not become a pair for want of anchors."""
    view = choose_view(draw, shares_V)
    at = RECORD + VIEW_RECORD * (view - 1)
    lane[VIEW], lane[L_DRAW], lane[L_ORDINAL], lane[L_GROUP] = view, np.int64(draw), record[ORDINAL], record[GROUP]
    lane[L_ROW], lane[L_RAW], lane[L_PAIRABLE], lane[L_COUNT] = record[ROW], record[RAW_LENGTH], 0, 0
    if view > 0:
        lane[L_LENGTH], lane[L_PAIRABLE] = record[at + LENGTH], record[at + PAIRABLE]
        lane[L_ANCHORS], lane[L_COUNT] = record[at + ANCHORS], record[at + ANCHOR_COUNT]
    lane[LAYOUT] = choose_layout(draw, lane[L_PAIRABLE] != 0, lane[L_COUNT], rates)
    return 1 if view > 0 and rates[1] > 0.0 and not lane[L_PAIRABLE] else 0


@njit(cache=True, nogil=True)
def choose_layout(draw, pairable, anchors, rates):  # type: ignore[no-untyped-def]
    """The layout of a document with this draw and so many anchors in its view."""
    compressed, pair, parallel, switch, _ = rates
    if switch > 0.0 and pairable and anchors > 2 and is_switched(draw, switch):
        return SWITCH  # there is an anchor between the ends
    return PARALLEL if parallel else layout_of(draw, compressed, pair if pairable else 0.0)


@njit(cache=True, nogil=True)
def is_kept(lane, rates):  # type: ignore[no-untyped-def]
    """Whether a document that was begun in an earlier phase of the schedule would be laid out alike in this one."""
    return lane[LAYOUT] == choose_layout(np.uint64(lane[L_DRAW]), lane[L_PAIRABLE] != 0, lane[L_COUNT], rates)


@njit(cache=True, nogil=True)
def choose_view(draw, shares_V):  # type: ignore[no-untyped-def]
    """A compressed view (from 1) by its share, from the same draw remixed; 0 where the run has none."""
    if len(shares_V) < 2:
        return len(shares_V)
    mixed = (draw ^ (draw >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    uniform = np.float64((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(11)) * 2.0**-53
    for v in range(len(shares_V)):
        if uniform < shares_V[v]:
            return v + 1
    return len(shares_V)


@njit(cache=True, nogil=True)
def amount(lane, unit):  # type: ignore[no-untyped-def]
    """What a document counts for its set's share: 1, bytes of text, or symbols laid out."""
    if unit == BY_DOCUMENTS:
        return 1
    if unit == BY_BYTES or lane[LAYOUT] == RAW:
        return lane[L_RAW]
    if lane[LAYOUT] == COMPRESSED:
        return lane[L_LENGTH]
    if lane[LAYOUT] == SWITCH:  # about half of the text in each view
        return (lane[L_RAW] + lane[L_LENGTH]) // 2
    return lane[L_RAW] + lane[L_LENGTH]


@njit(cache=True, nogil=True)
def place_stream(lane, row, at, row_tokens, pieces_PK, p):  # type: ignore[no-untyped-def]
    """Lay as much of one view as fits; the lane comes back idle if the document ends. Returns 1, the pieces placed."""
    layout, begin = lane[LAYOUT], lane[OFFSET]
    compressed = lane[PART] == 1 if layout == PARALLEL else layout == COMPRESSED
    stream = lane[VIEW] if compressed else 0
    length = lane[L_LENGTH] if compressed else lane[L_RAW]
    room = row_tokens - at - 2  # behind bos and the sentinel
    ends = length - begin + END_OVERHEAD <= room
    end = length if ends else min(length, begin + room)
    text = end - begin
    if compressed:  # bytes behind a part of the symbols: by proportion, so that the parts add up to the document
        most = max(length, 1)
        text = lane[L_RAW] * end // most - lane[L_RAW] * begin // most
    write_piece(pieces_PK[p], lane, row, at, stream, begin, end, 1, DONE if ends else CUT, text)
    if not ends:
        lane[OFFSET] = end
    elif layout == PARALLEL and lane[PART] == 0 and lane[VIEW] > 0:
        lane[PART], lane[OFFSET] = 1, 0
    else:
        lane[NUMBER] = -1
    return 1


@njit(cache=True, nogil=True)
def place_pair(lane, row, at, row_tokens, pieces_PK, p):  # type: ignore[no-untyped-def]
    """The longest anchor-to-anchor pair that fits the rest of the row, so that no half lacks its counterpart.

    Returns the pieces placed: 2, or 0 where none fits.
    """
    anchors, first, last = lane[L_ANCHORS], lane[OFFSET], lane[L_COUNT] - 1
    raw_begin, symbol_begin = np.int64(load_u32(anchors, 2 * first)), np.int64(load_u32(anchors, 2 * first + 1))
    room = raw_begin + symbol_begin + row_tokens - at - PAIR_OVERHEAD
    low, high = first, last + 1  # the last anchor up to which both halves take at most `room`
    while high - low > 1:
        middle = (low + high) // 2
        if np.int64(load_u32(anchors, 2 * middle)) + np.int64(load_u32(anchors, 2 * middle + 1)) <= room:
            low = middle
        else:
            high = middle
    until = low
    raw_end, symbol_end = np.int64(load_u32(anchors, 2 * until)), np.int64(load_u32(anchors, 2 * until + 1))
    if until == last and raw_end + symbol_end + END_OVERHEAD > room:
        until -= 1
    if until < first or (until == first and first != last) or raw_begin + symbol_begin > room:
        return 0
    raw_end, symbol_end = np.int64(load_u32(anchors, 2 * until)), np.int64(load_u32(anchors, 2 * until + 1))
    ends, text = until == last, raw_end - raw_begin
    raw_first = lane[LAYOUT] == PAIR_RAW_FIRST
    for half in range(2):
        is_raw, tail = (half == 0) == raw_first, (DONE if ends else CUT) if half else (JOIN if ends else JOIN_CUT)
        if is_raw:
            write_piece(pieces_PK[p + half], lane, row, at, 0, raw_begin, raw_end, 1 - half, tail, text)
        else:
            write_piece(pieces_PK[p + half], lane, row, at, lane[VIEW], symbol_begin, symbol_end, 1 - half, tail, text)
        at += tokens_of(pieces_PK[p + half])
    if ends:
        lane[NUMBER] = -1
    else:
        lane[OFFSET] = until
    return 2


@njit(cache=True, nogil=True)
def place_turns(lane, row, at, row_tokens, around, pieces_PK, p):  # type: ignore[no-untyped-def]
    """As many of a document's parts as fit, raw and compressed in turn; one that is cut goes on in the next row.

    PART is twice the anchor that the part begins at, and 1 more where it is compressed: all else about a part follows.
    OFFSET is in the part's own view. Returns the pieces placed.
    """
    placed, last = 0, lane[L_COUNT] - 1
    while True:
        first, side = lane[PART] >> 1, lane[PART] & 1
        until = end_of_part(lane, first, around)
        start, end, begin = anchor_at(lane, first, side), anchor_at(lane, until, side), lane[OFFSET]
        room = row_tokens - at - (2 if placed == 0 else 1)  # behind bos, which only the first has, and the sentinel
        if until == last:
            tail = DONE if end - begin + END_OVERHEAD <= room else CUT
        else:  # room for a closer, and for a sentinel and a symbol of the next part
            tail = JOIN_CUT if end - begin + 3 <= room else CUT
        stop = min(end, begin + room) if tail == CUT else end
        text, most = anchor_at(lane, until, 0) - anchor_at(lane, first, 0), max(end - start, 1)
        text = text * (stop - start) // most - text * (begin - start) // most  # by proportion: these add up
        stream = lane[VIEW] if side else 0
        write_piece(pieces_PK[p + placed], lane, row, at, stream, begin, stop, placed == 0, tail, text)
        at += tokens_of(pieces_PK[p + placed])
        placed += 1
        if stop == end and until != last:
            lane[PART], lane[OFFSET] = 2 * until + 1 - side, anchor_at(lane, until, 1 - side)
        else:
            lane[OFFSET] = stop
        if tail == DONE:
            lane[NUMBER] = -1
        if tail != JOIN_CUT:
            return placed


@njit(cache=True, nogil=True)
def end_of_part(lane, first, around):  # type: ignore[no-untyped-def]
    """The anchor at which the part that begins at an anchor ends: the first behind the bytes that it is given."""
    last, until = lane[L_COUNT] - 1, first + 1
    least = anchor_at(lane, first, 0) + part_bytes(np.uint64(lane[L_DRAW]), first, around)
    symbols = anchor_at(lane, first, 1)
    while until < last and (anchor_at(lane, until, 0) < least or anchor_at(lane, until, 1) == symbols):
        until += 1
    return min(until, last)


@njit(cache=True, nogil=True)
def anchor_at(lane, number, side):  # type: ignore[no-untyped-def]
    """An anchor's offset in the raw bytes (side 0) or in the view's symbols (1)."""
    return np.int64(load_u32(lane[L_ANCHORS], 2 * number + side))


@njit(cache=True, nogil=True)
def write_piece(piece, lane, row, at, stream, begin, end, bos, tail, text):  # type: ignore[no-untyped-def]
    piece[P_ROW], piece[P_AT], piece[P_SET], piece[P_NUMBER] = row, at, lane[SET], lane[NUMBER]
    piece[P_ORDINAL], piece[P_GROUP], piece[P_DOC_ROW] = lane[L_ORDINAL], lane[L_GROUP], lane[L_ROW]
    piece[P_STREAM], piece[P_BEGIN], piece[P_END] = stream, begin, end
    piece[P_BOS], piece[P_TAIL], piece[P_TEXT] = bos, tail, text


@njit(cache=True, nogil=True)
def tokens_of(piece):  # type: ignore[no-untyped-def]
    """Tokens that a piece takes: bos, sentinel, symbols, closer, eos."""
    closers = 0 if piece[P_TAIL] == CUT else (2 if piece[P_TAIL] == DONE else 1)
    return piece[P_BOS] + 1 + piece[P_END] - piece[P_BEGIN] + closers
