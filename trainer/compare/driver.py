"""Trains the runs of a comparison, each in a process of its own, and goes on where it was stopped.

A run's folder is named after what its figures follow from, so a run that is done is found again and not repeated, and
one with other settings lies elsewhere. A stop ends the runs in progress by SIGTERM, upon which they save a checkpoint;
a run that fails ends no other.

What results need of a run are its small JSON files: where these were brought from another machine without checkpoints,
it counts as done, and what was not scored there of translation is left out.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from trainer.baselines import FILE as BASELINES
from trainer.compare.arms import Wanted
from trainer.compare.solve import Solved
from trainer.config import Config, flag

RESULT, VIEWS, TRANSLATE = "result.json", "views.json", "translate.json"
FIGURES = ("segments", "bytes", "exact_match", "bytes_right", "bpb_given", "bpb_alone")  # of a translation
GRACE = 600  # seconds that a run has to finish its step and save


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with its steps: what it is wanted for, its config, and its folder.

    `tables`: rows of each view's table, raw first. `digests`: what tells its data from other data. `translated`: views
    from which `segments` held-out segments are translated once it is trained.
    """

    wanted: Wanted
    config: Config
    solved: Solved
    folder: Path
    tables: Sequence[int]
    digests: Mapping[str, str]
    segments: int = 0
    translated: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it is trained as it was planned, and each of its views is scored."""
        return self.trained and not self.unscored and self.found == self.solved.work.symbols_V.tolist()

    @property
    def trained(self) -> bool:
        """Whether it has a result and, where a view is yet to be scored, the weights that this takes."""
        known = read_json(self.folder / VIEWS)
        return (self.folder / RESULT).exists() and (self.weights or all(view in known for view in self.wanted.views))

    @property
    def weights(self) -> bool:
        """Whether they are here; a run brought from another machine may have none."""
        return any(self.folder.glob("checkpoints/step_*/model*"))

    @property
    def found(self) -> list[int]:
        """Symbols by view that it was trained on, as its result says."""
        return list(read_json(self.folder / RESULT).get("symbols", {}).values())

    @property
    def unscored(self) -> list[tuple[str, str]]:
        """Verbs with the views that they have yet to score."""
        known, told = read_json(self.folder / VIEWS), read_json(self.folder / TRANSLATE)
        found = [("evaluate", view) for view in self.wanted.views if view not in known]
        if self.weights or not (self.folder / RESULT).exists():
            wanted = [view for view in self.translated if told.get(view, {}).get("wanted") != self.segments]
            found += [("translate", view) for view in wanted]
        return found


class Stop:
    """Why and when to stop: a signal, or a limit of seconds. `due` says whether it is time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.until = time.monotonic() + seconds if seconds else float("inf")
        self.signal = 0

    @property
    def due(self) -> bool:
        return bool(self.signal) or time.monotonic() >= self.until

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGINT, SIGTERM and, but under nohup, SIGHUP are noted, and acted upon by who waits for a run.

        The runs have sessions of their own: a terminal that is closed would leave them to go on without a driver.
        """

        def note(number: int, frame: Any) -> None:
            self.signal = number

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def drive(
    runs: Sequence[Run], stop: Stop, rate: float, say: Callable[[str], None], jobs: int = 1
) -> list[ByteproxyError]:
    """Do what is not done yet, `jobs` runs at once; returns why runs failed. `rate`: FLOPs a second to guess the time
    left by, 0: unknown. What is no ByteproxyError is raised, once the runs in progress have saved a checkpoint."""
    waiting = list({run.folder: run for run in runs if not run.done}.values())  # two arms may be one run
    if waiting:
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs are done, {_left(runs, rate, jobs)}")
    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        parts = []
        for number, run in enumerate(waiting, len(runs) - len(waiting) + 1):
            place = f"[{number}/{len(runs)}]"
            parts.append(pool.submit(_do, run, place, runs, stop, say, lambda: _left(runs, rate, jobs)))
        try:
            for part in as_completed(parts):
                try:
                    part.result()
                except ByteproxyError as error:
                    failures.append(error)
                    say(f"failed, the others go on: {error}")
        except BaseException:
            stop.until = min(stop.until, time.monotonic())
            raise
    return failures


def _do(
    run: Run, place: str, runs: Sequence[Run], stop: Stop, say: Callable[[str], None], left: Callable[[], str]
) -> None:
    """Train a run and score its views, as far as there is time."""
    if stop.due:
        return
    say(f"{place} {run.wanted}: {run.config.steps:,} steps, {run.solved.flops:.3g} FLOPs → {run.folder}")
    if not run.trained:
        _lend_baselines(run, runs)
        if _child(run, ["train", *flags_of(run.config)], stop) is None:
            return
    check_against_plan(run)
    for verb, view in run.unscored:
        more = ["--count", str(run.segments)] if verb == "translate" else []
        text = _child(run, [verb, "--run", str(run.folder), "--shards", run.config.shards, "--view", view, *more,
                            "--json"], stop)  # fmt: skip
        if text is None:
            return
        _keep_score(run, verb, view, json.loads(text.splitlines()[-1]))
    say(f"{place} {_figures(run)}; {left()}")


def flags_of(config: Config) -> list[str]:
    """A config as the flags of `train`."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
    return [f"{flag(name)}={str(v).lower() if isinstance(v, bool) else v}" for name, v in values.items()]


def check_against_plan(run: Run) -> None:
    """The targets that a run was trained on must be those that its steps were solved by: else nothing is matched."""
    if run.found != (expected := run.solved.work.symbols_V.tolist()):
        raise ByteproxyError(
            f"{run.folder}: trained on {run.found} symbols by view, the planner said {expected}. Was the set changed, "
            "or were documents put into quarantine? Remove the folder, and steps.json, to plan and train again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file. Raises ByteproxyError where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ByteproxyError(f"{path} is damaged ({error}): remove it, and run the same command again") from None


def _child(run: Run, arguments: list[str], stop: Stop) -> str | None:
    """Run a verb to its end; returns what it printed, or None if it was stopped. Its log lies beside the runs."""
    log = run.folder.parent.parent / "logs" / f"{run.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trainer", *arguments]
    with log.open("ab") as file:
        begun = file.tell()
        # in a session of its own: a Ctrl-C reaches this process alone, which then stops the run once
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        stopped = False
        try:
            while True:
                try:
                    code = child.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if stop.due and not stopped:
                        stopped = True
                        child.send_signal(signal.SIGTERM)
                        stop.until = min(stop.until, time.monotonic())
                        last = time.monotonic() + GRACE
                    elif stopped and time.monotonic() > last:
                        child.kill()
        except BaseException:
            child.terminate()
            child.wait()
            raise
    with log.open("rb") as file:
        file.seek(begun)
        text = file.read().decode(errors="replace")
    if code == 0:
        return text
    if stopped:
        return None
    tail = "\n  ".join(text.strip().splitlines()[-4:])
    raise ByteproxyError(f"{run.wanted}: ended with exit status {code}; {log} ends with\n  {tail}")


def _keep_score(run: Run, verb: str, view: str, body: dict[str, Any]) -> None:
    """Into the file beside the run's result."""
    if verb == "evaluate":
        path, figures = run.folder / VIEWS, body["bpb"]
    else:
        path, figures = run.folder / TRANSLATE, {"wanted": run.segments} | {name: body[name] for name in FIGURES}
    write_atomically(path, json.dumps(read_json(path) | {view: figures}).encode())


def _lend_baselines(run: Run, runs: Sequence[Run]) -> None:
    """What gzip and the like make of the held-out text is the same for all: worked out once."""
    for other in runs:
        if other.folder != run.folder and (other.folder / BASELINES).exists():
            run.folder.mkdir(parents=True, exist_ok=True)
            partial = run.folder / f".{BASELINES}.{os.getpid()}"
            shutil.copyfile(other.folder / BASELINES, partial)
            partial.rename(run.folder / BASELINES)
            return


def _figures(run: Run) -> str:
    result, views, told = (read_json(run.folder / name) for name in (RESULT, VIEWS, TRANSLATE))
    found = [f"raw BPB {result['raw_bpb']:.4f}"] if "raw_bpb" in result else []
    found += [f"as {view} {bpb:.4f}" for view, bpb in views.items()]
    found += [f"{figures['exact_match']:.1%} translated from {view}" for view, figures in told.items()]
    return f"{', '.join(found)}, {result['seconds']:,.0f} s of training"


def _left(runs: Sequence[Run], rate: float, jobs: int) -> str:
    """What is left, in FLOPs, and in time by the speed of the runs that are done."""
    waiting = [run for run in runs if not run.done]
    if not waiting:
        return "nothing is left"
    done = [(run.solved.flops, read_json(run.folder / RESULT)["seconds"]) for run in runs if run.done]
    if done and (seconds := sum(each for _, each in done)):
        rate = jobs * sum(flops for flops, _ in done) / seconds
    flops = sum(run.solved.flops for run in waiting)
    hours = f", about {flops / rate / 3600:.2f} h of training" if rate else ""
    verb = "is" if len(waiting) == 1 else "are"
    return f"{len(waiting)} {verb} left, {flops:.3g} FLOPs{hours}"
