"""Stops a run at its first unsound step: loss or gradient not finite, or a spike; and writes down what that step read.

A spike is a loss far above the mean of the steps before, by view: the step of a pair and that of raw text alone differ,
but within a view losses move slowly. The means follow from the lines of metrics.jsonl, so a resumed run stops where the
run left alone does. The batch is planned again from the last state known to be sound, so a sound step costs nothing.
"""

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from trainer.plan import Planner, PlanState

WINDOW = 100  # steps with enough targets of a view that its mean is taken over
ENOUGH_STEPS = 20  # of them before a step is judged
# Of a view in a step that is judged, or judged by: with fewer, a few odd words decide. A phase of compressed streams
# alone has raw targets too, the ends of its documents, which cost nothing: no measure for the raw text behind it.
ENOUGH_TARGETS = 256


class Unsound(ByteproxyError):
    """A step that a run must not go on from: its line for metrics.jsonl, and what is wrong with it."""

    def __init__(self, entry: Mapping[str, Any], why: str, way_out: str) -> None:
        super().__init__(f"step {entry['step']}: {why}. Checkpoints from before it are kept; {way_out}")
        self.entry, self.why = entry, why


class Guard:
    """Judges steps in order. `spike`: nats a target over its view's mean from which on a loss is one; 0: none is."""

    def __init__(self, views: Sequence[str], spike: float) -> None:
        self.spike = spike
        self._past: dict[str, deque[tuple[float, int]]] = {view: deque(maxlen=WINDOW) for view in views}

    def learn(self, entry: Mapping[str, Any]) -> None:
        """A sound step: its losses go into the means."""
        for view, past in self._past.items():
            if (count := entry.get(f"symbols/{view}", 0)) >= ENOUGH_TARGETS:
                past.append((entry[f"loss/{view}"] * count, count))

    def check(self, entry: Mapping[str, Any]) -> None:
        """Raise Unsound if the step is; else learn from it."""
        if not math.isfinite(entry["loss"] + entry["grad_norm"]):
            losses = ", ".join(f"{key} {value:.4g}" for key, value in entry.items() if key.startswith("loss"))
            figures = f"{losses}, grad_norm {entry['grad_norm']:.4g}, lr {entry['lr']:.3g}"
            why, way_out = f"loss or gradient is not finite ({figures})", "start a new run with a lower --lr or --clip"
            raise Unsound(entry, why, way_out)
        for view, past in self._past.items():
            if not self.spike or len(past) < ENOUGH_STEPS or entry[f"symbols/{view}"] < ENOUGH_TARGETS:
                continue
            # Summed anew each time: a running sum would depend, in its last bits, on where the run was resumed.
            mean = math.fsum(nats for nats, _ in past) / sum(count for _, count in past)
            if (loss := entry[f"loss/{view}"]) > mean + self.spike:
                why = (
                    f"the loss of {view}, {loss:.3f}, is {loss - mean:.3f} over the mean of its last {len(past)} steps"
                )
                way_out = "go on with a larger --spike (0: any), or start a new run with a lower --lr or --clip"
                raise Unsound(entry, f"{why}, more than --spike {self.spike:g} (grad_norm {entry['grad_norm']:.4g}, "
                              f"lr {entry['lr']:.3g})", way_out)  # fmt: skip
        self.learn(entry)


def with_report(unsound: Unsound, run: Path, views: Sequence[str], planner: Planner, state: PlanState) -> Exception:
    """Write RUN/guard-<step>.json; returns the error that names it. `state`: one from before the step."""
    step = unsound.entry["step"]
    while state.step < step:
        plan, state = planner.next(state)
    pieces = [
        {"set": piece.set, "id": planner.sources[piece.set].split.id(piece.ordinal).hex(), "view": views[piece.view],
         "row": piece.row, "begin": piece.begin, "end": piece.end, "bytes": piece.text}
        for piece in plan.pieces
    ]  # fmt: skip
    kept = ("step", "lr", "grad_norm", "loss", "symbols/", "bytes/")
    figures = {key: _plain(value) for key, value in unsound.entry.items() if key.startswith(kept)}
    path = run / f"guard-{step}.json"
    body = figures | {"why": unsound.why, "pieces": pieces}
    write_atomically(path, json.dumps(body, indent=1, allow_nan=False).encode() + b"\n")
    return ByteproxyError(f"{unsound}. What it was trained on: {path}")


def _plain(value: float) -> float | str:
    """JSON has no number that is not finite."""
    return value if math.isfinite(value) else str(value)
