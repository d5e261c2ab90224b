"""The planner and its batches: each symbol a target exactly once, pairs whole, resumes exact, any number of ranks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from tests.trainer.loading import loader_of, planner_of, views_of
from trainer.ahead import Source
from trainer.batch import Batch, Buffers, Builder
from trainer.loader import Loader, rows_of_rank
from trainer.place import CUT, DONE, JOIN
from trainer.plan import Plan, Planner, PlanState
from trainer.recipe import phase_at, rates_at
from trainer.specials import BOS, EOS, PAD, SPECIALS, closer, opener
from trainer.start import EARLIER

ARRAYS = ("ids_RT", "targets_RT", "counted_RT", "views_RT", "positions_RT", "cu_seqlens", "symbols", "raw_bytes")


@dataclass(frozen=True)
class PlanSettings:
    mode: str = "proxy"
    views: str = ""
    steps: int = 40
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    rate_end: float = -1.0
    translation: float = 0.5
    anneal: float = 0.2
    pairs: float = 0.0
    switch: float = 0.0
    switch_bytes: int = 512
    rate_unit: str = "documents"
    context: int = 300
    batch_rows: int = 3
    lanes: int = 1
    shuffle_window: int = 0
    mix_by: str = "bytes"
    check: str = "fail"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Documents of 0, 1, around a context's and many bytes; a view with inner anchors, and one without."""
    texts = standard_library(6_000, 12)
    long = standard_library(40_000, 60)[-1]
    texts += [long[:n] for n in (0, 1, 2, 3, 295, 296, 297, 298, 299, 300, 301, 302, 600)] + [long, b"\xff\0" * 400]
    folder = tmp_path_factory.mktemp("plan") / "set"
    return ShardSet.open(build_set(folder, texts, texts[:1], "sentencepiece:vocab=400", "gzip", shards=4))


def copied(batch: Batch) -> dict[str, Any]:
    """A batch's arrays, which are used again, for keeping."""
    return {name: getattr(batch, name).copy() for name in ARRAYS}


def batches(shard_set: ShardSet, config: PlanSettings) -> Iterator[tuple[Plan, Batch, PlanState]]:
    planner = planner_of(shard_set, config)
    build = builder_of(planner, config)
    for plan, state in planner.plans(planner.initial()):
        yield plan, build(plan), state


def builder_of(planner: Planner, config: PlanSettings, rank: int = 0, ranks: int = 1) -> Any:
    first, end = rows_of_rank(config.batch_rows, rank, ranks)
    builder = Builder(planner.sources, planner.pointers, planner.views, first, end - first, config.check)
    return lambda plan: builder.build(plan, Buffers(end - first, config.context, planner.views))


CONFIGS = st.builds(
    PlanSettings,
    mode=st.sampled_from(["proxy", "bytes", "tokens", "parallel"]),
    views=st.sampled_from(["sentencepiece", "gzip"]),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.5, 0.9, 1.0]),
    rate_end=st.sampled_from([-1.0, 0.0, 1.0]),
    context=st.sampled_from([261, 262, 300, 301, 2000]),
    batch_rows=st.integers(1, 9),
    lanes=st.sampled_from([1, 2, 9, 20]),
    translation=st.sampled_from([0.0, 0.5, 1.0]),
    anneal=st.just(0.0),
    shuffle_window=st.sampled_from([0, 1, 2, 9]),
)
COMMON = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@COMMON
@given(CONFIGS, st.sampled_from([40, 4000]))
def test_every_symbol_of_every_documents_layout_is_a_target_exactly_once_an_epoch(
    mixed: ShardSet, config: PlanSettings, steps: int
) -> None:
    """But for those, where a phase of the schedule ends within the epoch, that the next one would lay out otherwise."""
    config = replace(config, steps=steps)
    split, views = mixed.split("train"), views_of(mixed, config)
    planner = planner_of(mixed, config)
    seen: Counter[tuple[int, int, int]] = Counter()  # (document's number, view, symbol); -1 for the closer at its end
    state, left = planner.initial(), set[int]()
    while state.taken_S[0] < len(split) or any(0 <= lane.number < len(split) for lane in state.lanes):
        first = state.step % planner.turns * config.batch_rows
        turn = [lane.number for lane in state.lanes[first : first + config.batch_rows]]
        plan, state = planner.next(state)
        rows = {(piece.row, piece.number) for piece in plan.pieces}
        gone = [number for row, number in enumerate(turn) if number >= 0 and (row, number) not in rows]
        assert len(gone) == plan.left
        left.update(gone)
        for piece in plan.pieces:
            if piece.number >= len(split) * EARLIER:  # what the lanes stood in at the start, maybe several in one
                continue
            seen.update((piece.number, piece.view, symbol) for symbol in range(piece.begin, piece.end))
            seen[piece.number, piece.view, -1] += piece.tail in (JOIN, DONE)
    assert not left or steps == 40
    assert max(seen.values()) == 1
    for number in sorted(set(range(len(split))) - left):
        layout = {view for (document, view, _) in seen if document == number}
        assert layout
        for view in layout:
            length = split.length(views[view - 1].name if view else "raw", planner.orders[0][number])
            assert all(seen[number, view, symbol] == 1 for symbol in range(-1, length))


@COMMON
@given(CONFIGS)
def test_one_epoch_of_one_lane_lays_each_document_out_once_and_in_order(mixed: ShardSet, config: PlanSettings) -> None:
    """Read the stream back from the batches' own arrays, and decode it: the documents, whole."""
    config = replace(config, batch_rows=1, lanes=1, steps=4000)
    split, views = mixed.split("train"), views_of(mixed, config)
    planner = planner_of(mixed, config)
    build = builder_of(planner, config)
    state, streams = planner.initial(), Counter[tuple[int, bytes]]()
    parts: dict[int, list[int]] = {0: [], 1: []}
    while state.taken_S[0] < len(split) or state.lanes[0].number in range(len(split)):
        plan, state = planner.next(state)
        batch = build(plan)
        counted = batch.counted_RT[0]
        for view, target in zip(
            batch.views_RT[0][counted].tolist(), batch.targets_RT[0][counted].tolist(), strict=True
        ):
            if target >= SPECIALS:
                parts[view].append(target - SPECIALS)
            elif target == closer(view):
                symbols, parts[view] = parts[view], []
                if view == 0:
                    streams[0, bytes(symbols)] += 1
                else:
                    streams[1, mixed.codec(views[0].name).decode(np.array(symbols, f"<u{views[0].width}"))] += 1
    for ordinal in range(len(split)):
        raw = split.raw(ordinal).tobytes()
        assert streams[0, raw] + streams[1, raw] >= 1
    known = {split.raw(ordinal).tobytes() for ordinal in range(len(split))}
    assert {raw for _, raw in streams} <= known


@COMMON
@given(CONFIGS, st.integers(0, 30), st.integers(0, 8))
def test_a_resumed_run_gets_the_batches_of_the_run_left_alone(
    mixed: ShardSet, config: PlanSettings, at: int, again: int
) -> None:
    alone = [(copied(batch), state.to_json()) for _, batch, state in batches(mixed, config)]
    for first in (at, at + again):  # and a second resume
        state = PlanState.from_json(alone[first][1])
        with loader_of(mixed, config, state, prefetch=again) as loader:
            resumed = [(copied(batch), after.to_json()) for batch, after in loader]
        assert len(resumed) == config.steps - first - 1
        for (batch, after), (expected, expected_after) in zip(resumed, alone[first + 1 :], strict=True):
            assert after == expected_after
            assert all(np.array_equal(batch[name], expected[name]) for name in ARRAYS)


@COMMON
@given(CONFIGS, st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=2, max_size=4))
def test_any_number_of_ranks_and_any_change_of_it_gives_the_batches_of_one(
    mixed: ShardSet, config: PlanSettings, ranks: list[int]
) -> None:
    """Each rank opens its own loader at each change, from the state that one of the ranks before it wrote."""
    config = replace(config, steps=5 * len(ranks), batch_rows=max(config.batch_rows, 8))
    alone = [(copied(batch), state.to_json()) for _, batch, state in batches(mixed, config)]
    state, step = None, 0
    sources, views = [Source(mixed.split("train"))], views_of(mixed, config)
    for many in ranks:
        loaders = [Loader(sources, views, config, state, rank % 3, rank=rank, ranks=many) for rank in range(many)]
        streams = [iter(loader) for loader in loaders]
        for _ in range(5):
            parts = [next(stream) for stream in streams]
            state = parts[step % many][1].to_json()
            expected, expected_state = alone[step]
            assert all(after.to_json() == expected_state for _, after in parts)
            for name in ("ids_RT", "targets_RT", "counted_RT", "views_RT", "positions_RT"):
                assert np.array_equal(np.concatenate([getattr(part, name) for part, _ in parts]), expected[name])
            assert np.array_equal(sum(part.symbols for part, _ in parts), expected["symbols"])
            step += 1
        for loader in loaders:
            loader.close()


@COMMON
@given(CONFIGS)
def test_batches_have_fixed_shapes_and_targets_never_cross_documents(mixed: ShardSet, config: PlanSettings) -> None:
    shapes = set()
    for plan, batch, _ in batches(mixed, replace(config, steps=12)):
        shapes.add((batch.ids_RT.shape, batch.cu_seqlens.shape, batch.ids_RT.dtype))
        starts = batch.cu_seqlens[batch.cu_seqlens < batch.ids_RT.size]
        flat = batch.ids_RT.reshape(-1)
        assert set(range(0, flat.size, config.context)) <= set(starts.tolist())  # rows never share a segment
        assert (np.diff(starts) > 0).all()
        assert (
            np.isin(flat[starts], (BOS, PAD)).all() and (flat[np.setdiff1d(np.arange(flat.size), starts)] != BOS).all()
        )
        ends = np.append(starts[1:], flat.size)
        expected = np.concatenate([np.arange(end - start) for start, end in zip(starts, ends, strict=True)])
        assert np.array_equal(batch.positions_RT.reshape(-1), expected)
        targets = batch.targets_RT[batch.counted_RT]
        assert not np.isin(targets, (PAD, BOS, opener(0), opener(1))).any()
        # a closer is always the last token of its view's stretch, and only closers and eos follow the text
        assert (batch.views_RT[batch.ids_RT == BOS] == 0).all() and (batch.views_RT[batch.ids_RT == EOS] == 0).all()
        counts = np.bincount(batch.views_RT[batch.counted_RT], minlength=len(batch.symbols))
        assert np.array_equal(batch.symbols, counts)
        assert batch.raw_bytes.sum() == sum(piece.text for piece in plan.pieces) == batch.set_bytes.sum()
    assert len(shapes) == 1


@COMMON
@given(CONFIGS)
def test_the_halves_of_every_pair_piece_decode_to_the_same_bytes(mixed: ShardSet, config: PlanSettings) -> None:
    config = replace(config, mode="proxy", translation=1.0, rate=0.6)
    split, views = mixed.split("train"), views_of(mixed, config)
    pairs = 0
    for plan, _, _ in batches(mixed, config):
        for first, second in zip(plan.pieces, plan.pieces[1:], strict=False):
            if second.bos:
                continue
            pairs += 1
            assert (first.row, first.ordinal, first.at + first.length) == (second.row, second.ordinal, second.at)
            spans = {piece.view: (piece.begin, piece.end) for piece in (first, second)}
            raw = split.raw(first.ordinal)[slice(*spans[0])].tobytes()
            symbols = split.symbols(first.ordinal, views[0].name)[slice(*spans[1])]
            assert mixed.codec(views[0].name).decode(symbols) == raw
    assert pairs or config.views == "gzip"  # whose pairs are whole documents, and seldom fit


def test_a_plan_is_a_pure_function_of_the_state(mixed: ShardSet) -> None:
    """Asked again, in another order, or by another planner: the same plan and the same next state."""
    config = PlanSettings(steps=30)
    planner, states, plans = planner_of(mixed, config), [], []
    state = planner.initial()
    for _ in range(30):
        states.append(state)
        plan, state = planner.next(state)
        plans.append((plan.pieces, state.to_json()))
    for step in (29, 0, 17, 16, 18):
        plan, after = planner.next(states[step])
        assert (plan.pieces, after.to_json()) == plans[step]
        plan, after = planner_of(mixed, config).next(PlanState.from_json(states[step].to_json()))
        assert (plan.pieces, after.to_json()) == plans[step]


def test_a_document_without_inner_anchors_that_does_not_fit_takes_one_view_and_is_counted(mixed: ShardSet) -> None:
    config = PlanSettings(views="gzip", translation=1.0)
    split, unpaired = mixed.split("train"), 0
    for plan, batch, _ in batches(mixed, config):
        unpaired += batch.unpaired
        for piece in plan.pieces:
            fits = split.length("raw", piece.ordinal) + split.length("gzip", piece.ordinal) + 6 <= config.context + 1
            assert fits or piece.bos
    assert unpaired


def test_the_layout_follows_from_the_step_at_which_the_document_starts(mixed: ShardSet) -> None:
    """The share of compressed streams falls within a phase; documents under way keep their view."""
    config = PlanSettings(translation=0.0, anneal=0.0, rate=1.0, rate_end=0.0, steps=200, batch_rows=2)
    planner, views, kept = planner_of(mixed, config), dict[int, int](), 0
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
    mixed: ShardSet, lanes: int, pairs: float
) -> None:
    """So the annealing reads raw bytes alone (and pairs) from its first step, however long the documents under way."""
    config = PlanSettings(translation=0.3, anneal=0.4, pairs=pairs, steps=100, batch_rows=2, lanes=lanes, seed=3)
    planner, left, kept = planner_of(mixed, config), Counter[int](), 0
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


def test_each_lane_has_its_turn_and_its_rows_follow_one_another(mixed: ShardSet) -> None:
    """10 lanes wanted, 3 rows a step: 12 lanes, a row each in four steps."""
    config = PlanSettings(mode="bytes", batch_rows=3, lanes=10, steps=40)
    planner, ends = planner_of(mixed, config), dict[tuple[int, int], tuple[int, int]]()
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


def test_a_row_that_begins_inside_a_document_begins_with_bos_and_the_views_sentinel(mixed: ShardSet) -> None:
    config = PlanSettings(mode="bytes", context=50, batch_rows=1)
    previous = None
    for plan, batch, _ in batches(mixed, config):
        if previous and previous.tail == CUT:
            first = plan.pieces[0]
            assert first.ordinal == previous.ordinal and first.begin == previous.end
            assert batch.ids_RT[0, :2].tolist() == [BOS, opener(0)]
            assert batch.counted_RT[0, :2].tolist() == [False, True]  # the symbol after the cut, from the sentinel
        previous = plan.pieces[-1]


@pytest.mark.parametrize(("mode", "context"), [("proxy", 260), ("bytes", 3)])
def test_a_context_too_short_for_the_sentinels_is_refused(mixed: ShardSet, mode: str, context: int) -> None:
    with pytest.raises(ByteproxyError, match=rf"context {context} is too short.* --context \d+ or more"):
        planner_of(mixed, PlanSettings(mode=mode, context=context))


def test_a_state_of_another_global_batch_is_refused(mixed: ShardSet) -> None:
    state = planner_of(mixed, PlanSettings(batch_rows=4)).initial()
    with pytest.raises(ByteproxyError, match=r"a state of 4 lanes and 1 sets found, 3 and 1 expected.*--lanes 1"):
        planner_of(mixed, PlanSettings()).next(state)


def test_documents_that_a_run_leaves_half_done_are_named(mixed: ShardSet) -> None:
    planner = planner_of(mixed, PlanSettings(mode="bytes", batch_rows=2))
    state = planner.initial()
    while not all(lane.number >= 0 and lane.offset for lane in state.lanes):
        _, state = planner.next(state)
    split, found = mixed.split("train"), planner.unfinished(state)
    assert [lane["offset"] for lane in found] == [lane.offset for lane in state.lanes]
    for lane in found:
        number = split.find(bytes.fromhex(lane["id"]))
        assert number is not None and lane["offset"] < split.length("raw", number)


@pytest.mark.parametrize("mix_by", ["documents", "bytes", "symbols"])
def test_sets_are_mixed_by_weight_in_the_unit_asked_for(mixed: ShardSet, tmp_path: Path, mix_by: str) -> None:
    texts = [text for text in standard_library(30_000, 80) if len(text) > 6000]
    other = ShardSet.open(build_set(tmp_path / "other", texts, texts[:1], "gzip"))
    sources = [Source(mixed.split("train"), 3.0), Source(other.split("train"), 1.0)]
    config = PlanSettings(mode="bytes", steps=600, mix_by=mix_by, batch_rows=2)
    planner = Planner(sources, [], config)
    documents, text = np.zeros(2), np.zeros(2)
    for plan, _ in planner.plans(planner.initial()):
        for piece in plan.pieces:
            documents[piece.set] += piece.begin == 0
            text[piece.set] += piece.text
    share = documents if mix_by == "documents" else text
    assert share[1] / share.sum() == pytest.approx(0.25, abs=0.04)
    assert (documents[1] / documents.sum() < 0.2) == (mix_by != "documents")
    alone = planner_of(mixed, config)
    first = [piece.ordinal for piece in next(alone.plans(alone.initial()))[0].pieces]
    assert first  # the first set's order is the same as without the second
    taken = [alone.orders[0][k] for k in range(20)]
    assert taken == [planner.orders[0][k] for k in range(20)]


def test_an_error_in_the_prefetch_thread_reaches_the_trainer(tmp_path: Path) -> None:
    folder = build_set(tmp_path / "set", [bytes([i]) * 300 for i in range(8)], [b"v"], "gzip")
    shard_set = ShardSet.open(folder)
    file = folder / shard_set.manifest.splits["train"][0].path
    chunk = shard_set.manifest.splits["train"][0].row_groups[0].chunks["raw"]
    data = bytearray(file.read_bytes())
    data[chunk.offset + 200] ^= 1
    file.write_bytes(data)
    with (
        loader_of(ShardSet.open(folder), PlanSettings(mode="bytes"), prefetch=2) as loader,
        pytest.raises(ByteproxyError, match="column raw, document"),
    ):
        list(loader)


def test_a_row_full_of_pairs_of_an_empty_document(mixed: ShardSet) -> None:
    """The most pieces that a row can hold: two for each six tokens."""
    split = mixed.split("train")
    empty = next(i for i in range(len(split)) if split.length("raw", i) == 0)
    source = Source(split, excluded=np.delete(np.arange(len(split)), empty))
    config = PlanSettings(views="sentencepiece", translation=1.0, rate=0.5, rate_start=0.5, anneal=0.0, context=2000)
    planner = Planner([source], views_of(mixed, config), config)
    plan, _ = planner.next(planner.initial())
    rows = [[piece for piece in plan.pieces if piece.row == row] for row in range(config.batch_rows)]
    for row in rows:
        assert config.context + 1 - 6 < sum(piece.length for piece in row) <= config.context + 1
    assert len(plan.pieces) > config.batch_rows * (config.context // 4 + 1)


@COMMON
@given(CONFIGS)
def test_lanes_begin_evenly_spread_over_the_text_in_an_order_of_their_own(
    mixed: ShardSet, config: PlanSettings
) -> None:
    """So the first lanes lie in documents by their length as laid out, at any place in them."""
    config = replace(config, batch_rows=5, lanes=400, shuffle_window=0, views="sentencepiece")
    planner, split = planner_of(mixed, config), mixed.split("train")
    state = planner.initial()
    assert state.to_json() == planner_of(mixed, config).initial().to_json()
    assert len(state.lanes) == 400 and all(lane.number >= len(split) * EARLIER for lane in state.lanes)
    held = Counter(planner.orders[0][lane.number] for lane in state.lanes)
    if config.mode == "bytes":
        total = sum(split.length("raw", ordinal) for ordinal in range(len(split)))
        for ordinal in range(len(split)):
            assert abs(held[ordinal] - 400 * split.length("raw", ordinal) / total) <= 1
    longest = max(held, key=held.__getitem__)
    within = {(lane.part, lane.offset) for lane in state.lanes if planner.orders[0][lane.number] == longest}
    assert len(within) > 0.9 * held[longest]  # not all at one place
    _, after = planner.next(state)
    assert after.taken_S[0] <= len(split)


def test_with_a_window_of_shards_or_one_lane_all_begin_with_a_document(mixed: ShardSet) -> None:
    for config in (PlanSettings(lanes=9, shuffle_window=1), PlanSettings(lanes=1)):
        assert {lane.number for lane in planner_of(mixed, config).initial().lanes} == {-1}
