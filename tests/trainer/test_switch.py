"""Documents in turns, raw and compressed: each text once, cut at anchors, resumed exactly, counted as in batches."""

import dataclasses
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.loading import loader_of, planner_of, views_of
from tests.trainer.planning import ARRAYS, PlanSettings, batches, copied
from trainer.ahead import Source
from trainer.compare.arms import wanted_runs
from trainer.compare.flops import Work
from trainer.compare.plan_file import read_plan
from trainer.compare.solve import estimate, run_of
from trainer.config import Config
from trainer.loader import Loader
from trainer.mixture import open_mixture
from trainer.place import DONE, JOIN_CUT
from trainer.plan import Piece, PlanState
from trainer.recipe import part_bytes
from trainer.specials import BOS, SPECIALS, closer
from trainer.train import train

GAP = 128  # bytes between the anchors of sentencepiece
CONFIGS = st.builds(
    PlanSettings,
    views=st.just("sentencepiece"),
    seed=st.integers(0, 1000),
    context=st.sampled_from([16, 50, 300, 2000]),
    batch_rows=st.integers(1, 5),
    lanes=st.sampled_from([1, 8]),
    translation=st.just(0.0),
    anneal=st.just(0.0),
    pairs=st.just(0.0),
    switch=st.sampled_from([0.5, 1.0]),
    switch_bytes=st.sampled_from([1, 100, 500, 100_000]),
)
COMMON = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def has_turns(shard_set: ShardSet, ordinal: int) -> bool:
    return len(shard_set.split("train").anchors(ordinal, "sentencepiece")) > 2


def whole_documents(shard_set: ShardSet, config: PlanSettings) -> dict[int, list[Piece]]:
    """Pieces of the documents, by running number, of as many steps as it takes to end a whole epoch."""
    planner, found = planner_of(shard_set, dataclasses.replace(config, steps=1_000_000)), defaultdict(list)
    state, size = planner.initial(), len(shard_set.split("train"))
    while state.taken_S[0] < size or any(0 <= lane.number < size for lane in state.lanes):
        plan, state = planner.next(state)
        for piece in plan.pieces:
            found[piece.number].append(piece)
    return {number: pieces for number, pieces in found.items() if number < size}


@COMMON
@given(CONFIGS)
def test_each_text_is_there_once_raw_and_compressed_in_turn_between_anchors(
    tiny_set: ShardSet, config: PlanSettings
) -> None:
    split, codec = tiny_set.split("train"), tiny_set.codec("sentencepiece")
    for pieces in whole_documents(tiny_set, config).values():
        ordinal = pieces[0].ordinal
        parts: list[tuple[int, bytes]] = []  # view and text, put together where a row has cut
        for piece in pieces:
            if piece.view == 0:
                text = split.raw(ordinal)[piece.begin : piece.end].tobytes()
            else:
                text = codec.decode(split.symbols(ordinal, "sentencepiece")[piece.begin : piece.end])
            if parts and parts[-1][0] == piece.view:
                parts[-1] = piece.view, parts[-1][1] + text
            else:
                parts.append((piece.view, text))
            assert piece.end > piece.begin or piece.tail == DONE
        assert b"".join(text for _, text in parts) == split.raw(ordinal).tobytes()
        assert sum(piece.text for piece in pieces) == split.length("raw", ordinal)
        assert [piece.tail == DONE for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        if len(parts) > 1 or (has_turns(tiny_set, ordinal) and config.switch == 1.0):
            assert [view for view, _ in parts] == [number % 2 for number in range(len(parts))]
            ends = np.cumsum([len(text) for _, text in parts])
            assert set(ends.tolist()) <= set(split.anchors(ordinal, "sentencepiece")[:, 0].tolist())
            least, most = max(1, config.switch_bytes // 2), config.switch_bytes * 3 // 2 + GAP
            assert all(least <= len(text) <= most for _, text in parts[:-1]) and len(parts[-1][1]) <= most


def test_the_share_of_documents_is_the_one_asked_for_and_the_others_are_as_they_would_be(tiny_set: ShardSet) -> None:
    config = PlanSettings(views="sentencepiece", translation=0.0, anneal=0.0, context=2000, switch_bytes=1)
    wanted = set(range(len(tiny_set.split("train"))))
    streams: dict[float, dict[int, set[int]]] = {}
    for switch in (0.0, 0.4, 1.0):
        documents = whole_documents(tiny_set, dataclasses.replace(config, switch=switch))
        assert documents.keys() == wanted
        streams[switch] = {number: {piece.view for piece in pieces} for number, pieces in documents.items()}
    order = planner_of(tiny_set, config).orders[0]
    can = {number for number in wanted if has_turns(tiny_set, order[number])}
    both = {switch: {number for number in wanted if len(found[number]) == 2} for switch, found in streams.items()}
    assert both[0.0] == set() and both[1.0] == can and len(can) > 30
    assert both[0.4] < can and len(both[0.4]) / len(can) == pytest.approx(0.4, abs=0.2)
    assert all(streams[0.4][number] == streams[0.0][number] for number in wanted - both[0.4])


def test_a_part_is_from_half_to_three_halves_of_what_was_asked_for() -> None:
    draws = np.random.default_rng(0).integers(0, 2**64, 4000, np.uint64)
    found = [part_bytes(draw, number % 7, 512) for number, draw in enumerate(draws)]
    assert min(found) >= 256 and max(found) < 768 and np.mean(found) == pytest.approx(512, abs=10)
    assert {part_bytes(draw, 0, 1) for draw in draws} == {1}


@COMMON
@given(CONFIGS, st.integers(0, 20), st.sampled_from([0.0, 0.5]))
def test_resumes_and_ranks_give_the_batches_of_the_run_left_alone(
    tiny_set: ShardSet, config: PlanSettings, at: int, anneal: float
) -> None:
    if config.context >= 300:  # with pairs among them, and documents in turns that end where the annealing begins
        config = dataclasses.replace(config, pairs=0.1, translation=0.3, anneal=anneal)
    alone = [(copied(batch), state.to_json()) for _, batch, state in batches(tiny_set, config)]
    sources, views = [Source(tiny_set.split("train"))], views_of(tiny_set, config)
    for ranks in {1, min(2, config.batch_rows)}:
        state = PlanState.from_json(alone[at][1])
        loaders = [Loader(sources, views, config, state, 0, rank=rank, ranks=ranks) for rank in range(ranks)]
        for step, parts in enumerate(zip(*loaders, strict=True), at + 1):
            expected, after = alone[step]
            assert all(state.to_json() == after for _, state in parts)
            for name in ARRAYS[:5]:
                assert np.array_equal(np.concatenate([getattr(batch, name) for batch, _ in parts]), expected[name])
        for loader in loaders:
            loader.close()


def test_later_parts_see_earlier_ones_and_no_closer_between_them_is_a_target(tiny_set: ShardSet) -> None:
    config = PlanSettings(views="sentencepiece", translation=0.0, switch=1.0, anneal=0.0, switch_bytes=60, steps=30)
    joined = 0
    for plan, batch, _ in batches(tiny_set, config):
        bounds = set(batch.cu_seqlens.tolist())
        for piece in plan.pieces:
            place = piece.row * config.context + piece.at
            assert piece.bos == (place in bounds)
            row, first = batch.ids_RT[piece.row], piece.at + piece.bos
            assert (row[piece.at] == BOS) == piece.bos
            if piece.tail == JOIN_CUT:
                end = piece.at + piece.length - 1  # the closer
                assert row[end] == closer(piece.view) and not batch.counted_RT[piece.row, end - 1]
                assert batch.positions_RT[piece.row, end + 1] == batch.positions_RT[piece.row, end] + 1
                joined += 1
            end = min(first + 1 + piece.end - piece.begin, config.context)
            assert (row[first + 1 : end] >= SPECIALS).all() and batch.counted_RT[piece.row, first : end - 1].all()
    assert joined > 100


def test_annealing_is_raw_alone(tiny_set: ShardSet) -> None:
    config = PlanSettings(views="sentencepiece", translation=0.0, switch=1.0, anneal=0.5, steps=80, context=2000)
    planner = planner_of(tiny_set, config)
    for plan, _ in planner.plans(planner.initial()):
        assert plan.step < 40 or not any(piece.view for piece in plan.pieces)


def test_what_the_pieces_say_is_what_batches_hold_and_the_estimate_is_near(
    tiny_set: ShardSet, tiny_config: Config
) -> None:
    config = dataclasses.replace(
        tiny_config, views="sentencepiece", translation=0.0, anneal=0.0, switch=1.0, switch_bytes=100, steps=300
    )
    total, looks, positions = Work.none(1), 0, 0
    with loader_of(tiny_set, config) as loader:
        for batch, _ in loader:
            total.symbols_V += batch.symbols
            total.bytes_V += batch.raw_bytes
            for begin, end in itertools.pairwise(np.unique(batch.cu_seqlens)):
                if batch.ids_RT.reshape(-1)[begin]:  # else a stretch of padding
                    looks, positions = looks + (end - begin) * (end - begin + 1) // 2, positions + end - begin
    solved = run_of(config, open_mixture(config), [320, 576])
    found = solved.work
    assert found.symbols_V.tolist() == total.symbols_V.tolist() and found.bytes_V.tolist() == total.bytes_V.tolist()
    assert (found.positions, found.looks) == (positions, looks)
    assert found.bytes_V[1] / found.bytes == pytest.approx(0.5, abs=0.1)
    each = found.bytes_V[1] / found.symbols_V[1]
    steps, _ = estimate(config, [320, 576], each, "bytes", found.bytes)
    assert steps == pytest.approx(config.steps, rel=0.1)


def test_a_run_in_turns_trains_and_does_not_go_on_without_them(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, switch=0.5, switch_bytes=100, steps=4, eval_every=0)
    assert train(config)["step"] == 4
    with pytest.raises(ByteproxyError, match=r"--switch: 0\.5 → 0\.0"):
        train(dataclasses.replace(config, switch=0.0))


def test_a_set_without_anchors_is_refused_and_a_plan_can_ask_for_it(tiny_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError, match=r"--switch 0\.5: views gzip found, of which none can be cut"):
        planner_of(tiny_set, PlanSettings(views="gzip", switch=0.5))
    planner_of(tiny_set, PlanSettings(views="gzip", mode="tokens", switch=0.5))
    path = tmp_path / "plan.toml"
    path.write_text('[sizes.a]\nflops = [1e9]\n[arms.a]\nviews = "sentencepiece"\nswitch = 0.3\nswitch-bytes = 256\n')
    config = wanted_runs(read_plan(path), "set")[0].config
    assert (config.switch, config.switch_bytes) == (0.3, 256)
