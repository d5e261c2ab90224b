"""The planner and its batches: each symbol a target exactly once, pairs whole, resumes exact, any number of ranks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from tests.trainer.loading import loader_of, planner_of, views_of
from tests.trainer.planning import ARRAYS, COMMON, CONFIGS, PlanSettings, batches, builder_of, copied
from trainer.ahead import Source
from trainer.loader import Loader
from trainer.place import DONE, JOIN
from trainer.plan import Planner, PlanState
from trainer.specials import BOS, EOS, PAD, SPECIALS, closer, opener
from trainer.start import EARLIER


@COMMON
@given(CONFIGS, st.sampled_from([40, 4000]))
def test_every_symbol_of_every_documents_layout_is_a_target_exactly_once_an_epoch(
    mixed_set: ShardSet, config: PlanSettings, steps: int
) -> None:
    """But for those, where a phase of the schedule ends within the epoch, that the next one would lay out otherwise."""
    config = replace(config, steps=steps)
    split, views = mixed_set.split("train"), views_of(mixed_set, config)
    planner = planner_of(mixed_set, config)
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
def test_one_epoch_of_one_lane_lays_each_document_out_once_and_in_order(
    mixed_set: ShardSet, config: PlanSettings
) -> None:
    """Read the stream back from the batches' own arrays, and decode it: the documents, whole."""
    config = replace(config, batch_rows=1, lanes=1, steps=4000)
    split, views = mixed_set.split("train"), views_of(mixed_set, config)
    planner = planner_of(mixed_set, config)
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
                    streams[1, mixed_set.codec(views[0].name).decode(np.array(symbols, f"<u{views[0].width}"))] += 1
    for ordinal in range(len(split)):
        raw = split.raw(ordinal).tobytes()
        assert streams[0, raw] + streams[1, raw] >= 1
    known = {split.raw(ordinal).tobytes() for ordinal in range(len(split))}
    assert {raw for _, raw in streams} <= known


@COMMON
@given(CONFIGS, st.integers(0, 30), st.integers(0, 8))
def test_a_resumed_run_gets_the_batches_of_the_run_left_alone(
    mixed_set: ShardSet, config: PlanSettings, at: int, again: int
) -> None:
    alone = [(copied(batch), state.to_json()) for _, batch, state in batches(mixed_set, config)]
    for first in (at, at + again):  # and a second resume
        state = PlanState.from_json(alone[first][1])
        with loader_of(mixed_set, config, state, prefetch=again) as loader:
            resumed = [(copied(batch), after.to_json()) for batch, after in loader]
        assert len(resumed) == config.steps - first - 1
        for (batch, after), (expected, expected_after) in zip(resumed, alone[first + 1 :], strict=True):
            assert after == expected_after
            assert all(np.array_equal(batch[name], expected[name]) for name in ARRAYS)


@COMMON
@given(CONFIGS, st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=2, max_size=4))
def test_any_number_of_ranks_and_any_change_of_it_gives_the_batches_of_one(
    mixed_set: ShardSet, config: PlanSettings, ranks: list[int]
) -> None:
    """Each rank opens its own loader at each change, from the state that one of the ranks before it wrote."""
    config = replace(config, steps=5 * len(ranks), batch_rows=max(config.batch_rows, 8))
    alone = [(copied(batch), state.to_json()) for _, batch, state in batches(mixed_set, config)]
    state, step = None, 0
    sources, views = [Source(mixed_set.split("train"))], views_of(mixed_set, config)
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
def test_batches_have_fixed_shapes_and_targets_never_cross_documents(mixed_set: ShardSet, config: PlanSettings) -> None:
    shapes = set()
    for plan, batch, _ in batches(mixed_set, replace(config, steps=12)):
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
def test_the_halves_of_every_pair_piece_decode_to_the_same_bytes(mixed_set: ShardSet, config: PlanSettings) -> None:
    config = replace(config, mode="proxy", translation=1.0, rate=0.6)
    split, views = mixed_set.split("train"), views_of(mixed_set, config)
    pairs = 0
    for plan, _, _ in batches(mixed_set, config):
        for first, second in zip(plan.pieces, plan.pieces[1:], strict=False):
            if second.bos:
                continue
            pairs += 1
            assert (first.row, first.ordinal, first.at + first.length) == (second.row, second.ordinal, second.at)
            spans = {piece.view: (piece.begin, piece.end) for piece in (first, second)}
            raw = split.raw(first.ordinal)[slice(*spans[0])].tobytes()
            symbols = split.symbols(first.ordinal, views[0].name)[slice(*spans[1])]
            assert mixed_set.codec(views[0].name).decode(symbols) == raw
    assert pairs or config.views == "gzip"  # whose pairs are whole documents, and seldom fit


def test_a_plan_is_a_pure_function_of_the_state(mixed_set: ShardSet) -> None:
    """Asked again, in another order, or by another planner: the same plan and the same next state."""
    config = PlanSettings(steps=30)
    planner, states, plans = planner_of(mixed_set, config), [], []
    state = planner.initial()
    for _ in range(30):
        states.append(state)
        plan, state = planner.next(state)
        plans.append((plan.pieces, state.to_json()))
    for step in (29, 0, 17, 16, 18):
        plan, after = planner.next(states[step])
        assert (plan.pieces, after.to_json()) == plans[step]
        plan, after = planner_of(mixed_set, config).next(PlanState.from_json(states[step].to_json()))
        assert (plan.pieces, after.to_json()) == plans[step]


def test_a_document_without_inner_anchors_that_does_not_fit_takes_one_view_and_is_counted(mixed_set: ShardSet) -> None:
    config = PlanSettings(views="gzip", translation=1.0)
    split, unpaired = mixed_set.split("train"), 0
    for plan, batch, _ in batches(mixed_set, config):
        unpaired += batch.unpaired
        for piece in plan.pieces:
            fits = split.length("raw", piece.ordinal) + split.length("gzip", piece.ordinal) + 6 <= config.context + 1
            assert fits or piece.bos
    assert unpaired


@pytest.mark.parametrize(("mode", "context"), [("proxy", 260), ("bytes", 3)])
def test_a_context_too_short_for_the_sentinels_is_refused(mixed_set: ShardSet, mode: str, context: int) -> None:
    with pytest.raises(ByteproxyError, match=rf"context {context} is too short.* --context \d+ or more"):
        planner_of(mixed_set, PlanSettings(mode=mode, context=context))


@pytest.mark.parametrize("mix_by", ["documents", "bytes", "symbols"])
def test_sets_are_mixed_by_weight_in_the_unit_asked_for(mixed_set: ShardSet, tmp_path: Path, mix_by: str) -> None:
    texts = [text for text in standard_library(30_000, 80) if len(text) > 6000]
    other = ShardSet.open(build_set(tmp_path / "other", texts, texts[:1], "gzip"))
    sources = [Source(mixed_set.split("train"), 3.0), Source(other.split("train"), 1.0)]
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
    alone = planner_of(mixed_set, config)
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


def test_a_row_full_of_pairs_of_an_empty_document(mixed_set: ShardSet) -> None:
    """The most pieces that a row can hold: two for each six tokens."""
    split = mixed_set.split("train")
    empty = next(i for i in range(len(split)) if split.length("raw", i) == 0)
    source = Source(split, excluded=np.delete(np.arange(len(split)), empty))
    config = PlanSettings(views="sentencepiece", translation=1.0, rate=0.5, rate_start=0.5, anneal=0.0, context=2000)
    planner = Planner([source], views_of(mixed_set, config), config)
    plan, _ = planner.next(planner.initial())
    rows = [[piece for piece in plan.pieces if piece.row == row] for row in range(config.batch_rows)]
    for row in rows:
        assert config.context + 1 - 6 < sum(piece.length for piece in row) <= config.context + 1
    assert len(plan.pieces) > config.batch_rows * (config.context // 4 + 1)
