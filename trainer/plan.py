"""The planner: from a state to the pieces of the next global batch and the next state; pure, and without torch.

A batch of R rows is R lanes. A lane follows one document after another; what does not fit a row goes on in the lane's
next row, behind `bos` and the sentinel of the view. A row of T inputs is T + 1 tokens:

    bos <raw> b b b b </raw> eos | bos <v> s s s s s s ...cut    next row:  bos <v> s s </v> eos | ...

A document's layout is fixed when it starts, and follows from the step that its first row is built for. So the state is
a counter of documents taken and five integers a lane, every rank can run the same planner, and a resume is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from shards.errors import ByteproxyError
from shards.manifest import View
from shards.reader import Split
from trainer.order import Order
from trainer.recipe import Layout, Schedule, draw_layout

SHORTEST = 4  # tokens of the shortest stretch: bos, sentinel, closer, eos
PAIR_OVERHEAD, END_OVERHEAD = 4, 2  # bos + two sentinels + the closer between; closer + eos at a document's end


class PlanConfig(Schedule, Protocol):
    """The fields of the trainer's config that the planner reads."""

    @property
    def context(self) -> int: ...
    @property
    def batch_rows(self) -> int: ...


class End(NamedTuple):
    """What follows a piece's symbols: a closer, and then eos; and whether these are trained on."""

    closer: bool
    eos: bool
    counted: bool


CUT = End(False, False, False)  # the document goes on in another row
JOIN = End(True, False, True)  # the other half of the pair follows, and the document ends with it
JOIN_CUT = End(True, False, False)  # the other half follows; the document goes on, so its closer is no target
DONE = End(True, True, True)


class Piece(NamedTuple):
    """A run of one document's symbols at one place of the batch."""

    row: int
    at: int  # token position of the piece's first token in the row
    number: int  # running number of the document in the run; number // documents is the epoch
    ordinal: int  # document number in the split
    view: int  # 0 raw, v >= 1 the v-th view of the run
    begin: int  # symbols [begin, end)
    end: int
    bos: bool  # begins a stretch; else it is the second half of a pair and attends to the first
    tail: End
    text: int  # bytes of text behind the symbols

    @property
    def length(self) -> int:
        """Tokens that the piece takes."""
        return self.bos + 1 + self.end - self.begin + self.tail.closer + self.tail.eos


class Lane(NamedTuple):
    """Where a lane stands: the running number of its document (-1: none), the step it began at, how far it is."""

    number: int = -1
    start: int = 0
    part: int = 0  # of a document laid out in parallel: 0, then 1
    offset: int = 0  # symbols done; in a pair: anchors passed


@dataclass(frozen=True)
class PlanState:
    """All that a resume needs: the step to plan next, documents taken so far, and the lanes."""

    step: int
    taken: int
    lanes: tuple[Lane, ...]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "taken": self.taken, "lanes": [list(lane) for lane in self.lanes]}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "PlanState":
        return cls(body["step"], body["taken"], tuple(Lane(*lane) for lane in body["lanes"]))


class Plan(NamedTuple):
    """One global batch: its pieces, by row and position, and how many documents begin or could not be paired in it."""

    step: int
    pieces: list[Piece]
    documents: int
    unpaired: int


class _Opened(NamedTuple):
    """A document with its layout, worked out again from the lane's few integers."""

    ordinal: int
    layout: Layout
    unpaired: bool


class Planner:
    """Plans batches of `batch_rows` rows of `context` inputs from a split, over `views` (v = index + 1)."""

    def __init__(self, split: Split, views: list[View], config: PlanConfig) -> None:
        self.split, self.views, self.config = split, views, config
        self.order = Order(len(split), config.seed)
        self.row_tokens = config.context + 1
        shortest = self.shortest_context(views, config)
        if config.context < shortest:
            raise ByteproxyError(
                f"context {config.context} is too short: mode {config.mode} needs at least {shortest} "
                f"(sentinels, and both halves between two anchors of a pair). Give --context {shortest} or more"
            )
        if not len(split):
            raise ByteproxyError(f"split {split.name!r} holds no documents: nothing to train on")

    @staticmethod
    def shortest_context(views: list[View], config: PlanConfig) -> int:
        """Inputs a row needs: a pair between two neighbouring anchors must fit, with its sentinels."""
        gaps = [view.anchor_gap for view in views if view.anchor_gap is not None]
        if config.mode != "proxy" or not config.translation or not gaps:
            return SHORTEST
        return 2 * max(gaps) + PAIR_OVERHEAD + END_OVERHEAD - 1

    def initial(self) -> PlanState:
        """The state before the first batch."""
        return PlanState(0, 0, (Lane(),) * self.config.batch_rows)

    def next(self, state: PlanState) -> tuple[Plan, PlanState]:
        """The next global batch, and the state after it."""
        pieces: list[Piece] = []
        lanes, taken, unpaired = [], state.taken, 0
        for row, lane in enumerate(state.lanes):
            at = 0
            while self.row_tokens - at >= SHORTEST:
                if lane.number < 0:
                    lane, taken = Lane(taken, state.step), taken + 1
                    unpaired += self._open(lane).unpaired
                placed, lane = self._place(row, at, lane)
                if not placed:  # a pair does not fit the rest of the row: padding
                    break
                pieces += placed
                at = placed[-1].at + placed[-1].length
            lanes.append(lane)
        plan = Plan(state.step, pieces, taken - state.taken, unpaired)
        return plan, PlanState(state.step + 1, taken, tuple(lanes))

    def plans(self, state: PlanState) -> Iterator[tuple[Plan, PlanState]]:
        """Batches from `state` to the end of the run."""
        while state.step < self.config.steps:
            plan, state = self.next(state)
            yield plan, state

    def _open(self, lane: Lane) -> _Opened:
        ordinal, epoch = self.order[lane.number], self.order.epoch(lane.number)
        pairable = all(self._pairable(ordinal, view) for view in self.views)
        layout = draw_layout(self.config, epoch, self.split.id(ordinal), lane.start, pairable)
        return _Opened(ordinal, layout, not pairable and self.config.mode == "proxy")

    def _pairable(self, ordinal: int, view: View) -> bool:
        if view.anchor_gap is not None:
            return True
        length = self.split.length("raw", ordinal) + self.split.length(view.name, ordinal)
        return length + PAIR_OVERHEAD + END_OVERHEAD <= self.row_tokens

    def _place(self, row: int, at: int, lane: Lane) -> tuple[list[Piece], Lane]:
        """Lay as much of the lane's document as fits at this place; the lane comes back idle if the document ends."""
        document = self._open(lane)
        if document.layout in (Layout.PAIR_RAW_FIRST, Layout.PAIR_COMPRESSED_FIRST):
            return self._place_pair(row, at, lane, document)
        parallel = document.layout == Layout.PARALLEL
        view = lane.part if parallel else int(document.layout == Layout.COMPRESSED)
        piece = self._stream_piece(row, at, lane, document.ordinal, view)
        if piece.tail is DONE:
            return [piece], Lane(lane.number, lane.start, 1) if parallel and lane.part == 0 else Lane()
        return [piece], lane._replace(offset=piece.end)

    def _stream_piece(self, row: int, at: int, lane: Lane, ordinal: int, view: int) -> Piece:
        column, begin = self.views[view - 1].name if view else "raw", lane.offset
        length, room = self.split.length(column, ordinal), self.row_tokens - at - 2  # behind bos and the sentinel
        ends = length - begin + END_OVERHEAD <= room
        end = length if ends else min(length, begin + room)
        text = end - begin
        if view:  # bytes behind a part of the symbols: by proportion, so that the parts add up to the document
            raw = self.split.length("raw", ordinal)
            text = raw * end // max(length, 1) - raw * begin // max(length, 1)
        return Piece(row, at, lane.number, ordinal, view, begin, end, True, DONE if ends else CUT, text)

    def _place_pair(self, row: int, at: int, lane: Lane, document: _Opened) -> tuple[list[Piece], Lane]:
        """The longest anchor-to-anchor pair that fits the rest of the row, so that no half lacks its counterpart."""
        anchors_A2 = self.split.anchors(document.ordinal, self.views[0].name)
        ends_A = anchors_A2.sum(axis=1, dtype=np.int64)
        last, first = len(ends_A) - 1, lane.offset
        room = int(ends_A[first]) + self.row_tokens - at - PAIR_OVERHEAD
        until = int(np.searchsorted(ends_A, room, side="right")) - 1
        if until == last and ends_A[last] + END_OVERHEAD > room:
            until -= 1
        if until < first or (until == first and first != last):
            if at == 0:
                raise ByteproxyError(
                    f"{self.split.place(document.ordinal)[0]}, document {document.ordinal}: the anchors of view "
                    f"{self.views[0].name} are further apart than a row of {self.config.context} can hold. "
                    "Give a larger --context, or --translation 0"
                )
            return [], lane
        ends = until == last
        (raw_0, symbol_0), (raw_1, symbol_1) = (tuple(map(int, anchors_A2[k])) for k in (first, until))
        spans = {0: (raw_0, raw_1), 1: (symbol_0, symbol_1)}
        views = (0, 1) if document.layout == Layout.PAIR_RAW_FIRST else (1, 0)
        pieces = []
        for half, view in enumerate(views):
            tail = (JOIN if ends else JOIN_CUT) if half == 0 else (DONE if ends else CUT)
            span, text = spans[view], raw_1 - raw_0
            piece = Piece(row, at, lane.number, document.ordinal, view, *span, bos=half == 0, tail=tail, text=text)
            pieces.append(piece)
            at += piece.length
        return pieces, Lane() if ends else lane._replace(offset=until)
