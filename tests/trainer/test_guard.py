"""The guard on real runs: where it stops them, what it says that the step read, and that no later weights are kept."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from tests.trainer.conftest import TINY
from tests.trainer.loading import planner_of
from tests.trainer.test_train import assert_same_run, metrics
from trainer import checkpoint, guard
from trainer.config import Config, make_config
from trainer.train import train


def report_of(config: Config, step: int) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return json.loads((Path(config.run) / f"guard-{step}.json").read_text(), parse_constant=refuse)  # type: ignore[no-any-return]


def pieces_of(shard_set: ShardSet, config: Config, step: int) -> list[tuple[Any, ...]]:
    """What the step read, by a planner that goes there from the start: the documents' ids are those of the index."""
    planner, split = planner_of(shard_set, config), shard_set.split("train")
    plans = (plan.pieces for plan, _ in planner.plans(planner.initial()) if plan.step == step - 1)
    views = ["raw", *(view.name for view in planner.views)]
    return [(p.set, split.id(p.ordinal).hex(), views[p.view], p.row, p.begin, p.end, p.text) for p in next(plans)]


def assert_report(shard_set: ShardSet, config: Config, step: int) -> dict[str, Any]:
    found = report_of(config, step)
    assert found["step"] == step
    keys = ("set", "id", "view", "row", "begin", "end", "bytes")
    assert [tuple(piece[key] for key in keys) for piece in found["pieces"]] == pieces_of(shard_set, config, step)
    for view in ("raw", "sentencepiece"):
        of_view = [piece for piece in found["pieces"] if piece["view"] == view]
        assert found[f"bytes/{view}"] == sum(piece["bytes"] for piece in of_view)
    return found


def spike_in(entries: list[dict[str, Any]], nats: float) -> tuple[int, str] | None:
    """The first step, and its view, that lies so far over the mean of the steps before, from a run's lines alone."""
    for now, entry in enumerate(entries):
        for view in ("raw", "sentencepiece"):
            past = [e for e in entries[:now] if e[f"symbols/{view}"] >= guard.ENOUGH_TARGETS][-guard.WINDOW :]
            if len(past) < guard.ENOUGH_STEPS or entry[f"symbols/{view}"] < guard.ENOUGH_TARGETS:
                continue
            mean = sum(e[f"loss/{view}"] * e[f"symbols/{view}"] for e in past) / sum(e[f"symbols/{view}"] for e in past)
            if entry[f"loss/{view}"] > mean + nats:
                return entry["step"], view
    return None


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_loss_that_is_not_finite_stops_a_run_that_has_no_weights_of_it_and_names_what_the_step_read(
    prefetch: int, tiny_config: Config, tiny_set: ShardSet
) -> None:
    # the rate rises past what the weights bear; steps after the bad one are done before the guard sees it
    config = dataclasses.replace(
        tiny_config, lr=1e30, clip=0.0, schedule="cosine", warmup_steps=0, log_every=8, checkpoint_every=1,
        prefetch=prefetch, keep=0, eval_every=0,
    )  # fmt: skip
    with pytest.raises(ByteproxyError, match="loss or gradient is not finite") as error:
        train(config)
    step = len(metrics(config)) + 1
    assert f"step {step}:" in str(error.value) and f"guard-{step}.json" in str(error.value)
    assert checkpoint.steps_of(Path(config.run)) == list(range(1, step))
    found = assert_report(tiny_set, config, step)
    assert isinstance(found["loss"], str) or isinstance(found["grad_norm"], str)
    assert found["lr"] > 0


def test_a_bad_step_between_two_looks_stops_at_itself_and_the_due_checkpoint_is_not_written(
    tiny_config: Config, tiny_set: ShardSet
) -> None:
    config = dataclasses.replace(
        tiny_config, lr=1e30, clip=0.0, schedule="cosine", warmup_steps=0, log_every=100, checkpoint_every=7,
        eval_every=0,
    )  # fmt: skip
    with pytest.raises(ByteproxyError, match="not finite"):
        train(config)
    step = len(metrics(config)) + 1
    assert step < 7 and not checkpoint.steps_of(Path(config.run))
    assert_report(tiny_set, config, step)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, ShardSet, str]:
    """Short texts and one of random bytes, which comes once the means have settled; and that one's id."""
    texts = [text[:1000] for text in standard_library(12_000, 60)]
    noise = random.Random(0).randbytes(3000)
    folder = tmp_path_factory.mktemp("odd")
    opened = ShardSet.open(build_set(folder / "set", [*texts[8:], noise], texts[:8], "sentencepiece:vocab=512"))
    config = make_config({
        **TINY, "shards": str(folder / "set"), "run": str(folder / "run"), "steps": 48, "seed": 3, "batch_rows": 2,
        "checkpoint_every": 5, "eval_every": 0, "log_every": 7, "keep": 0, "translation": 0.2, "lanes": 2,
    })  # fmt: skip
    split = opened.split("train")
    (identity,) = (split.id(i).hex() for i in range(len(split)) if bytes(split.raw(i)) == noise)
    return config, opened, identity


def test_a_spike_stops_a_run_at_its_step_also_when_resumed_and_a_larger_one_lets_it_go_on_bit_for_bit(
    odd: tuple[Config, ShardSet, str], tmp_path: Path
) -> None:
    base, shard_set, identity = odd
    free, stopped, other = (dataclasses.replace(base, run=str(tmp_path / name)) for name in ("a", "b", "c"))
    train(free)
    assert spike_in(metrics(free), free.spike) is None
    found = spike_in(metrics(free), 1.0)
    assert found
    step, view = found
    assert (
        step // 5 * 5 > guard.ENOUGH_STEPS and step % base.log_every
    )  # a resume has means to find again; the log step is later

    wanted = rf"step {step}: the loss of {view}, .* more than --spike 1 .*guard-{step}\.json"
    with pytest.raises(ByteproxyError, match=wanted):
        train(dataclasses.replace(stopped, spike=1.0))
    assert metrics(stopped)[-1]["step"] == step - 1
    assert checkpoint.steps_of(Path(stopped.run)) == list(range(5, step, 5))
    report = assert_report(shard_set, stopped, step)
    assert report[f"loss/{view}"] == metrics(free)[step - 1][f"loss/{view}"]
    assert identity in {piece["id"] for piece in report["pieces"] if piece["view"] == view}

    (Path(stopped.run) / f"guard-{step}.json").unlink()
    with pytest.raises(ByteproxyError, match=wanted):  # from a checkpoint, with means of steps before it
        train(dataclasses.replace(stopped, spike=1.0))
    assert report_of(stopped, step) == report
    with pytest.raises(ByteproxyError, match=wanted):
        train(dataclasses.replace(other, spike=1.0, checkpoint_every=3, log_every=1, prefetch=0))
    assert report_of(other, step) == report

    train(dataclasses.replace(stopped, spike=0.0))
    assert_same_run(stopped, free)


def test_a_recipe_that_turns_to_raw_text_behind_symbols_alone_is_no_spike(tiny_config: Config) -> None:
    recipe = {"views": "sentencepiece", "rate": 1.0, "translation": 0.0, "anneal": 0.1, "spike": 1.0, "steps": 120}
    config = dataclasses.replace(tiny_config, **recipe)
    train(config)
    entries = metrics(config)
    before, first = entries[:108], entries[108]
    ends = [e for e in before if e["symbols/raw"]]
    assert len(ends) >= guard.ENOUGH_STEPS and max(e["symbols/raw"] for e in ends) < guard.ENOUGH_TARGETS
    assert first["symbols/raw"] >= guard.ENOUGH_TARGETS
    assert first["loss/raw"] > max(e["loss/raw"] for e in ends[-10:]) + config.spike
