"""What the planner needs to know of the documents that a set's order holds next, looked up many at a time.

Every rank looks all of them up, for every rank plans the whole batch. So what a plan rests on is checked here: that the
stored lengths agree with the index, and where documents may be paired, the checksums over their anchors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from shards.errors import CorruptShard
from shards.hashing import keyed_hash
from shards.pointers import Pointers
from shards.reader import OPEN_FILES, Split
from shards.schema import ANCHOR_BYTES
from trainer.memory import load_i32, load_i64, load_u32, load_u64
from trainer.order import Order, mix
from trainer.specials import END_OVERHEAD, PAIR_OVERHEAD

# A document's record: these, and behind them a view's fields for each view of the run.
ORDINAL, GROUP, ROW, SKIP, RAW_LENGTH, RECORD = range(6)
LENGTH, PAIRABLE, ANCHORS, ANCHOR_COUNT, VIEW_RECORD = range(5)

BLOCK = 512  # documents looked up at once
_PREFIX = 4
_NO_FAULT = -1

# The columns that planning and batches read, in the order of `Pointers`: `id`, then of each stream its value, `_len`,
# `_start` and `_sum`, and of a view's its anchors' value, `_len` and `_start`.
RAW_COLUMN, FIRST_VIEW_COLUMN, VIEW_COLUMNS = 1, 5, 7
C_LENGTH, C_START, C_SUM, C_ANCHORS = 1, 2, 3, 4  # from a stream's own column on


def columns_of(views: Sequence[str]) -> list[str]:
    """The names of these columns."""
    found = ["id", "raw", "raw_len", "raw_start", "raw_sum"]
    for view in views:
        found += [view, f"{view}_len", f"{view}_start", f"{view}_sum"]
        found += [f"{view}_anchors", f"{view}_anchors_len", f"{view}_anchors_start"]
    return found


@njit(cache=True, nogil=True)
def column_of(stream):  # type: ignore[no-untyped-def]
    """Where the columns of a stream begin: 0 raw, v >= 1 the v-th view."""
    return RAW_COLUMN if stream == 0 else FIRST_VIEW_COLUMN + VIEW_COLUMNS * (stream - 1)


class Source(NamedTuple):
    """A set to plan from: its train split, its weight, and the documents of it to leave out (numbers, sorted)."""

    split: Split
    weight: float = 1.0
    excluded: np.ndarray = np.empty(0, np.int64)


class Ahead:
    """The records of a set's documents from running count `base` on: `records_DA` and their `draws_D` (uint64)."""

    def __init__(
        self, source: Source, order: Order, pointers: Pointers, views: Sequence[str], row_tokens: int, quarantine: bool
    ) -> None:
        """`quarantine`: a value that does not match its sum is masked in the batch, and does not end the run."""
        self.split, self.excluded, self.order, self.pointers = source.split, source.excluded, order, pointers
        self.views, self.row_tokens, self.quarantine = list(views), row_tokens, quarantine
        self.widths = np.array([1, *(self.split.width(view) for view in views)], np.int64)
        self.has_anchors = np.array([self.split.has_inner_anchors(view) for view in views], np.bool_)
        self._block = BLOCK if self.split.groups <= OPEN_FILES else OPEN_FILES  # each may lie in a file of its own
        self._files: list[int] = []  # of the order's window and the next
        self.clear(0)

    def clear(self, base: int) -> None:
        """Forget everything; go on from running count `base`."""
        self.base, self._with_pairs = base, False
        self.records_DA = np.zeros((0, RECORD + VIEW_RECORD * len(self.views)), np.int64)
        self.draws_D = np.zeros(0, np.uint64)
        self._anchors: dict[int, list[np.ndarray]] = {}  # by running count: copies, whose addresses are given

    def drop(self, taken: int, in_use: set[int], pairs: bool) -> None:
        """Forget the documents before running count `taken`, but for the anchors of those still in use.

        With `pairs`, also the later ones, if they were looked up without anchors.
        """
        if pairs and not self._with_pairs:
            self.records_DA, self.draws_D, self.base = self.records_DA[:0], self.draws_D[:0], taken
        gone = taken - self.base
        if gone > 0:
            self.records_DA, self.draws_D, self.base = self.records_DA[gone:], self.draws_D[gone:], taken
        if self._anchors:
            self._anchors = {k: kept for k, kept in self._anchors.items() if k >= taken or k in in_use}

    def extend(self, pairs: bool) -> None:
        """Look up the next documents. `pairs`: documents may be laid out as pairs, so anchors are needed too."""
        count = self.base + len(self.records_DA)
        records, draws = self.look_up(count, self._block, pairs)
        self._with_pairs = pairs
        self.records_DA = np.concatenate((self.records_DA, records))
        self.draws_D = np.concatenate((self.draws_D, draws))

    def look_up(self, count: int, how_many: int, pairs: bool) -> tuple[np.ndarray, np.ndarray]:
        """Records and draws of the documents at running counts from `count` on."""
        if self.order.window:
            self._move_window(count)
        documents_D = self.order.documents(count, how_many)
        group_D, row_D = self.split.locate(documents_D)
        self.pointers.trim()
        self.pointers.map(group_D)
        records_DA = np.zeros((how_many, self.records_DA.shape[1]), np.int64)
        records_DA[:, ORDINAL], records_DA[:, GROUP], records_DA[:, ROW] = documents_D, group_D, row_D
        records_DA[:, SKIP] = np.isin(documents_D, self.excluded)
        ids_D2 = np.zeros((how_many, 2), np.uint64)
        fault = look_up_rows(records_DA, ids_D2, self.pointers.table_GC2, self.widths, self.has_anchors,
                             self.row_tokens)  # fmt: skip
        if fault != _NO_FAULT:
            values = ["raw", *(column for view in self.views for column in (view, f"{view}_anchors"))]
            self.split.check_structure(int(documents_D[fault]), values)
            raise AssertionError("a fault that the reader does not find")
        if pairs:
            self._hold_anchors(count, records_DA)
        return records_DA, self._draws(count, ids_D2)

    def _move_window(self, count: int) -> None:
        """Where the order goes on to other files: ask for them in time, and let those behind go."""
        files = self.order.files_ahead(count).tolist()
        if files != self._files:
            self._files = files
            self.split.want(files)
            self.split.keep_only(set(files))
            self.pointers.clear()

    def _hold_anchors(self, count: int, records_DA: np.ndarray) -> None:
        """Check the anchors of documents that may become pairs, and give their addresses."""
        for index, record in enumerate(records_DA):
            if record[SKIP]:
                continue
            held = self._anchors[count + index] = []
            for v, view in enumerate(self.views):
                at = RECORD + VIEW_RECORD * v
                if not record[at + PAIRABLE]:
                    continue
                ordinal = int(record[ORDINAL])
                anchors_A2 = self.split.anchors(ordinal, view, check=False).copy()  # a map would keep its file open
                if self.split.checked:
                    self._check(ordinal, view, anchors_A2, record[[RAW_LENGTH, at + LENGTH]])
                record[at + ANCHORS], record[at + ANCHOR_COUNT] = anchors_A2.ctypes.data, len(anchors_A2)
                held.append(anchors_A2)

    def _check(self, ordinal: int, view: str, anchors_A2: np.ndarray, lengths_2: np.ndarray) -> None:
        """Check a value with its anchors. In quarantine a wrong value is the batch's to mask; wrong anchors are not."""
        try:
            self.split.check_value(view, ordinal)
        except CorruptShard:
            whole = len(anchors_A2) > 1 and not anchors_A2[0].any() and (anchors_A2[-1] == lengths_2).all()
            if not (self.quarantine and whole and (np.diff(anchors_A2.astype(np.int64), axis=0) >= 0).all()):
                raise

    def _draws(self, count: int, ids_D2: np.ndarray) -> np.ndarray:
        """The draw of each document's layout, uniform in [0, 2**64): hash(seed, epoch, id). Ids are hashes already."""
        epochs, which_D = np.unique((count + np.arange(len(ids_D2))) // self.order.n, return_inverse=True)
        keys = [keyed_hash("layout", self.order.seed, epoch.to_bytes(8, "little")) for epoch in epochs.tolist()]
        key_D = np.array(keys, np.uint64)[which_D]
        return mix(mix(ids_D2[:, 0] ^ key_D) ^ ids_D2[:, 1])


@njit(cache=True, nogil=True)
def look_up_rows(records_DA, ids_D2, table_GC2, widths, has_anchors, row_tokens):  # type: ignore[no-untyped-def]
    """Fill in lengths, ids and whether a pair can be cut; returns the first document whose index is wrong, or -1."""
    for d in range(len(records_DA)):
        group, row = records_DA[d, GROUP], records_DA[d, ROW]
        ids_D2[d, 0] = load_u64(table_GC2[group, 0, 0], 2 * row)
        ids_D2[d, 1] = load_u64(table_GC2[group, 0, 0], 2 * row + 1)
        raw_length = stored_length(table_GC2, group, row, RAW_COLUMN, 1)
        if raw_length < 0:
            return d
        records_DA[d, RAW_LENGTH] = raw_length
        for v in range(len(has_anchors)):
            at = RECORD + VIEW_RECORD * v
            column = column_of(v + 1)
            length = stored_length(table_GC2, group, row, column, widths[v + 1])
            if length < 0 or stored_length(table_GC2, group, row, column + C_ANCHORS, ANCHOR_BYTES) < 0:
                return d
            records_DA[d, at + LENGTH] = length
            whole_pair = raw_length + length + PAIR_OVERHEAD + END_OVERHEAD
            records_DA[d, at + PAIRABLE] = has_anchors[v] or whole_pair <= row_tokens
    return _NO_FAULT


@njit(cache=True, nogil=True)
def stored_length(table_GC2, group, row, column, width):  # type: ignore[no-untyped-def]
    """The length of a value in its own unit; -1 where what is stored before the value does not agree with the index."""
    payload, size = table_GC2[group, column, 0], table_GC2[group, column, 1]
    length = np.int64(load_i32(table_GC2[group, column + C_LENGTH, 0], row))
    start = load_i64(table_GC2[group, column + C_START, 0], row)
    if length < 0 or start < _PREFIX or start + length * width > size:
        return -1
    if np.int64(load_u32(payload + start - _PREFIX, 0)) != length * width:
        return -1
    return length
