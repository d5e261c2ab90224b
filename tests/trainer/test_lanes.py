"""Lanes of documents: where they begin, their turns, their layouts, and what a phase or a run leaves of them."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.loading import planner_of
from tests.trainer.planning import COMMON, CONFIGS, PlanSettings, batches
from trainer.place import CUT
from trainer.recipe import phase_at, rates_at
from trainer.specials import BOS, opener
from trainer.start import EARLIER


def test_each_lane_has_its_turn_and_its_rows_follow_one_another(mixed_set: ShardSet) -> None:
    """10 lanes wanted, 3 rows a step: 12 lanes, a row each in four steps."""
    config = PlanSettings(mode="bytes", batch_rows=3, lanes=10, steps=40)
    planner, ends = planner_of(mixed_set, config), dict[tuple[int, int], tuple[int, int]]()
    longest = 0
    for plan, state in planner.plans(planner.initial()):
        assert len(state.lanes) == 12
        for row in range(3):
            pieces = [piece for piece in plan.pieces if piece.row == row]
            lane = plan.step % 4, row
            if lane in ends:
                assert (pieces[0].number, pieces[0].begin) == ends[lane]
                longest = max(longest, pieces[0].begin)
            ends.pop(lane, None)
            if pieces[-1].tail == CUT:
                ends[lane] = pieces[-1].number, pieces[-1].end
    assert longest > 5 * config.context


def test_a_row_that_begins_inside_a_document_begins_with_bos_and_the_views_sentinel(mixed_set: ShardSet) -> None:
    config = PlanSettings(mode="bytes", context=50, batch_rows=1)
    previous = None
    for plan, batch, _ in batches(mixed_set, config):
        if previous and previous.tail == CUT:
            first = plan.pieces[0]
            assert first.ordinal == previous.ordinal and first.begin == previous.end
            assert batch.ids_RT[0, :2].tolist() == [BOS, opener(0)]
            assert batch.counted_RT[0, :2].tolist() == [False, True]  # the symbol after the cut, from the sentinel
        previous = plan.pieces[-1]


def test_the_layout_follows_from_the_step_at_which_the_document_starts(mixed_set: ShardSet) -> None:
    """The share of compressed streams falls within a phase; documents under way keep their view."""
    config = PlanSettings(translation=0.0, anneal=0.0, rate=1.0, rate_end=0.0, steps=200, batch_rows=2)
    planner, views, kept = planner_of(mixed_set, config), dict[int, int](), 0
    for plan, state in planner.plans(planner.initial()):
        assert not plan.left
        for piece in plan.pieces:
            assert views.setdefault(piece.number, piece.view) == piece.view
        for lane in state.lanes:
            rate = rates_at(config, lane.start).compressed
            kept += lane.number >= 0 and rate > rates_at(config, plan.step).compressed and lane.offset > 0
    assert kept and set(views.values()) == {0, 1}


@pytest.mark.parametrize("lanes", [2, 12])
@pytest.mark.parametrize("pairs", [0.0, 0.3])
def test_a_document_that_a_later_phase_would_lay_out_otherwise_is_left_there(
    mixed_set: ShardSet, lanes: int, pairs: float
) -> None:
    """So the annealing reads raw bytes alone (and pairs) from its first step, however long the documents under way."""
    config = PlanSettings(translation=0.3, anneal=0.4, pairs=pairs, steps=100, batch_rows=2, lanes=lanes, seed=3)
    planner, left, kept = planner_of(mixed_set, config), Counter[int](), 0
    for plan, state in planner.plans(planner.initial()):
        phase = 0 if plan.step < 30 else 30 if plan.step < 60 else 60
        assert phase == phase_at(config, plan.step)
        left[phase] += plan.left
        paired = {piece.number for piece in plan.pieces if not piece.bos}
        for piece in plan.pieces if phase == 60 else ():
            assert piece.view == 0 or piece.number in paired
        kept += phase == 60 and any(0 < lane.start < 60 for lane in state.lanes)
    assert not left[0] and left[60] and (kept or lanes == 2)
    assert left[30] + left[60] <= 2 * lanes


def test_documents_in_both_views_apart_end_where_the_annealing_begins(mixed_set: ShardSet) -> None:
    config = PlanSettings(mode="parallel", translation=0.0, anneal=0.4, steps=100, batch_rows=2, lanes=4)
    planner, symbols = planner_of(mixed_set, config), Counter[tuple[bool, int]]()
    for plan, _ in planner.plans(planner.initial()):
        for piece in plan.pieces:
            symbols[plan.step >= 60, piece.view] += piece.end - piece.begin
    assert symbols[False, 0] > symbols[False, 1] > 0 and symbols[True, 0] and not symbols[True, 1]


def test_documents_that_a_run_leaves_half_done_are_named(mixed_set: ShardSet) -> None:
    planner = planner_of(mixed_set, PlanSettings(mode="bytes", batch_rows=2))
    state = planner.initial()
    while not all(lane.number >= 0 and lane.offset for lane in state.lanes):
        _, state = planner.next(state)
    split, found = mixed_set.split("train"), planner.unfinished(state)
    assert [lane["offset"] for lane in found] == [lane.offset for lane in state.lanes]
    for lane in found:
        number = split.find(bytes.fromhex(lane["id"]))
        assert number is not None and lane["offset"] < split.length("raw", number)


def test_a_state_of_another_global_batch_is_refused(mixed_set: ShardSet) -> None:
    state = planner_of(mixed_set, PlanSettings(batch_rows=4)).initial()
    with pytest.raises(ByteproxyError, match=r"a state of 4 lanes and 1 sets found, 3 and 1 expected.*--lanes 1"):
        planner_of(mixed_set, PlanSettings()).next(state)


@COMMON
@given(CONFIGS)
def test_lanes_begin_evenly_spread_over_the_text_in_an_order_of_their_own(
    mixed_set: ShardSet, config: PlanSettings
) -> None:
    """So the first lanes lie in documents by their length as laid out, at any place in them."""
    config = replace(config, batch_rows=5, lanes=400, shuffle_window=0, views="sentencepiece")
    planner, split = planner_of(mixed_set, config), mixed_set.split("train")
    state = planner.initial()
    assert state.to_json() == planner_of(mixed_set, config).initial().to_json()
    assert len(state.lanes) == 400 and all(lane.number >= len(split) * EARLIER for lane in state.lanes)
    held = Counter(planner.orders[0][lane.number] for lane in state.lanes)
    if config.mode == "bytes":
        total = sum(split.length("raw", ordinal) for ordinal in range(len(split)))
        for ordinal in range(len(split)):
            assert abs(held[ordinal] - 400 * split.length("raw", ordinal) / total) <= 1
    longest = max(held, key=held.__getitem__)
    within = {(lane.part, lane.offset) for lane in state.lanes if planner.orders[0][lane.number] == longest}
    assert len(within) > 0.5 * held[longest]  # not all at one place; in a pair, which has only anchors, some share one
    _, after = planner.next(state)
    assert after.taken_S[0] <= len(split)


def test_with_a_window_of_shards_or_one_lane_all_begin_with_a_document(mixed_set: ShardSet) -> None:
    for config in (PlanSettings(lanes=9, shuffle_window=1), PlanSettings(lanes=1)):
        assert {lane.number for lane in planner_of(mixed_set, config).initial().lanes} == {-1}
