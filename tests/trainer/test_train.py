"""The loop end to end on a real set: exact resume through kills, each step once in metrics.jsonl, refusals by name."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from tests.trainer.loading import planner_of
from trainer import checkpoint
from trainer.config import Config, flag, make_config
from trainer.train import train

PATIENCE = 240  # seconds: a loaded machine is slow, not wrong


def weights(config: Config) -> dict[str, torch.Tensor]:
    folder = checkpoint.folder_of(Path(config.run), config.steps)
    model, optimizer = load_file(folder / checkpoint.MODEL), load_file(folder / checkpoint.OPTIMIZER)
    return model | {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}


def metrics(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(config: Config, other: Config) -> None:
    """The same weights and optimizer state bit for bit, and each step once with the same figures."""
    mine, theirs = weights(config), weights(other)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [entry["step"] for entry in metrics(config)] == list(range(1, config.steps + 1))
    for entry, reference in zip(metrics(config), metrics(other), strict=True):
        for key in ("loss", "loss/raw", "grad_norm", "lr", "symbols/raw", "bytes/raw", "documents", "val_bpb"):
            assert entry.get(key) == reference.get(key), (entry["step"], key)


def arguments(config: Config, **changes: Any) -> list[str]:
    """The command that trains a config."""
    values = dataclasses.asdict(config) | changes
    flags = [
        f"{flag(name)}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
    ]
    return [sys.executable, "-m", "trainer", "train", *flags]


def kill_when(reached: Callable[[], bool], config: Config, **changes: Any) -> None:
    """Train in a process of its own and kill -9 it while `reached` holds; where that was missed, begin again."""
    run, kept = Path(config.run), Path(config.run).with_name("kept")
    if run.exists():
        shutil.copytree(run, kept)
    for _ in range(20):
        with subprocess.Popen(
            arguments(config, **changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None and not reached():
                os.sched_yield()
            process.send_signal(signal.SIGSTOP)  # frozen, it cannot leave the state before it is killed
            found = process.poll() is None and reached()
            process.kill()
        if found and reached():
            shutil.rmtree(kept, ignore_errors=True)
            return
        shutil.rmtree(run)
        if kept.exists():
            shutil.copytree(kept, run)
    pytest.fail("never caught in the state asked for")


@pytest.fixture(scope="module")
def reference(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run left alone."""
    from tests.trainer.conftest import TINY

    config = make_config({**TINY, "shards": str(tiny_folder), "run": str(tmp_path_factory.mktemp("reference") / "run")})
    train(config)
    return config


def test_a_run_learns_and_its_result_holds_the_final_figures(reference: Config) -> None:
    run = Path(reference.run)
    result = json.loads((run / "result.json").read_text())
    entries = metrics(reference)
    assert entries[-1]["loss/raw"] < 0.8 * entries[0]["loss/raw"]
    assert result["step"] == 12 and 1 < result["raw_bpb"] < 8
    assert list(result["baselines"]) == ["gzip -9", "zstd -19", "brotli -11", "xz -9e"]
    assert result["symbols"]["raw"] == sum(entry["symbols/raw"] for entry in entries)
    assert result["bytes_of_text"]["sentencepiece"] == sum(entry["bytes/sentencepiece"] for entry in entries)
    assert result["sample"].startswith("def ")
    assert [entry["step"] for entry in entries if "val_bpb" in entry] == [6]
    assert checkpoint.steps_of(run) == [8, 12]
    assert json.loads((run / "config.json").read_text()) == dataclasses.asdict(reference)


def test_the_prefetch_depth_does_not_change_a_run(reference: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(reference, run=str(tmp_path / "run"), prefetch=0)
    train(config)
    assert_same_run(config, reference)


def test_a_finished_run_says_so_and_is_left_as_it_was(reference: Config, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(reference.run).rglob("*") if path.name != ".lock"}
    result = train(reference)
    shown = capsys.readouterr().out
    assert "is done: 12 steps" in shown and "gzip -9" in shown and f"{result['raw_bpb']:.3f}" in shown
    assert {path: path.stat().st_mtime_ns for path in Path(reference.run).rglob("*") if path.name != ".lock"} == before


def test_killed_in_a_pair_in_the_steady_phase_and_in_a_checkpoint_a_run_ends_bit_for_bit_alike(
    reference: Config, tiny_set: ShardSet, tmp_path: Path
) -> None:
    config = dataclasses.replace(reference, run=str(tmp_path / "run"))
    run = Path(config.run)

    def steps_written() -> int:
        path = run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    # 12 steps: the first 5 begin pairs, the next 3 are steady, the rest is annealed; checkpoints after 4, 8 and 12
    planner = planner_of(tiny_set, config)
    plans = [plan for plan, _ in planner.plans(planner.initial())]
    assert all(any(not piece.bos for piece in plan.pieces) for plan in plans[1:5])  # second halves
    kill_when(lambda: 1 <= steps_written() <= 4, config, prefetch=1, log_every=1)
    kill_when(lambda: 6 <= steps_written() <= 7, config, prefetch=3, log_every=1)
    kill_when(lambda: any((run / "checkpoints").glob(".tmp-step_00000012*")), config, prefetch=0)
    assert checkpoint.steps_of(run)[-1] == 8
    train(dataclasses.replace(config, prefetch=2))
    assert_same_run(config, reference)
    assert not list((run / "checkpoints").glob(".tmp*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_says_how_to_go_on_and_the_run_ends_alike(
    number: signal.Signals, reference: Config, tmp_path: Path
) -> None:
    config = dataclasses.replace(reference, run=str(tmp_path / "run"))
    path = Path(config.run) / "metrics.jsonl"
    command = arguments(config, log_every=1, checkpoint_every=0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 2):
            os.sched_yield()
        process.send_signal(number)
        shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, shown
    (step,) = checkpoint.steps_of(Path(config.run))
    assert f"stopped after step {step}; continue with: python -m trainer train --run {config.run}" in shown
    again = subprocess.run(
        [sys.executable, "-m", "trainer", "train", "--run", config.run],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert again.returncode == 0, again.stderr
    assert f"continuing after step {step}" in again.stdout or step == config.steps
    assert_same_run(config, reference)


def test_two_recipes_train_at_once_from_one_read_only_set_and_leave_it_as_it_was(
    tiny_config: Config, tmp_path: Path
) -> None:
    texts = standard_library(8_000, 24)
    folder = build_set(tmp_path / "set", texts[4:], texts[:4], "sentencepiece:vocab=400")

    def hashes() -> dict[Path, str]:
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}

    before = hashes()
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        processes = []
        for mode in ("proxy", "bytes"):
            config = dataclasses.replace(
                tiny_config, shards=str(folder), run=str(tmp_path / mode), mode=mode, steps=6, eval_every=0
            )
            processes.append(
                subprocess.Popen(arguments(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for process in processes:
            shown, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, shown
        assert hashes() == before
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.parametrize("mode", ["bytes", "tokens", "parallel"])
def test_every_mode_trains_and_tokens_claims_nothing_about_raw_bytes(mode: str, tiny_config: Config) -> None:
    result = train(dataclasses.replace(tiny_config, mode=mode, steps=3, eval_every=1, views="gzip"))
    assert set(result["symbols"]) == ({"raw"} if mode == "bytes" else {"raw", "gzip"})
    assert ("raw_bpb" in result) == ("sample" in result) == (mode != "tokens")


def test_a_changed_config_is_refused_with_a_diff_and_free_settings_are_not(reference: Config) -> None:
    with pytest.raises(ByteproxyError) as error:
        train(dataclasses.replace(reference, lr=1.0, seed=7, keep=9))
    assert "--lr: 0.01 → 1.0" in str(error.value) and "--seed: 0 → 7" in str(error.value)
    assert "keep" not in str(error.value)
    with pytest.raises(ByteproxyError, match="--threads: 1 → 2"):
        train(dataclasses.replace(reference, threads=2))
    with pytest.raises(ByteproxyError, match="--dtype: float32 → bfloat16"):
        train(dataclasses.replace(reference, dtype="bfloat16"))
    assert train(dataclasses.replace(reference, dtype="auto", threads=0, device="auto", log_every=1))["step"] == 12


def test_another_set_is_refused_and_the_same_set_elsewhere_is_not(
    reference: Config, tiny_folder: Path, tmp_path: Path
) -> None:
    texts = standard_library(8_000, 24)
    folder = build_set(tmp_path / "set", texts[4:], texts[:4], "sentencepiece:vocab=512")
    with pytest.raises(ByteproxyError, match="begun on other data: order, raw, sentencepiece"):
        train(dataclasses.replace(reference, shards=str(folder)))
    (tmp_path / "moved").symlink_to(tiny_folder)
    assert train(dataclasses.replace(reference, shards=str(tmp_path / "moved")))["step"] == 12


def test_what_a_set_cannot_give_is_one_clear_error_and_leaves_no_checkpoint(tiny_config: Config) -> None:
    for change, message in (
        ({"views": "zstd"}, "has no view 'zstd'; it has sentencepiece, gzip"),
        ({"context": 100}, "context 100 is too short"),
        ({"shards": "/nowhere"}, "is no shard set"),
        ({"device": "cuda"}, "sees no CUDA device"),
    ):
        if change == {"device": "cuda"} and torch.cuda.is_available():
            continue
        with pytest.raises(ByteproxyError, match=message):
            train(dataclasses.replace(tiny_config, **change))
        assert not checkpoint.steps_of(Path(tiny_config.run))


def test_a_run_in_use_is_refused(tiny_config: Config) -> None:
    with (
        checkpoint.locked(Path(tiny_config.run)),
        pytest.raises(ByteproxyError, match="is being trained by another process"),
    ):
        train(tiny_config)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_report(tiny_config: Config) -> None:
    with pytest.raises(ByteproxyError, match=r"step \d+: loss or gradient is not finite") as error:
        train(dataclasses.replace(tiny_config, lr=1e30, clip=0.0, schedule="cosine", warmup_steps=0))
    assert "lower --lr" in str(error.value)
    entries = metrics(tiny_config)
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
