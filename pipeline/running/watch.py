"""Shows how far a build is: on a terminal one line that is written over, elsewhere a line now and then.

A watch goes through the steps of one graph in turn. A step begins when it is first counted in; when it ends, a line
says what it did. Nothing is written after the watch's end, and nothing but a cleared line when the build is broken off.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TextIO

from tqdm import tqdm

from pipeline.reporting.figures import count, rough, seconds, size
from pipeline.running.progress import Counts, Tally

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0  # between lines where the output is no terminal; LATER_SECONDS after the first minute
LATER_SECONDS = 30.0
SURE_SECONDS = 1.0  # of counting, before there is an estimate


class Step(NamedTuple):
    """A step of a graph, by the name that its counters have."""

    stage: str
    title: str
    total: int | None = None  # bytes to go through; None: not known
    documents_of: str = ""  # or as many documents as were counted in this stage
    more_in: str = ""  # and as many bytes more as were counted in this stage


class Estimate:
    """The rate of a step since the middle of the time that it has been counting.

    Neither the start of workers nor what was slow or fast long ago counts.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []  # (time, done), from the first count on

    def add(self, now: float, done: float) -> None:
        """So much was done at this time."""
        if done > 0:
            self._seen.append((now, done))
            if len(self._seen) > 400:
                self._seen = self._seen[:1] + self._seen[2::2]

    def rate(self) -> float | None:
        """What is done a second, or None while that is a mere guess."""
        if len(self._seen) < 2 or self._seen[-1][0] - self._seen[0][0] < SURE_SECONDS:
            return None
        (first, _), (now, done) = self._seen[0], self._seen[-1]
        middle = (first + now) / 2
        since, before = next(pair for pair in reversed(self._seen) if pair[0] <= middle)
        return (done - before) / (now - since)


class Watch:
    """Watches the steps of a graph, `first` being the number of the first of `stages` of a whole build."""

    def __init__(
        self,
        folder: Path,
        steps: Sequence[Step],
        first: int = 1,
        stages: int = 1,
        stream: TextIO | None = None,
    ) -> None:
        self._tally, self._steps, self._first, self._stages = Tally(folder), list(steps), first, stages
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress-{steps[0].stage}", daemon=True)
        self._broken = False
        self.seconds = dict.fromkeys((step.stage for step in steps), 0.0)

    def __enter__(self) -> Self:
        self._begin = self._now = time.monotonic()
        self._at = 0
        self._estimate = Estimate()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broken = error is not None
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        show = _Bar(self._stream) if terminal else _Lines(self._stream)
        while not self._stop.wait(POLL_SECONDS):
            self._look(show)
        if not self._broken:
            self._look(show)
            for number in range(self._at, len(self._steps)):
                self._end(show, number, self._tally.read())
        show.close()

    def _look(self, show: "_Bar | _Lines") -> None:
        """Go on to the steps that have begun, and show the last of them."""
        sums = self._tally.read()
        begun = [n for n, step in enumerate(self._steps) if any(sums.get(step.stage, Counts())[:2])]
        for number in range(self._at, begun[-1] if begun else self._at):
            self._end(show, number, sums)
        self._now = time.monotonic()
        step = self._steps[self._at]
        counts = sums.get(step.stage, Counts())
        total, done = self._share(step, sums)
        self._estimate.add(self._now, done)
        rate = self._estimate.rate()
        share = min(1.0, done / total) if total else None
        words = [f"{rough((total - done) / rate)} left"] if total and rate and done < total else []
        words += described(counts, None if step.documents_of else rate)
        show.update(self._title(self._at), share, ", ".join(words) or rough(self._now - self._begin))

    def _share(self, step: Step, sums: dict[str, Counts]) -> tuple[int | None, int]:
        """(what there is to do, what is done), in bytes or in documents; (None, 0) where that is not known."""
        counts = sums.get(step.stage, Counts())
        if step.documents_of:
            return sums.get(step.documents_of, Counts()).documents or None, counts.documents
        total = (step.total or 0) + sums.get(step.more_in, Counts()).bytes
        return (total, counts.bytes) if total else (None, 0)

    def _end(self, show: "_Bar | _Lines", number: int, sums: dict[str, Counts]) -> None:
        now = time.monotonic()
        stage = self._steps[number].stage
        spent = self.seconds[stage] = now - self._begin
        counts = sums.get(stage, Counts())
        words = described(counts, counts.bytes / spent if spent >= POLL_SECONDS else None)
        show.end(f"{self._title(number)}: {', '.join([*words, seconds(spent)])}")
        self._begin, self._at, self._estimate = now, number + 1, Estimate()

    def _title(self, number: int) -> str:
        title = self._steps[number].title
        return f"{self._first + number} of {self._stages} {title}" if self._stages > 1 else title


class _Bar:
    """One line of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar = tqdm(total=1.0, file=stream, leave=False, dynamic_ncols=True, bar_format=" ")

    def update(self, title: str, share: float | None, text: str) -> None:
        """Write the line anew."""
        bar = self._bar
        bar.n = share or 0.0
        if share is not None:
            bar.bar_format = f"{title} {{percentage:3.0f}}% |{{bar:16}}| {text}"
        else:  # tqdm cuts only lines with a bar to the width that there is
            bar.bar_format = f"{title}: {text}"[: (bar.ncols or 80) - 1]
        bar.refresh()

    def end(self, text: str) -> None:
        """Leave a line that stays above."""
        self._bar.clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Clear the line."""
        self._bar.close()


class _Lines:
    """Lines of a file or a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin = self._shown = time.monotonic()

    def update(self, title: str, share: float | None, text: str) -> None:
        """Write a line if it is time for one."""
        now = time.monotonic()
        if now - self._shown >= (LINE_SECONDS if now - self._begin < 60 else LATER_SECONDS):
            self._shown = now
            print(f"{title}: {f'{share:.0%}, ' if share is not None else ''}{text}", file=self._stream, flush=True)

    def end(self, text: str) -> None:
        """Write a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def described(counts: Counts, rate: float | None) -> list[str]:
    """What was done so far in words: documents, bytes, bytes a second, documents left out; nothing for what is none."""
    number = counts.documents
    words = [f"{count(number)} document{'' if number == 1 else 's'}"] if number > 0 else []
    words += [size(counts.bytes)] if counts.bytes else []
    words += [f"{size(rate)}/s"] if rate and counts.bytes else []
    return words + ([f"{count(counts.rejected)} left out"] if counts.rejected else [])
