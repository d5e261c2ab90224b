"""The comparison: plans are refused by name, runs are found again, and a driver that was stopped ends the same."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import ByteproxyError
from trainer.__main__ import main
from trainer.compare.arms import Wanted, check_codecs, check_views, folder_name, identity, wanted_runs
from trainer.compare.cli import solve_all
from trainer.compare.driver import FIGURES, Run, Stop, drive, flags_of
from trainer.compare.flops import Work
from trainer.compare.plan_file import PlanFile, read_plan
from trainer.compare.results import collect, equivalent, table_rows
from trainer.compare.solve import Solved
from trainer.config import make_config
from trainer.flags import parse_flags

ROOT = Path(__file__).parent.parent.parent
PLAN = """
seeds = [0]
[settings]
dtype = "float32"
device = "cpu"
threads = 1
context = 272
batch_rows = 2
warmup_steps = 2
checkpoint_every = 2
translation = 0.4
anneal = 0.3
[sizes.tiny]
width = 32
layers = 1
heads = 2
kv_heads = 1
head_dim = 16
mlp = 32
flops = [5e8]
[arms.bytes]
mode = "bytes"
[arms.proxy]
views = "sentencepiece"
[views.sentencepiece]
encode = 10
"""


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., PlanFile]:
    def read(text: str = PLAN) -> PlanFile:
        (tmp_path / "small.toml").write_text(text)
        return read_plan(tmp_path / "small.toml")

    return read


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0]", "seedz = [0]", r"small\.toml: key 'seedz' is not known; did you mean --seeds\?"),
        ("translation = 0.4", "translatoin = 0.4", r"\[settings\]: key 'translatoin' is not known; .*--translation"),
        ("flops = [5e8]", "flopz = [5e8]", r"\[sizes\.tiny\].*no mark found"),
        ("flops = [5e8]", "flops = [-1]", r"\[sizes\.tiny\] flops = \[-1\] found, a list of numbers over 0"),
        ('mode = "bytes"', 'mode = "bytes"\nwidth = 64', r"\[arms\.bytes\] width: arms are compared with"),
        ('mode = "bytes"', 'mode = "bytes"\nsizes = ["huge"]', r"\[arms\.bytes\] sizes: huge found, of the sizes tiny"),
        ('mode = "bytes"', 'mode = "bytes"\nflops = [7e8]', r"\[arms\.bytes\] flops: 7e\+08 found, of .* 5e\+08 exp"),
        ('mode = "bytes"', 'mode = "bytes"\nbytes = [1e6]', r"\[arms\.bytes\] bytes: 1e\+06 found, of .* none exp"),
        ('mode = "bytes"', 'mode = "bytes"\nsteps = 5', r"\[arms\.bytes\]: key 'steps' is the driver's to set"),
        ("seeds = [0]", 'seeds = [0]\nagainst = "gold"', r"against = 'gold' found, one of the arms bytes, proxy"),
        ("seeds = [0]", "seeds = [0]\ntranslate = -1", r"small\.toml: translate = -1 found, a whole number from 0"),
        ("flops = [5e8]", "flops = [5e8]\nseeds = [7]", r"\[sizes\.tiny\]: no arm has a run of this size"),
        ("encode = 10", 'encode = "lm-9t"', r"\[views\.sentencepiece\] encode: 'lm-9t' found, FLOPs a byte or one of"),
    ],
)  # fmt: skip
def test_what_a_plan_gets_wrong_is_named(plan: Callable[..., PlanFile], old: str, new: str, message: str) -> None:
    assert old in PLAN
    with pytest.raises(ByteproxyError, match=message):
        plan(PLAN.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('mode = "bytes"', 'mode = "bites"', "plan small, size tiny, arm bytes: --mode: 'bites' found"),
        ('views = "sentencepiece"\n[', "rate = 0.5\n[", "arm proxy: no views found, views = .* expected in mode proxy"),
        ('views = "sentencepiece"\n[', 'views = "zip"\n[', "views.sentencepiece]: no arm trains on such a view"),
        ("sentencepiece", "zip", "arm proxy: view zip found, of sentencepiece, gzip expected"),
    ],
)  # fmt: skip
def test_an_arm_that_cannot_run_is_named(
    plan: Callable[..., PlanFile], tiny_folder: Path, old: str, new: str, message: str
) -> None:
    read = plan(PLAN.replace(old, new))
    with pytest.raises(ByteproxyError, match=message):
        check_views(read, wanted_runs(read, str(tiny_folder)), str(tiny_folder))


def test_keys_may_be_spelt_with_dashes(plan: Callable[..., PlanFile]) -> None:
    read = plan(PLAN.replace("encode = 10", "bytes-per-symbol = 2.5\n[machine]\nflops-per-second = 1e9"))
    assert read.views["sentencepiece"].bytes_per_symbol == 2.5 and read.machine.flops_per_second == 1e9


def test_what_a_command_cannot_mean_is_refused_before_anything_is_read() -> None:
    for option in ("--jobs", "--limit-seconds"):
        with pytest.raises(ByteproxyError, match=f"{option}: -1 found, 0 or more expected"):
            main(["compare", "no.toml", option, "-1"])


def test_a_codec_that_is_missing_is_told_before_anything_is_trained(
    plan: Callable[..., PlanFile], tiny_folder: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "set"
    shutil.copytree(tiny_folder, shards)
    wanted = {
        text: wanted_runs(plan(PLAN.replace("translation", text)), str(shards))
        for text in ("translation", "compose = 'both'\ntranslation")
    }
    for folder in shards.glob("codecs/sentencepiece-*"):
        shutil.rmtree(folder)
    plain, composed = wanted.values()
    check_codecs(plain, str(shards))  # training itself asks for none
    with pytest.raises(ByteproxyError, match="sentencepiece"):
        check_codecs(composed, str(shards))


def test_a_run_is_named_after_all_that_moves_a_weight_and_nothing_else(plan: Callable[..., PlanFile]) -> None:
    run = wanted_runs(plan(), "set")[0]
    name = folder_name(run, run.config, {"raw": "1"})
    free = make_config({"log_every": 3, "shards": "elsewhere", "run": "x", "keep": 9}, run.config)
    assert folder_name(run, free, {"raw": "1"}) == name
    for change in ({"lr": 1e-4}, {"seed": 5}, {"steps": 77}, {"threads": 2}):
        assert identity(make_config(change, run.config), {"raw": "1"}) != identity(run.config, {"raw": "1"})
    assert identity(run.config, {"raw": "2"}) != identity(run.config, {"raw": "1"})
    lists = [
        make_config({"exclude": name}, run.config) for name in ("here.txt", "there.txt")
    ]  # digests tell what it says
    assert folder_name(run, lists[0], {"raw": "1"}) == folder_name(run, lists[1], {"raw": "1"}) == name
    mixed = [make_config({"shards": text}, run.config) for text in ("a:1,b:2", "c:1,d:2", "a:2,b:1")]
    first, elsewhere, other = [folder_name(run, config, {"raw": "1", "raw of set 1": "2"}) for config in mixed]
    assert first == elsewhere != other


def test_a_config_survives_the_command_line(plan: Callable[..., PlanFile]) -> None:
    for run in wanted_runs(plan(), "a/b"):
        config = make_config({"lr": 1e-5, "tie": True, "prompt": "x = 'a b'"}, run.config)
        assert make_config(parse_flags(flags_of(config))[0]) == config


@pytest.mark.parametrize("path", sorted((ROOT / "plans").glob("*.toml")), ids=lambda path: path.stem)
def test_the_plans_that_come_with_it_are_sound(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "by formula" in shown and re.search(r"in all [\d.e+]+ FLOPs of training, [\d,.]+ hours", shown)
    assert "bytes" in {run.arm for run in wanted_runs(read_plan(path), "set")}


def finished(wanted: Wanted, folder: Path, bpb: float) -> Run:
    """A run with the files of one that is done."""
    folder.mkdir()
    names = ["raw", *wanted.views]
    result = {"symbols": dict.fromkeys(names, 1000), "bytes_of_text": dict.fromkeys(names, 3000), "seconds": 6.0}
    (folder / "result.json").write_text(json.dumps(result | {"raw_bpb": bpb, "val_bytes": 9}))
    (folder / "views.json").write_text(json.dumps(dict.fromkeys(wanted.views, 1.5)))
    told = dict.fromkeys(FIGURES, 0.5) | {"exact_match": 0.25 + 0.5 * wanted.seed, "bpb_alone": 0.75}
    (folder / "translate.json").write_text(json.dumps(dict.fromkeys(wanted.views, told)))
    return planned(wanted, folder, 1000)


def planned(wanted: Wanted, folder: Path, symbols: int = 0) -> Run:
    """A run of so many symbols of each view."""
    work = Work.none(len(wanted.views))
    work.symbols_V[:] = symbols
    tables = [320, 576][: 1 + len(wanted.views)]
    return Run(wanted, wanted.config, Solved(10, work, 123), folder, tables, {"raw": "abc"}, 8, wanted.views)


def test_means_spreads_and_gaps_are_those_of_the_runs(plan: Callable[..., PlanFile], tmp_path: Path) -> None:
    read = plan(PLAN.replace("seeds = [0]", "seeds = [0, 1]"))
    scores = {("bytes", 0): 2.0, ("bytes", 1): 2.2, ("proxy", 0): 1.8, ("proxy", 1): 1.9}
    wanted = wanted_runs(read, "set")
    runs = [finished(run, tmp_path / f"{run.arm}{run.seed}", scores[run.arm, run.seed]) for run in wanted]
    body = collect(read, runs)
    base, proxy = body["groups"]
    assert body["complete"] and base["bpb"] == pytest.approx(2.1) and base["gap_percent"] == 0
    assert proxy["bpb_range"] == [1.8, 1.9] and proxy["gap_percent"] == pytest.approx(100 * (1.85 / 2.1 - 1))
    assert proxy["ranges_apart"] and proxy["encode_flops"] == 30_000 and proxy["view_bpb"] == {"sentencepiece": 1.5}
    assert proxy["translation"]["sentencepiece"]["exact_match"] == 0.5 and base["translation"] == {}
    rows = table_rows(body, "flops", {run.folder.name: 60.0 for run in runs})
    assert rows[1]["BPB"] == "1.8500 ± 0.0500" and rows[1]["ranges apart"] == "yes" and rows[1]["minutes"] == "1.0"
    assert [row["translated"] for row in rows] == ["", "sentencepiece 50.0% -0.250"]
    assert [row["data"] for row in body["runs"]] == [{"raw": "abc"}] * 4
    (runs[2].folder / "result.json").unlink()  # of the second seed the arm held against has none
    partial = collect(read, runs)
    (proxy,) = (group for group in partial["groups"] if group["arm"] == "proxy")
    assert not partial["complete"] and proxy["seeds"] == [0, 1] and proxy["gap_seeds"] == [0]
    assert [row["ranges apart"] for row in table_rows(partial, "flops", {})] == ["", ""]


def test_worth_is_read_off_the_marks_of_the_arm_held_against(plan: Callable[..., PlanFile], tmp_path: Path) -> None:
    read = plan(PLAN.replace("flops = [5e8]", "flops = [5e8, 2e9]"))
    scores = {("bytes", 5e8): 2.0, ("bytes", 2e9): 1.0, ("proxy", 5e8): 9.0, ("proxy", 2e9): 2.0**0.5}
    wanted = wanted_runs(read, "set")
    runs = [finished(run, tmp_path / f"{run.arm}{run.mark}", scores[run.arm, run.mark]) for run in wanted]
    body = collect(read, runs)
    found = {(group["arm"], group["mark"]): group["compute_gain"] for group in body["groups"]}
    assert found == {("bytes", 5e8): pytest.approx(1), ("bytes", 2e9): pytest.approx(1), ("proxy", 5e8): 0.5,
                     ("proxy", 2e9): pytest.approx(0.5)}  # fmt: skip
    assert [row["worth"] for row in table_rows(body, "flops", {})] == ["1.00x", "<0.50x", "1.00x", "0.50x"]
    # seed 1 of the arm held against says nothing about seed 0 of another
    lucky = replace(wanted[2], seed=1)
    assert lucky.arm == "bytes"
    runs.append(finished(lucky, tmp_path / "lucky", 0.5))
    (group,) = (each for each in collect(read, runs)["groups"] if (each["arm"], each["mark"]) == ("proxy", 2e9))
    assert group["compute_gain"] == pytest.approx(0.5)


def test_arms_run_to_the_marks_they_are_restricted_to(plan: Callable[..., PlanFile]) -> None:
    read = plan(PLAN.replace("[5e8]", "[5e8, 6e8]\nbytes = [1e6]").replace('= "bytes"', '= "bytes"\nflops = [6e8]'))
    found = [(run.arm, run.unit, run.mark) for run in wanted_runs(read, "set")]
    assert found == [("proxy", "flops", 5e8), ("bytes", "flops", 6e8), ("proxy", "flops", 6e8),
                     ("bytes", "bytes", 1e6), ("proxy", "bytes", 1e6)]  # fmt: skip


def test_what_a_score_is_worth_is_read_off_the_curve_it_is_held_against() -> None:
    curve = [(1e9, 2.0), (4e9, 1.0), (16e9, 0.8)]
    middle = 2.0**0.5  # a power law: half of the way in both logarithms
    beyond = 0.8**1.25
    for bpb, mark in ((2.0, 1e9), (middle, 2e9), (1.0, 4e9), (0.8, 16e9), (beyond, 16e9 * 4**0.25)):
        assert equivalent(curve, bpb) == (pytest.approx(mark), "=")
    assert equivalent(curve, 3.0) == (0.5e9, "<") and equivalent(curve, 0.5) == (32e9, ">")
    assert equivalent(curve, 1e9) == (0.5e9, "<") and equivalent(curve, 1e-9) == (32e9, ">")
    assert equivalent(curve[:1], 1.5) is None  # a point is no curve
    assert equivalent([(1e9, 1.0), (4e9, 2.0)], 1.5) is None  # nor is one that rises


def test_what_is_left_to_score_follows_from_the_files_and_needs_a_checkpoint_for_translation(
    plan: Callable[..., PlanFile], tmp_path: Path
) -> None:
    wanted = wanted_runs(plan(), "set")[1]
    run = planned(wanted, tmp_path / "run")
    assert run.unscored == [("evaluate", "sentencepiece"), ("translate", "sentencepiece")] and not run.done
    weights = run.folder / "checkpoints" / "step_00000010" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (run.folder / "result.json").write_text('{"symbols": {"raw": 0, "sentencepiece": 0}}')
    assert run.trained and not replace(run, folder=tmp_path / "elsewhere").trained
    (run.folder / "views.json").write_text('{"sentencepiece": 1.5}')
    assert run.unscored == [("translate", "sentencepiece")]
    (run.folder / "translate.json").write_text('{"sentencepiece": {"wanted": 8}}')
    assert run.done and not replace(run, segments=9).done
    weights.unlink()
    assert replace(run, segments=9).done  # it cannot be scored again: its results were brought here without weights
    (run.folder / "views.json").unlink()
    assert not run.trained  # nor at all: it has to be trained again


@pytest.mark.parametrize(("handler", "noted"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, 0)])
def test_a_terminal_that_is_closed_stops_the_runs_but_not_under_nohup(handler: signal.Handlers, noted: int) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with (stop := Stop()).listening():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal == noted and stop.due == bool(noted) and signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_on_other_symbols_than_were_planned_is_refused_each_time(
    plan: Callable[..., PlanFile], tmp_path: Path
) -> None:
    run = finished(wanted_runs(plan(), "set")[1], tmp_path / "run", 2.0)
    assert run.done and drive([run], Stop(), 0.0, print) == []
    result = json.loads((run.folder / "result.json").read_text())
    (run.folder / "result.json").write_text(json.dumps(result | {"symbols": {"raw": 1000, "sentencepiece": 999}}))
    for _ in range(2):
        (failure,) = drive([run], Stop(), 0.0, print)
        assert re.search(r"trained on \[1000, 999\] symbols by view, the planner said \[1000, 1000\]", str(failure))
    assert not collect(plan(), [run])["runs"]


class StopOnce(Stop):
    """Due as soon as a run has saved a checkpoint but not its result."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    @property
    def due(self) -> bool:
        return super().due or any(self.out.glob("runs/*/checkpoints/step_*"))


def test_a_run_that_fails_ends_no_other_and_is_named(
    plan: Callable[..., PlanFile], tiny_folder: Path, tmp_path: Path
) -> None:
    wanted = wanted_runs(plan(), str(tiny_folder))
    runs = solve_all(wanted, {"sentencepiece": 512}, tmp_path / "out", Stop())
    failing = replace(runs[0], config=replace(runs[0].config, shards=str(tiny_folder / "gone")))
    (failure,) = drive([failing, runs[1]], Stop(), 0.0, print)
    assert str(failure).startswith(f"{failing.wanted}: ended with exit status")
    assert runs[1].done and not runs[0].trained


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_and_ends_with_the_same_file(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(PLAN.replace("flops = [5e8]", "flops = [4e9]"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ["compare", str(path), "--shards", str(tiny_folder), "--no-png", "--out"]
    assert main([*arguments, str(whole)]) == 0

    wanted = wanted_runs(read_plan(path), str(tiny_folder))
    runs = solve_all(wanted, {"sentencepiece": 512}, parts, Stop())
    assert drive(runs, StopOnce(parts), 0.0, print) == [] and not any(run.done for run in runs)
    stopped = runs[0].folder
    assert list(stopped.glob("checkpoints/step_*")) and not (stopped / "result.json").exists()
    assert main([*arguments, str(parts), "--limit-seconds", "1"]) == 3
    assert main([*arguments, str(parts)]) == 0
    assert (parts / "compare.json").read_bytes() == (whole / "compare.json").read_bytes()
    assert "continuing after step" in (parts / "logs" / f"{stopped.name}.log").read_text()

    body = json.loads((whole / "compare.json").read_bytes())
    assert body["complete"] and [row["arm"] for row in body["runs"]] == ["bytes", "proxy"]
    for row in body["runs"]:
        assert 1 < row["raw_bpb"] < 9 and abs(row["flops"] - 4e9) <= row["flops"] / row["steps"]
    together = tmp_path / "together"  # both runs at once
    assert main([*arguments, str(together), "--jobs", "2"]) == 0
    assert (together / "compare.json").read_bytes() == (whole / "compare.json").read_bytes()
    times = {folder: (folder / "result.json").stat().st_mtime_ns for folder in (whole / "runs").iterdir()}
    assert main([*arguments, str(whole)]) == 0
    assert times == {folder: (folder / "result.json").stat().st_mtime_ns for folder in (whole / "runs").iterdir()}
    text = (whole / "compare.html").read_text()
    assert not re.findall(r"https?://|<script|<link|@import|url\((?!#)", text) and "Gap to bytes" in text
    assert "Matched by training FLOPs" in (whole / "compare.md").read_text()
