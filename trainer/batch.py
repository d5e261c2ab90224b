"""Batches: a plan's pieces copied from the map into arrays of fixed shape, with targets, masks and boundaries.

Legend: R rows, T inputs a row, C = T + 1 tokens a row, V compressed views of the run, S segments.
"""

from dataclasses import dataclass

import numpy as np

from shards.manifest import View
from shards.reader import Split
from trainer.plan import SHORTEST, Plan
from trainer.specials import BOS, EOS, SPECIALS, closer, opener


@dataclass
class Batch:
    """One batch. Ids are local to the table that `views_RT` names: 0 raw, v >= 1 the v-th view of the run.

    The view of a position picks its embedding table and its output head; `bos` and closers are raw.
    """

    step: int
    ids_RT: np.ndarray  # int32
    views_RT: np.ndarray  # uint8
    targets_RT: np.ndarray  # int32: the next token, local to the head of views_RT
    counted_RT: np.ndarray  # bool: trained on
    positions_RT: np.ndarray  # int32: position within its document's stretch of the row
    cu_seqlens: np.ndarray  # (S + 1,) int32, constant length: segment boundaries over R * T inputs, padded with R * T
    raw_bytes: np.ndarray  # (V + 1,) int64: bytes of text behind the targets, by view
    symbols: np.ndarray  # (V + 1,) int64: counted targets, by view
    documents: int  # begun in this batch
    unpaired: int  # of these, could not be paired for want of anchors


def build_batch(plan: Plan, split: Split, views: list[View], rows: int, context: int) -> Batch:
    """Materialise a plan. Each document's values are checked against their sums as they are read."""
    tokens_RC = np.zeros((rows, context + 1), np.int32)
    views_RC = np.zeros((rows, context + 1), np.uint8)
    target_RC = np.zeros((rows, context + 1), np.bool_)  # is this token a target of the one before it?
    starts_RT = np.zeros((rows, context), np.bool_)
    starts_RT[:, 0] = True
    raw_bytes = np.zeros(len(views) + 1, np.int64)
    filled_R = np.zeros(rows, np.int64)
    for piece in plan.pieces:
        row, at, view = tokens_RC[piece.row], piece.at, piece.view
        values = split.symbols(piece.ordinal, views[view - 1].name) if view else split.raw(piece.ordinal)
        if piece.bos:
            starts_RT[piece.row, at] = True
            row[at] = BOS
            at += 1
        row[at] = opener(view)
        begin, end = at + 1, at + 1 + piece.end - piece.begin
        np.add(values[piece.begin : piece.end], SPECIALS, out=row[begin:end], casting="unsafe", dtype=np.int32)
        views_RC[piece.row, at:end] = view
        target_RC[piece.row, begin:end] = True
        raw_bytes[view] += piece.text
        if piece.tail.closer:
            row[end] = closer(view)
            target_RC[piece.row, end] = piece.tail.counted
            end += 1
        if piece.tail.eos:
            row[end] = EOS
            target_RC[piece.row, end] = True
            end += 1
        filled_R[piece.row] = end
    padded = filled_R < context
    starts_RT[padded, filled_R[padded]] = True  # padding is a segment of its own: it sees no document
    views_RT, counted_RT = views_RC[:, :-1], target_RC[:, 1:]
    return Batch(
        step=plan.step,
        ids_RT=tokens_RC[:, :-1],
        views_RT=views_RT,
        targets_RT=tokens_RC[:, 1:],
        counted_RT=counted_RT,
        positions_RT=_positions(starts_RT),
        cu_seqlens=_boundaries(starts_RT),
        raw_bytes=raw_bytes,
        symbols=np.bincount(views_RT[counted_RT], minlength=len(views) + 1).astype(np.int64),
        documents=plan.documents,
        unpaired=plan.unpaired,
    )


def _positions(starts_RT: np.ndarray) -> np.ndarray:
    """Distance from the latest start, along each row."""
    index_T = np.arange(starts_RT.shape[1], dtype=np.int32)
    return index_T - np.maximum.accumulate(np.where(starts_RT, index_T, 0), axis=1).astype(np.int32)


def _boundaries(starts_RT: np.ndarray) -> np.ndarray:
    """Starts over the flattened inputs, then the end, repeated up to the number that can occur at most."""
    rows, context = starts_RT.shape
    most = rows * ((context + 1) // SHORTEST + 1)
    bounds = np.full(most + 1, rows * context, np.int32)
    starts = np.flatnonzero(starts_RT)
    bounds[: len(starts)] = starts
    return bounds
