"""Batches: a plan's pieces copied from the map into arrays of fixed shape, with targets, masks and boundaries.

The arrays lie in buffers that are used again: a batch is good until its buffers' turn comes round.

Legend: R rows, T inputs a row, C = T + 1 tokens a row, V compressed views of the run, S segments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.errors import CorruptShard
from shards.hashing import value_sum
from shards.manifest import View
from shards.pointers import Pointers
from trainer.ahead import Source
from trainer.compiled import forget_stale
from trainer.fill import fill_rows, find_values
from trainer.place import P_GROUP, P_NUMBER, P_ORDINAL, P_ROW, P_SET, P_STREAM, P_TEXT
from trainer.plan import Plan
from trainer.specials import SHORTEST, SPECIALS

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
_WHOSE = [P_ROW, P_STREAM, P_SET, P_NUMBER]


@dataclass
class Batch:
    """One batch, or a rank's rows of it. Ids are local to the table that `views_RT` names: 0 raw, v >= 1 the v-th view.

    The view of a position picks its embedding table and its output head; `bos` and closers are raw.
    """

    step: int
    ids_RT: np.ndarray  # uint16 where every id fits, else int32
    views_RT: np.ndarray  # uint8
    targets_RT: np.ndarray  # as ids: the next token, local to the head of views_RT
    counted_RT: np.ndarray  # bool: trained on
    positions_RT: np.ndarray  # int32: position within its document's stretch of the row
    cu_seqlens: np.ndarray  # (S + 1,) int32, constant length: segment boundaries over R * T inputs, padded with R * T
    raw_bytes: np.ndarray  # (V + 1,) int64: bytes of text behind the targets, by view
    symbols: np.ndarray  # (V + 1,) int64: counted targets, by view
    documents: int  # begun in this batch, on all ranks
    unpaired: int  # of these, could not be paired for want of anchors
    left: int  # begun in an earlier phase of the schedule, and not gone on with
    set_bytes: np.ndarray  # (sets,) int64: bytes of text of each set, on all ranks

    def set_shares(self) -> dict[str, int]:
        """For metrics, of several sets: `bytes/set0` and so on."""
        if len(self.set_bytes) < 2:
            return {}
        return {f"bytes/set{number}": count for number, count in enumerate(self.set_bytes.tolist())}


class Buffers:
    """The arrays of one batch. `allocate`: `np.zeros`, or what gives pinned memory."""

    def __init__(self, rows: int, context: int, views: Sequence[View], allocate: Allocate = np.zeros) -> None:
        largest = max([255, *(view.alphabet - 1 for view in views)]) + SPECIALS
        self.tokens_RC = allocate((rows, context + 1), np.uint16 if largest <= np.iinfo(np.uint16).max else np.int32)
        self.views_RC = allocate((rows, context + 1), np.uint8)
        self.target_RC = allocate((rows, context + 1), np.bool_)  # is this token a target of the one before it?
        self.positions_RT = allocate((rows, context), np.int32)
        self.bounds = allocate((rows * ((context + 1) // SHORTEST + 1) + 1,), np.int32)  # as many as can occur


class Builder:
    """Materialises the rows `first` to `first + rows` of plans. A document's values are checked when it begins there.

    check: `fail` raises at a value that does not match its checksum; `quarantine` leaves the document in its place and
    masks its targets, so that no plan shifts, and calls `report` with the fault; `off` looks at nothing.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        pointers: Sequence[Pointers],
        views: Sequence[View],
        first: int,
        rows: int,
        check: str = "fail",
        report: Callable[[CorruptShard], None] | None = None,
    ) -> None:
        forget_stale()
        self.sources, self.pointers, self.first, self.rows = list(sources), list(pointers), first, rows
        self.check, self.report = check, report or (lambda fault: None)
        self.columns = ["raw", *(view.name for view in views)]
        self.widths = np.array([1, *(view.width for view in views)], np.int64)
        # By row and stream: set and running number of the document that was checked there last.
        self._checked_RS2 = np.full((rows, len(self.columns), 2), -1, np.int64)
        self._payloads = [pointers.payloads for pointers in self.pointers]
        self._masked: set[tuple[int, int]] = set()  # set and running number of the documents in quarantine

    def build(self, plan: Plan, buffers: Buffers) -> Batch:
        """Fill the buffers with this plan's rows."""
        row_P = plan.pieces_PK[:, P_ROW]
        begin, end = np.searchsorted(row_P, (self.first, self.first + self.rows))
        pieces_PK = plan.pieces_PK[begin:end]
        for number, pointers in enumerate(self.pointers):
            pointers.trim()
            pointers.map(pieces_PK[pieces_PK[:, P_SET] == number, P_GROUP])
        masked_P = np.zeros(len(pieces_PK), np.bool_) if self.check == "off" else self._check(pieces_PK)
        symbols, texts = np.zeros((2, len(self.columns)), np.int64)
        fill_rows(
            pieces_PK, masked_P, self.first, self._tables(), self.widths,
            buffers.tokens_RC, buffers.views_RC, buffers.target_RC, buffers.positions_RT, buffers.bounds,
            symbols, texts,
        )  # fmt: skip
        return Batch(
            step=plan.step,
            ids_RT=buffers.tokens_RC[:, :-1],
            views_RT=buffers.views_RC[:, :-1],
            targets_RT=buffers.tokens_RC[:, 1:],
            counted_RT=buffers.target_RC[:, 1:],
            positions_RT=buffers.positions_RT,
            cu_seqlens=buffers.bounds,
            raw_bytes=texts,
            symbols=symbols,
            documents=plan.documents,
            unpaired=plan.unpaired,
            left=plan.left,
            set_bytes=self._bytes_of_sets(plan.pieces_PK),
        )

    def _bytes_of_sets(self, pieces_PK: np.ndarray) -> np.ndarray:
        if len(self.sources) == 1:
            return pieces_PK[:, P_TEXT].sum(keepdims=True)
        text = np.bincount(pieces_PK[:, P_SET], weights=pieces_PK[:, P_TEXT], minlength=len(self.sources))
        return text.astype(np.int64)

    def _check(self, pieces_PK: np.ndarray) -> np.ndarray:
        """Check the values of documents that are new in their row; returns which pieces are masked, (P,) bool."""
        row_P, stream_P = pieces_PK[:, P_ROW] - self.first, pieces_PK[:, P_STREAM]
        document_P2 = pieces_PK[:, (P_SET, P_NUMBER)]
        # A document's pieces lie next to one another in a row, but for parallel views: at worst one is checked twice.
        new_P = (self._checked_RS2[row_P, stream_P] != document_P2).any(1)
        new_P[2:] &= (pieces_PK[2:, _WHOSE] != pieces_PK[:-2, _WHOSE]).any(1)  # in turns every second is of one value
        for piece in self._wrong(pieces_PK[new_P]):
            split, column = self.sources[piece[P_SET]].split, self.columns[piece[P_STREAM]]
            try:
                split.check_value(column, int(piece[P_ORDINAL]))  # says what is wrong, and where
            except CorruptShard as fault:
                if self.check == "fail":
                    raise
                self._masked.add((int(piece[P_SET]), int(piece[P_NUMBER])))
                self.report(fault)
        self._checked_RS2[row_P, stream_P] = document_P2  # of several in one row the last stays
        if not self._masked:
            return np.zeros(len(pieces_PK), np.bool_)
        return np.array([(number, count) in self._masked for number, count in document_P2.tolist()], np.bool_)

    def _wrong(self, pieces_PK: np.ndarray) -> list[np.ndarray]:
        """The pieces whose documents' values do not have the sums that are stored with them."""
        places_P6 = np.empty((len(pieces_PK), 6), np.int64)
        sums_P = np.empty(len(pieces_PK), np.uint64)
        find_values(pieces_PK, self._tables(), self.widths, places_P6, sums_P)
        wrong = []
        columns = (pieces_PK[:, P_SET].tolist(), pieces_PK[:, P_GROUP].tolist(), places_P6.tolist(), sums_P.tolist())
        for p, (number, group, place, expected) in enumerate(zip(*columns, strict=True)):
            payloads, (column, start, size, anchors, anchors_start, anchors_size) = self._payloads[number][group], place
            value = payloads[column][start : start + size]
            pairs = payloads[anchors][anchors_start : anchors_start + anchors_size] if anchors else b""
            if value_sum(value, pairs) != expected:
                wrong.append(pieces_PK[p])
        return wrong

    def _tables(self) -> tuple[np.ndarray, ...]:
        return tuple(pointers.table_GC2 for pointers in self.pointers)
