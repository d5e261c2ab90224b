"""The verb `compare`: a plan's runs, in slices, and what they found."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shards.errors import ByteproxyError
from shards.manifest import View, write_atomically
from trainer.compare.arms import Wanted, check_codecs, check_views, folder_name, tables_of, wanted_runs
from trainer.compare.driver import Run, Stop, drive
from trainer.compare.plan_file import PlanFile, read_plan
from trainer.compare.solve import Known
from trainer.config import Config, flag
from trainer.flags import parse_options
from trainer.mixture import open_mixture
from trainer.picture import png, require_matplotlib

NOT_DONE = 3

USAGE = """usage: python -m trainer compare PLAN.toml [--shards SET] [--out DIR] [--jobs N] [--limit-seconds N]
                                 [--dry-run] [--no-png]

Train every arm (recipe) of a plan at every size, seed and mark, with the same transformer body, and hold them against
each other: bits per held-out raw byte at equal training FLOPs, and at equal bytes of text. FLOPs are counted by one
formula: for each real position the body, attention over what it sees, and the head that was computed; the steps that
bring each arm to a mark are solved beforehand by the planner. Each mark is a run of its own, decayed to its end.

  --shards SET       the shard set, over the plan's; by default the newest under data/. Its val split is held out
  --out DIR          by default runs/compare-PLAN; holds compare.json, compare.md, compare.html, compare.png, runs/
  --jobs N           runs at once; by default on the CPU as many as there are cores for their `threads`, on a GPU one.
                     Changes no figure
  --limit-seconds N  stop after N seconds: runs in progress save a checkpoint, and the exit status is 3. By a signal it
                     is 128 and its number, 2 where a run failed, which ends no other
  --dry-run          show parameters, steps, FLOPs and hours of all runs, and train nothing
  --no-png           no picture (it needs matplotlib)

The same command again goes on; a run that is done is not run again, also on another machine that was given DIR's .json
files and the same set. On the CPU the same plan gives the same compare.json. A plan is a TOML file:

  seeds = [0, 1, 2]
  translate = 200          held-out segments that each trained run translates from its views; by default none
  [settings]               of every run: see `python -m trainer train --help`; start from each field's own default, but
                           for schedule = "wsd", decay = 0.4, lr_floor = 0.02, eval_every = 0
  context = 512
  [sizes.small]            a body, and its marks: FLOPs of training (`flops`), or bytes of text (`bytes`)
  width = 128
  flops = [1e14, 2e14]     `seeds` here: the only ones of the arms' seeds
  [arms.bytes]             a recipe: settings over those above; `seeds`, `sizes`, `flops`, `bytes` restrict it
  mode = "bytes"
  [arms.proxy]
  views = "sentencepiece"
  anneal = 0.5
  [views.sentencepiece]    what is known of a view without a set, for --dry-run; and with one, what encoding costs:
  alphabet = 2048          `encode`, FLOPs a byte of text or the preset of the codec's LM ("lm-3m")
  bytes_per_symbol = 2.4
  [machine]                for hours: FLOPs a second, and the part of them that training gets
  name = "two cores"
  flops_per_second = 1e11
  mfu = 1.0

At the top also: against = "bytes" (the arm that others are held against), shards = "SET".

  python -m trainer compare plans/smoke.toml --shards data/stdlib
  while python -m trainer compare plans/cpu.toml --limit-seconds 3300; [ $? = 3 ]; do :; done
"""


def main(arguments: list[str], newest_set: Callable[[], Path]) -> int:
    """Returns 0 when all is done, 3 when runs are left for want of time. `newest_set`: what to compare on by default.

    Raises ByteproxyError where runs failed, once what can be done is done and results are written.
    """
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    if not arguments or arguments[0].startswith("--"):
        raise ByteproxyError("the plan's file expected first; for instance: compare plans/smoke.toml")
    defaults = {"shards": "", "out": "", "jobs": 0, "limit_seconds": 0, "dry_run": False, "png": True}
    options = parse_options(arguments[1:], defaults)
    if negative := [name for name in ("jobs", "limit_seconds") if options[name] < 0]:
        raise ByteproxyError(f"{flag(negative[0])}: {options[negative[0]]} found, 0 or more expected")
    plan = read_plan(Path(arguments[0]))
    if options["dry_run"]:
        from trainer.compare.dry_run import dry_run

        shards = options["shards"] or plan.shards
        print("\n".join(dry_run(plan, wanted_runs(plan, shards), shards)))
        return 0
    shards = options["shards"] or plan.shards or str(newest_set())
    out = Path(options["out"] or Path("runs") / f"compare-{plan.name}")
    wanted = wanted_runs(plan, shards)
    views = check_views(plan, wanted, shards)
    check_codecs(wanted, shards)
    for name, view in views.items():
        if (stated := plan.views.get(name)) and stated.alphabet not in (0, view.alphabet):
            _say(f"note: view {name} of {shards} has {view.alphabet:,} symbols, the plan states {stated.alphabet:,}")
    if options["png"]:
        require_matplotlib()  # rather than after hours of training
    _say(f"{plan.name}: {len(wanted)} runs on {shards}, into {out}")
    stop, failures = Stop(options["limit_seconds"]), list[ByteproxyError]()
    with stop.listening():
        alphabets = {name: view.alphabet for name, view in views.items()}
        runs = [with_translation(run, plan, views) for run in solve_all(wanted, alphabets, out, stop)]
        if len(runs) == len(wanted):
            machine, jobs = plan.machine, options["jobs"] or jobs_here([run.config for run in runs])
            failures = drive(runs, stop, machine.flops_per_second * machine.mfu, _say, jobs)
            write(plan, runs, out, options["png"])
    if failures and not stop.due:
        raise ByteproxyError("\n".join(map(str, failures)))
    if len(runs) == len(wanted) and all(run.done for run in runs):
        return 0
    _say("stopped; the same command goes on")
    return 128 + stop.signal if stop.signal else NOT_DONE


def jobs_here(configs: Sequence[Config]) -> int:
    """How many of these runs this machine does best at once."""
    from trainer.runtime import cores, resolve

    resolved = [resolve(config, {}) for config in configs]
    if any(config.device.startswith("cuda") for config in resolved):
        return 1
    return max(1, cores() // max(config.threads for config in resolved))


def solve_all(wanted: Sequence[Wanted], alphabets: Mapping[str, int], out: Path, stop: Stop) -> list[Run]:
    """The runs with their steps and folders, by the sizes of views' alphabets; fewer where it was time to stop."""
    out.mkdir(parents=True, exist_ok=True)
    known, runs = Known(out / "steps.json"), []
    for run in wanted:
        if stop.due:
            break
        mixture, tables = open_mixture(run.config), tables_of(run, alphabets)
        solved = known.solve(run.config, mixture, tables, run.unit, run.mark)
        config = dataclasses.replace(run.config, steps=solved.steps)
        folder = out / "runs" / folder_name(run, config, mixture.digests)
        config = dataclasses.replace(config, run=str(folder))
        runs.append(Run(run, config, solved, folder, tables, mixture.digests))
    return runs


def with_translation(run: Run, plan: PlanFile, views: Mapping[str, View]) -> Run:
    """What the plan wants translated by a run: from views with anchors, if it reads raw bytes at all."""
    anchored = tuple(name for name in run.wanted.views if views[name].anchor_gap is not None)
    wanted = anchored if plan.translate and run.config.mode != "tokens" else ()
    return dataclasses.replace(run, segments=plan.translate, translated=wanted)


def write(plan: PlanFile, runs: Sequence[Run], out: Path, picture: bool) -> None:
    """Every file of results, and the table to the console."""
    from trainer.compare.pictures import panels
    from trainer.compare.results import NOTE, TITLES, collect, foreword, markdown, seconds, table_rows
    from trainer.page import html

    body, times = collect(plan, runs), seconds(runs)
    if not body["runs"]:
        return
    write_atomically(out / "compare.json", json.dumps(body, indent=1).encode() + b"\n")
    write_atomically(out / "seconds.json", json.dumps(times, indent=1).encode() + b"\n")
    text, title, drawn = markdown(body, times), f"Comparison: {plan.name}", panels(body)
    write_atomically(out / "compare.md", text.encode())
    rows = [{"matched by": unit, **row} for unit in TITLES for row in table_rows(body, unit, times)]
    write_atomically(out / "compare.html", html(title, rows, drawn, " ".join([*foreword(body), NOTE])).encode())
    if picture:
        write_atomically(out / "compare.png", png(title, drawn))
    _say(f"\n{text}\n{out / 'compare.html'}")


def _say(text: str) -> None:
    print(text, flush=True)
