"""The planner and its batches: each symbol a target exactly once, pairs whole, resumes exact."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from trainer.batch import Batch, build_batch
from trainer.loader import Loader, views_of_run
from trainer.plan import Plan, Planner, PlanState
from trainer.recipe import Layout, draw_layout
from trainer.specials import BOS, EOS, PAD, SPECIALS, closer, opener


@dataclass(frozen=True)
class PlanSettings:
    mode: str = "proxy"
    view: str = ""
    steps: int = 40
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    translation: float = 0.5
    anneal: float = 0.2
    context: int = 300
    batch_rows: int = 3


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Documents of 0, 1, around a context's and many bytes; a view with inner anchors, and one without."""
    texts = standard_library(6_000, 12)
    long = standard_library(40_000, 60)[-1]
    texts += [long[:n] for n in (0, 1, 2, 3, 295, 296, 297, 298, 299, 300, 301, 302, 600)] + [long, b"\xff\0" * 400]
    folder = tmp_path_factory.mktemp("plan") / "set"
    return ShardSet.open(build_set(folder, texts, texts[:1], "sentencepiece:vocab=400", "gzip", shards=2))


def batches(shard_set: ShardSet, config: PlanSettings) -> Iterator[tuple[Plan, Batch, PlanState]]:
    views = views_of_run(shard_set, config)
    planner = Planner(shard_set.split("train"), views, config)
    for plan, state in planner.plans(planner.initial()):
        yield plan, build_batch(plan, planner.split, views, config.batch_rows, config.context), state


CONFIGS = st.builds(
    PlanSettings,
    mode=st.sampled_from(["proxy", "bytes", "tokens", "parallel"]),
    view=st.sampled_from(["sentencepiece", "gzip"]),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.5, 0.9, 1.0]),
    context=st.sampled_from([261, 262, 300, 301, 2000]),
    batch_rows=st.integers(1, 5),
    translation=st.sampled_from([0.0, 0.5, 1.0]),
    anneal=st.just(0.0),
)
COMMON = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@COMMON
@given(CONFIGS)
def test_every_symbol_of_every_documents_layout_is_a_target_exactly_once_an_epoch(
    mixed: ShardSet, config: PlanSettings
) -> None:
    split, views = mixed.split("train"), views_of_run(mixed, config)
    planner = Planner(split, views, config)
    seen: Counter[tuple[int, int, int]] = Counter()  # (document's number, view, symbol); -1 for the closer at its end
    state = planner.initial()
    while state.taken < len(split) or any(0 <= lane.number < len(split) for lane in state.lanes):
        plan, state = planner.next(state)
        for piece in plan.pieces:
            seen.update((piece.number, piece.view, symbol) for symbol in range(piece.begin, piece.end))
            seen[piece.number, piece.view, -1] += piece.tail.counted
    for number in range(len(split)):
        layout = {view for (document, view, _) in seen if document == number}
        assert layout
        for view in layout:
            length = split.length(views[view - 1].name if view else "raw", planner.order[number])
            assert all(seen[number, view, symbol] == 1 for symbol in range(-1, length))


@COMMON
@given(CONFIGS)
def test_one_epoch_of_one_lane_lays_each_document_out_once_and_in_order(mixed: ShardSet, config: PlanSettings) -> None:
    """Read the stream back from the batches' own arrays, and decode it: the documents, whole."""
    config = replace(config, batch_rows=1, steps=4000)
    split, views = mixed.split("train"), views_of_run(mixed, config)
    planner = Planner(split, views, config)
    state, streams = planner.initial(), Counter[tuple[int, bytes]]()
    parts: dict[int, list[int]] = {0: [], 1: []}
    while state.taken < len(split) or state.lanes[0].number in range(len(split)):
        plan, state = planner.next(state)
        batch = build_batch(plan, split, views, 1, config.context)
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
    alone = [(batch, state.to_json()) for _, batch, state in batches(mixed, config)]
    for first in (at, at + again):  # and a second resume
        state = alone[first][1]
        with Loader(mixed, config, state, prefetch=again) as loader:
            resumed = list(loader)
        assert len(resumed) == config.steps - first - 1
        for (batch, after), (expected, expected_after) in zip(resumed, alone[first + 1 :], strict=True):
            assert after == expected_after
            for name in ("ids_RT", "targets_RT", "counted_RT", "views_RT", "positions_RT", "cu_seqlens"):
                assert np.array_equal(getattr(batch, name), getattr(expected, name))


@COMMON
@given(CONFIGS)
def test_batches_have_fixed_shapes_and_targets_never_cross_documents(mixed: ShardSet, config: PlanSettings) -> None:
    shapes = set()
    for plan, batch, _ in batches(mixed, replace(config, steps=12)):
        shapes.add((batch.ids_RT.shape, batch.cu_seqlens.shape))
        starts = batch.cu_seqlens[batch.cu_seqlens < batch.ids_RT.size]
        flat = batch.ids_RT.reshape(-1)
        assert set(range(0, flat.size, config.context)) <= set(starts.tolist())  # rows never share a segment
        assert (
            np.isin(flat[starts], (BOS, PAD)).all() and (flat[np.setdiff1d(np.arange(flat.size), starts)] != BOS).all()
        )
        targets = batch.targets_RT[batch.counted_RT]
        assert not np.isin(targets, (PAD, BOS, opener(0), opener(1))).any()
        # a closer is always the last token of its view's stretch, and only closers and eos follow the text
        assert (batch.views_RT[batch.ids_RT == BOS] == 0).all() and (batch.views_RT[batch.ids_RT == EOS] == 0).all()
        assert batch.symbols.sum() == batch.counted_RT.sum()
        assert batch.raw_bytes.sum() == sum(piece.text for piece in plan.pieces)
    assert len(shapes) == 1


@COMMON
@given(CONFIGS)
def test_the_halves_of_every_pair_piece_decode_to_the_same_bytes(mixed: ShardSet, config: PlanSettings) -> None:
    config = replace(config, mode="proxy", translation=1.0, rate=0.6)
    split, views = mixed.split("train"), views_of_run(mixed, config)
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
    assert pairs or config.view == "gzip"  # whose pairs are whole documents, and seldom fit


def test_a_document_without_inner_anchors_that_does_not_fit_takes_one_view_and_is_counted(mixed: ShardSet) -> None:
    config = PlanSettings(view="gzip", translation=1.0)
    split, unpaired = mixed.split("train"), 0
    for plan, batch, _ in batches(mixed, config):
        unpaired += batch.unpaired
        for piece in plan.pieces:
            fits = split.length("raw", piece.ordinal) + split.length("gzip", piece.ordinal) + 6 <= config.context + 1
            assert fits or piece.bos
    assert unpaired


def test_the_layout_follows_from_the_step_at_which_the_document_starts(mixed: ShardSet) -> None:
    """The annealing begins at a step; documents under way keep their view."""
    config = PlanSettings(translation=0.0, anneal=0.5, steps=60, batch_rows=2)
    split = mixed.split("train")
    started: dict[tuple[int, int], int] = {}
    for plan, _, state in batches(mixed, config):
        for piece in plan.pieces:
            if plan.step >= 30 and piece.begin == 0:
                started[plan.step, piece.ordinal] = piece.view
        assert state.step == plan.step + 1
    assert started and set(started.values()) == {0}
    assert draw_layout(config, 0, split.id(0), 45, True) == Layout.RAW


def test_a_row_that_begins_inside_a_document_begins_with_bos_and_the_views_sentinel(mixed: ShardSet) -> None:
    config = PlanSettings(mode="bytes", context=50, batch_rows=1)
    previous = None
    for plan, batch, _ in batches(mixed, config):
        if previous and previous.tail.closer is False:
            first = plan.pieces[0]
            assert first.ordinal == previous.ordinal and first.begin == previous.end
            assert batch.ids_RT[0, :2].tolist() == [BOS, opener(0)]
            assert batch.counted_RT[0, :2].tolist() == [False, True]  # the symbol after the cut, from the sentinel
        previous = plan.pieces[-1]


@pytest.mark.parametrize(("mode", "context"), [("proxy", 260), ("bytes", 3)])
def test_a_context_too_short_for_the_sentinels_is_refused(mixed: ShardSet, mode: str, context: int) -> None:
    config = PlanSettings(mode=mode, context=context)
    with pytest.raises(ByteproxyError, match=rf"context {context} is too short.* --context \d+ or more"):
        Planner(mixed.split("train"), views_of_run(mixed, config), config)


def test_an_error_in_the_prefetch_thread_reaches_the_trainer(tmp_path: Path) -> None:
    folder = build_set(tmp_path / "set", [bytes([i]) * 300 for i in range(8)], [b"v"], "gzip")
    shard_set = ShardSet.open(folder)
    file = folder / shard_set.manifest.splits["train"][0].path
    chunk = shard_set.manifest.splits["train"][0].row_groups[0].chunks["raw"]
    data = bytearray(file.read_bytes())
    data[chunk.offset + 200] ^= 1
    file.write_bytes(data)
    with (
        Loader(ShardSet.open(folder), PlanSettings(mode="bytes")) as loader,
        pytest.raises(ByteproxyError, match="column raw, document"),
    ):
        list(loader)
