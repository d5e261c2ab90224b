"""Kills a command and all its processes, for real, at a moment given by how far it has come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[2]
POLL = 0.005
LIMIT = 120.0  # seconds until a run that does not come so far is an error


class Moment(NamedTuple):
    """When to kill: `delay` seconds after the run has come to at least `step`, and `further` than former runs."""

    step: int
    delay: float
    further: int = 0


class Scratch:
    """How far a run has come, by what lies in its scratch."""

    def __init__(self, out: Path) -> None:
        self.out, self.root = out, out / ".build"

    def count(self, folder: str, pattern: str = "*.json") -> int:
        return sum(1 for path in (self.root / folder).glob(pattern) if not path.name.startswith(".tmp-"))

    def begun(self) -> int:
        """Changes each time that a run begins."""
        try:
            return (self.root / "state.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def step(self) -> int:
        """Grows from the beginning to the end of a run: 0 survey, 1 fit, 2 to 999 blocks, 1000 and more shards."""
        shards, blocks = self.count("shards"), self.count("blocks")
        if shards:
            return 1000 + shards
        if blocks or (self.root / "survey" / "views.json").exists():
            return 2 + blocks
        return int((self.root / "survey" / "done.json").exists())

    def stage(self) -> str:
        step = self.step()
        return "join" if step >= 1000 else "encode" if step >= 2 else ("survey", "fit")[step]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def run(words: Sequence[str]) -> str:
    """Run to the end; what it printed."""
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def kill_at(words: Sequence[str], scratch: Scratch, moment: Moment) -> tuple[str, int]:
    """Run, and kill the whole process group with SIGKILL at a moment; (stage, step) that it was in."""
    before, step = scratch.begun(), max(moment.step, scratch.step() + moment.further)
    deadline = time.monotonic() + LIMIT
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=REPO, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:
        while scratch.begun() == before or scratch.step() < step:
            assert process.poll() is None, f"the run ended (exit code {process.returncode}) before it could be killed"
            assert time.monotonic() < deadline, f"step {step} was not reached; {scratch.step()} is the last"
            time.sleep(POLL)
        time.sleep(moment.delay)
        assert process.poll() is None, f"the run ended (exit code {process.returncode}) before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return scratch.stage(), scratch.step()
