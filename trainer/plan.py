"""The planner: from a state to the pieces of the next global batch and the next state; pure, and without torch.

A batch of R rows is cut from R lanes, and the next batch from R others, until all of the run's L lanes had a turn: so
that neighbouring batches are not of the same few long documents. A lane follows one document after another; what does
not fit a row goes on in the lane's next row, behind `bos` and the sentinel of the view. A row of T inputs is T + 1
tokens:

    bos <raw> b b b b </raw> eos | bos <v> s s s s s s ...cut    next row:  bos <v> s s </v> eos | ...

A document's layout is fixed when it starts, and follows from the step that its first row is built for; one that a later
phase of the schedule would lay out otherwise is left when its lane's turn comes there, or a phase would end only with
the documents that it began. So the state is
a few counters a set and five integers a lane, every rank can run the same planner, and a resume is exact. The rows are
laid out in `place.py`; what it needs to know of the documents that come next is looked up by `ahead.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from shards.errors import ByteproxyError
from shards.manifest import View
from shards.pointers import Pointers
from trainer import place, start
from trainer.ahead import Ahead, Source, columns_of
from trainer.compiled import forget_stale
from trainer.order import Order, permute
from trainer.place import CUT, DONE, PIECE_FIELDS, STATE_FIELDS
from trainer.recipe import Rates, Schedule, phase_at, rates_at
from trainer.specials import END_OVERHEAD, PAIR_OVERHEAD, SHORTEST

UNITS = ("documents", "bytes", "symbols")  # of the weights of sets; by the numbers of place.BY_*


class PlanConfig(Schedule, Protocol):
    """The fields of the trainer's config that the planner reads."""

    @property
    def context(self) -> int: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def switch_bytes(self) -> int: ...
    @property
    def shuffle_window(self) -> int: ...
    @property
    def mix_by(self) -> str: ...
    @property
    def check(self) -> str: ...


class Piece(NamedTuple):
    """A run of one document's symbols at one place of the batch: a row of `Plan.pieces_PK`."""

    row: int
    at: int  # token position of the piece's first token in the row
    set: int
    number: int  # running number of the document in its set; number // documents is the epoch
    ordinal: int  # document number in the split
    group: int  # row group and row in it, among those of the set
    group_row: int
    view: int  # 0 raw, v >= 1 the v-th view of the run
    begin: int  # symbols [begin, end)
    end: int
    bos: bool  # begins a stretch; else it is the second half of a pair and attends to the first
    tail: int  # what follows the symbols: CUT, JOIN, JOIN_CUT or DONE
    text: int  # bytes of text behind the symbols

    @property
    def length(self) -> int:
        """Tokens that the piece takes."""
        return self.bos + 1 + self.end - self.begin + (0 if self.tail == CUT else 2 if self.tail == DONE else 1)


@dataclass(frozen=True)
class Plan:
    """One global batch as pieces, in order of row and place."""

    step: int
    pieces_PK: np.ndarray  # (P, PIECE_FIELDS) int64; reused by the planner: good until the next plan
    documents: int  # begun in this batch
    unpaired: int  # of these, could not be paired for want of anchors
    left: int = 0  # begun in an earlier phase of the schedule, and not gone on with in this one

    @property
    def pieces(self) -> list[Piece]:
        """The pieces with their fields named."""
        return [Piece(*row)._replace(bos=bool(row[place.P_BOS])) for row in self.pieces_PK.tolist()]


class Lane(NamedTuple):
    """Where a lane stands: set and running number of its document (-1: none), the step it began at, how far it is."""

    set: int
    number: int
    start: int
    part: int  # of a document laid out in parallel: 0, then 1; in turns: see place.place_turns
    offset: int  # symbols done; in a pair: anchors passed


@dataclass(frozen=True)
class PlanState:
    """All that a resume needs: the step to plan next, what was taken of each set, and the lanes."""

    step: int
    taken_S: np.ndarray  # documents taken, by set
    used_S: np.ndarray  # the same in the unit of the sets' weights
    lanes_LF: np.ndarray  # (L, STATE_FIELDS) int64

    @property
    def lanes(self) -> list[Lane]:
        """The lanes with their fields named."""
        return [Lane(*lane) for lane in self.lanes_LF.tolist()]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "taken": self.taken_S.tolist(), "used": self.used_S.tolist(),
                "lanes": self.lanes_LF.tolist()}  # fmt: skip

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "PlanState":
        taken, used, lanes = (np.array(body[key], np.int64) for key in ("taken", "used", "lanes"))
        return cls(body["step"], taken, used, lanes)


class Planner:
    """Plans batches of `batch_rows` rows of `context` inputs from one or more sets, over `views` (v = index + 1).

    `shares`: how often each view is taken where a document takes a compressed one; by default all alike.
    """

    def __init__(
        self, sources: Sequence[Source], views: Sequence[View], config: PlanConfig, shares: Sequence[float] = ()
    ) -> None:
        forget_stale()
        self.sources, self.views, self.config = list(sources), list(views), config
        self.row_tokens = config.context + 1
        self.turns = max(1, -(-config.lanes // config.batch_rows))  # steps in which each lane gets a row
        shortest = self.shortest_context(views, config)
        if config.context < shortest:
            raise ByteproxyError(
                f"context {config.context} is too short: mode {config.mode} needs at least {shortest} "
                f"(sentinels, and both halves between two anchors of a pair). Give --context {shortest} or more"
            )
        names = [view.name for view in views]
        if config.mode == "proxy" and config.switch and all(view.anchor_gap is None for view in views):
            raise ByteproxyError(
                f"--switch {config.switch}: views {', '.join(names)} found, of which none can be cut within documents. "
                "Train on one that can, like sentencepiece, or give --switch 0"
            )
        self.pointers, self.orders, self._ahead = [], [], []
        for number, source in enumerate(self.sources):
            if len(source.excluded) >= len(source.split):
                raise ByteproxyError(f"split {source.split.name!r} of set {number} holds no documents to train on")
            files = [file.rows for file in source.split.files]
            salt = number.to_bytes(4, "little") if number else b""
            self.orders.append(Order(files, config.seed, config.shuffle_window, salt))
            self.pointers.append(Pointers(source.split, columns_of(names)))
            quarantine = config.check == "quarantine"
            self._ahead.append(Ahead(source, self.orders[-1], self.pointers[-1], names, self.row_tokens, quarantine))
        weights = np.array([source.weight for source in self.sources], np.float64)
        self._weights_S = weights / weights.sum()
        given = np.array(shares or [1.0] * len(views), np.float64)
        self._shares_V = np.cumsum(given / given.sum()) if len(given) else given
        self._bytes_per_symbol = bytes_per_symbol(self.sources, names, shares)
        most = 2 * (self.row_tokens // (PAIR_OVERHEAD + END_OVERHEAD) + 1) + 1  # of an empty document's pairs
        self._pieces_PK = np.empty((config.batch_rows * most, PIECE_FIELDS), np.int64)
        self._lanes: tuple[PlanState, np.ndarray] | None = None  # the last state, and its lanes with all their fields

    @staticmethod
    def shortest_context(views: Sequence[View], config: PlanConfig) -> int:
        """Inputs a row needs: a pair between two neighbouring anchors must fit, with its sentinels."""
        gaps = [view.anchor_gap for view in views if view.anchor_gap is not None]
        if config.mode != "proxy" or not (config.translation or config.pairs) or not gaps:
            return SHORTEST
        return 2 * max(gaps) + PAIR_OVERHEAD + END_OVERHEAD - 1

    def initial(self) -> PlanState:
        """The state before the first batch."""
        lanes_LF = np.zeros((self.turns * self.config.batch_rows, STATE_FIELDS), np.int64)
        lanes_LF[:, place.NUMBER] = -1
        if self.config.lanes > 1 and not self.config.shuffle_window:
            self._start_within(lanes_LF)
        nothing_S = np.zeros(len(self.sources), np.int64)
        return PlanState(0, nothing_S, nothing_S, lanes_LF)

    def _start_within(self, lanes_LF: np.ndarray) -> None:
        """Put the lanes at places spread evenly over the text of many documents, of an order of their own."""
        share_S = self._weights_S
        if self.config.mix_by == "documents":  # how much of the text
            share_S = share_S * [
                sum(file.symbols["raw"] for file in s.split.files) / len(s.split) for s in self.sources
            ]
        ends_S = np.rint(len(lanes_LF) * np.cumsum(share_S) / max(share_S.sum(), 1e-9)).astype(np.int64).tolist()
        # neighbours lie in different documents
        order_L = permute(np.arange(len(lanes_LF)), len(lanes_LF), self.config.seed, 0, b"lanes")
        for number, first, end in zip(range(len(self.sources)), [0, *ends_S], ends_S, strict=False):
            n = self.orders[number].n
            count, size = n * start.EARLIER, min(n, start.DOCUMENTS_A_LANE * (end - first))
            records_DA, draws_D = self._ahead[number].look_up(count, size, False)
            numbers = self._numbers(rates_at(self.config, 0, self._bytes_per_symbol))
            which_L, fraction_L = start.spread(records_DA, draws_D, numbers, self._shares_V, end - first)
            for lane, which, fraction in zip(order_L[first:end], which_L, fraction_L, strict=True):
                if which >= 0:
                    full = np.zeros(place.LANE_FIELDS, np.int64)
                    full[place.SET], full[place.NUMBER] = number, count + which
                    self._open(full)
                    start.enter(full, fraction)
                    lanes_LF[lane] = full[:STATE_FIELDS]

    def next(self, state: PlanState) -> tuple[Plan, PlanState]:
        """The next global batch, and the state after it."""
        full_LF = self._lanes[1] if self._lanes and self._lanes[0] is state else self._restore(state)
        first = state.step % self.turns * self.config.batch_rows
        rates = rates_at(self.config, state.step, self._bytes_per_symbol)
        unit = UNITS.index(self.config.mix_by)
        self._forget(state, rates.anchors)
        while True:
            lanes_LF, taken_S, used_S = full_LF.copy(), state.taken_S.copy(), state.used_S.copy()
            lanes_RF = lanes_LF[first : first + self.config.batch_rows]
            counts = np.zeros(3, np.int64)
            found = place.plan_rows(
                lanes_RF, taken_S, used_S, self._weights_S, unit, tuple(ahead.records_DA for ahead in self._ahead),
                tuple(ahead.draws_D for ahead in self._ahead), np.array([ahead.base for ahead in self._ahead]),
                self._numbers(rates), self._shares_V, self.row_tokens, state.step, phase_at(self.config, state.step),
                self._pieces_PK, counts,
            )  # fmt: skip
            if found >= 0:
                break
            if found <= place.DOES_NOT_FIT:
                raise self._does_not_fit(lanes_RF[place.DOES_NOT_FIT - found])
            self._ahead[place.NEEDS_DOCUMENTS - found].extend(pairs=rates.anchors)
        after = PlanState(state.step + 1, taken_S, used_S, lanes_LF[:, :STATE_FIELDS].copy())
        self._lanes = after, lanes_LF
        return Plan(state.step, self._pieces_PK[:found], *counts.tolist()), after

    def plans(self, state: PlanState) -> Iterator[tuple[Plan, PlanState]]:
        """Batches from `state` to the end of the run."""
        while state.step < self.config.steps:
            plan, state = self.next(state)
            yield plan, state

    def unfinished(self, state: PlanState) -> list[dict[str, Any]]:
        """The documents that a run leaves half done if it ends here: set, id, and how far it got."""
        found = []
        for lane in (lane for lane in state.lanes if lane.number >= 0):
            ordinal = self.orders[lane.set][lane.number]
            identity = self.sources[lane.set].split.id(ordinal).hex()
            found.append({"set": lane.set, "id": identity, "part": lane.part, "offset": lane.offset})
        return found

    def _restore(self, state: PlanState) -> np.ndarray:
        """The lanes of a state with the fields that follow from it: each document is opened again, as it was then."""
        expected = self.turns * self.config.batch_rows
        if len(state.lanes_LF) != expected or len(state.taken_S) != len(self.sources):
            raise ByteproxyError(
                f"a state of {len(state.lanes_LF)} lanes and {len(state.taken_S)} sets found, {expected} and "
                f"{len(self.sources)} expected: a run keeps its global batch, its --lanes (before there were any, as "
                "many as rows a step: --lanes 1) and its sets"
            )
        lanes_LF = np.zeros((len(state.lanes_LF), place.LANE_FIELDS), np.int64)
        lanes_LF[:, :STATE_FIELDS] = state.lanes_LF
        for number, ahead in enumerate(self._ahead):
            ahead.clear(int(state.taken_S[number]))
        for lane in (lane for lane in lanes_LF if lane[place.NUMBER] >= 0):
            self._open(lane)
        return lanes_LF

    def _open(self, lane: np.ndarray) -> None:
        """Lay a lane's document out as it was when it began."""
        rates = rates_at(self.config, int(lane[place.START]), self._bytes_per_symbol)
        records_DA, draws_D = self._ahead[lane[place.SET]].look_up(int(lane[place.NUMBER]), 1, rates.anchors)
        place.open_document(lane, records_DA[0], draws_D[0], self._numbers(rates), self._shares_V)

    def _numbers(self, rates: Rates) -> tuple[float, float, bool, float, int]:
        return rates.compressed, rates.pair, rates.parallel, rates.switch, self.config.switch_bytes

    def _forget(self, state: PlanState, pairs: bool) -> None:
        """Let go of documents that are behind every lane; look again where pairs have come into force since."""
        for number, ahead in enumerate(self._ahead):
            mine = state.lanes_LF[:, place.SET] == number
            ahead.drop(int(state.taken_S[number]), set(state.lanes_LF[mine, place.NUMBER].tolist()), pairs)

    def _does_not_fit(self, lane: np.ndarray) -> ByteproxyError:
        ordinal, view = int(lane[place.L_ORDINAL]), self.views[lane[place.VIEW] - 1].name
        return ByteproxyError(
            f"{self.sources[lane[place.SET]].split.place(ordinal)[0]}, document {ordinal}: the anchors of view {view} "
            f"are further apart than a row of {self.config.context} holds. Give a larger --context, or "
            "--translation 0 and --pairs 0"
        )


def bytes_per_symbol(sources: Sequence[Source], views: Sequence[str], shares: Sequence[float] = ()) -> float:
    """Bytes of text a compressed symbol, over the sets by weight and the views by share; 1 where there is no view."""
    if not views:
        return 1.0
    weights = [source.weight for source in sources]
    symbols = 0.0
    for view, share in zip(views, shares or [1.0] * len(views), strict=True):
        for source, weight in zip(sources, weights, strict=True):
            counts = {name: sum(file.symbols[name] for file in source.split.files) for name in ("raw", view)}
            symbols += share * weight * counts[view] / max(counts["raw"], 1)
    return sum(shares or [1.0] * len(views)) * sum(weights) / max(symbols, 1e-9)
