"""Rows of a batch written from a plan's pieces, compiled: each symbol is copied once, from the map to its place.

Legend: R rows, T inputs a row, C = T + 1 tokens a row, P pieces, K fields of a piece, G row groups, V compressed views.
"""

import numpy as np
from numba import njit

from shards.schema import ANCHOR_BYTES
from trainer.ahead import C_ANCHORS, C_LENGTH, C_START, C_SUM, column_of
from trainer.memory import load_i32, load_i64, load_u8, load_u16, load_u32, load_u64
from trainer.place import (
    CUT,
    DONE,
    JOIN_CUT,
    P_AT,
    P_BEGIN,
    P_BOS,
    P_DOC_ROW,
    P_END,
    P_GROUP,
    P_ROW,
    P_SET,
    P_STREAM,
    P_TAIL,
    P_TEXT,
)
from trainer.specials import BOS, EOS, PAD, SPECIALS, opener

_opener = njit(opener)  # the closer's id is the next


@njit(cache=True, nogil=True)
def fill_rows(pieces_PK, masked_P, first_row, tables, widths, tokens_RC, views_RC, target_RC,  # type: ignore[no-untyped-def]
              positions_RT, bounds, symbols, texts):  # fmt: skip
    """Write rows `first_row` and following from their pieces.

    `tables`: each set's (G, columns, 2) addresses, see `ahead.columns_of`. `masked_P`: pieces whose targets are not
    trained on. Adds up `symbols` and `texts` (V + 1,): counted targets and the bytes of text behind them. `bounds`: the
    segments' boundaries over R * T inputs, padded with R * T.
    """
    rows, row_tokens = tokens_RC.shape
    context, p, segments = row_tokens - 1, 0, 0
    for r in range(rows):
        at, start = 0, 0
        while p < len(pieces_PK) and pieces_PK[p, P_ROW] == first_row + r:
            piece, counted = pieces_PK[p], not masked_P[p]
            if piece[P_BOS]:
                start = piece[P_AT]
                bounds[segments] = r * context + start
                segments += 1
            at = write_piece(piece, counted, tables[piece[P_SET]], widths, tokens_RC[r], views_RC[r], target_RC[r])
            for t in range(piece[P_AT], min(at, context)):
                positions_RT[r, t] = t - start
            if counted:
                stream, tail = piece[P_STREAM], piece[P_TAIL]
                symbols[stream] += piece[P_END] - piece[P_BEGIN] + (tail != CUT and tail != JOIN_CUT)
                symbols[0] += tail == DONE
                texts[stream] += piece[P_TEXT]
            p += 1
        tokens_RC[r, at:], views_RC[r, at:], target_RC[r, at:] = PAD, 0, False
        if at < context:  # padding is a segment of its own: it sees no document
            bounds[segments] = r * context + at
            segments += 1
            for t in range(at, context):
                positions_RT[r, t] = t - at
    bounds[segments:] = rows * context


@njit(cache=True, nogil=True)
def write_piece(piece, counted, table_GC2, widths, tokens_C, views_C, target_C):  # type: ignore[no-untyped-def]
    """One piece: bos, sentinel, symbols, closer, eos. Returns the place behind it."""
    stream, at = piece[P_STREAM], piece[P_AT]
    if piece[P_BOS]:
        tokens_C[at], views_C[at], target_C[at] = BOS, 0, False
        at += 1
    tokens_C[at], views_C[at], target_C[at] = _opener(stream), stream, False
    at += 1
    column = column_of(stream)
    start = load_i64(table_GC2[piece[P_GROUP], column + C_START, 0], piece[P_DOC_ROW])
    width, begin = widths[stream], piece[P_BEGIN]
    end = at + piece[P_END] - begin
    source = table_GC2[piece[P_GROUP], column, 0] + start + begin * width
    copy_symbols(source, width, tokens_C[at:end])
    views_C[at:end], target_C[at:end] = stream, counted
    tail = piece[P_TAIL]
    if tail != CUT:
        tokens_C[end], views_C[end], target_C[end] = _opener(stream) + 1, 0, counted and tail != JOIN_CUT
        end += 1
    if tail == DONE:
        tokens_C[end], views_C[end], target_C[end] = EOS, 0, counted
        end += 1
    return end


@njit(cache=True, nogil=True)
def copy_symbols(source, width, out):  # type: ignore[no-untyped-def]
    """Symbols of 1, 2 or 4 bytes as ids: behind the specials."""
    if width == 1:
        for i in range(len(out)):
            out[i] = np.int32(load_u8(source, i)) + np.int32(SPECIALS)
    elif width == 2:
        for i in range(len(out)):
            out[i] = np.int32(load_u16(source, i)) + np.int32(SPECIALS)
    else:
        for i in range(len(out)):
            out[i] = np.int32(load_u32(source, i)) + np.int32(SPECIALS)


@njit(cache=True, nogil=True)
def find_values(pieces_PK, tables, widths, places_P6, sums_P):  # type: ignore[no-untyped-def]
    """Where the whole values of the pieces' documents lie, to be checked, and the sums that they should have.

    A place: column of the value, its start and bytes, column of the anchors (0: none), their start and bytes.
    """
    for p in range(len(pieces_PK)):
        table_GC2, group, row = tables[pieces_PK[p, P_SET]], pieces_PK[p, P_GROUP], pieces_PK[p, P_DOC_ROW]
        stream = pieces_PK[p, P_STREAM]
        column = column_of(stream)
        sums_P[p] = load_u64(table_GC2[group, column + C_SUM, 0], row)
        places_P6[p] = 0
        for part in range(1 if stream == 0 else 2):
            at, unit = column + part * C_ANCHORS, widths[stream] if part == 0 else ANCHOR_BYTES
            places_P6[p, 3 * part] = at
            places_P6[p, 3 * part + 1] = load_i64(table_GC2[group, at + C_START, 0], row)
            places_P6[p, 3 * part + 2] = np.int64(load_i32(table_GC2[group, at + C_LENGTH, 0], row)) * unit
