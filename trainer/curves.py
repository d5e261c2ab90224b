"""What a report draws: a run's metrics as panels of lines. Needs neither torch nor a drawing library.

A line has at most POINTS points; each is the exact mean over the steps that it stands for: nats over symbols, bits over
bytes. FLOPs are counted by formula, see `counts`.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.counts import training_flops

POINTS = 200
AXES = {"step": "steps", "symbols": "symbols trained on", "bytes": "bytes of text trained on", "flops": "FLOPs"}


@dataclass(frozen=True)
class Run:
    """A run's config, its lines of metrics in order, its final figures and its tables' rows, where there are any."""

    name: str
    config: dict[str, Any]
    entries: list[dict[str, Any]]
    result: dict[str, Any]
    tables: list[int]

    @property
    def views(self) -> list[str]:
        return [key.removeprefix("symbols/") for key in self.entries[0] if key.startswith("symbols/")]


@dataclass(frozen=True)
class Line:
    """`colour` and `dashed` tell lines apart; `dots` marks what was measured on held-out documents.

    Of dots, where given: `spans`, the lowest and highest of what each is the mean of; `notes`, what to say of it.
    """

    name: str
    xs: list[float]
    ys: list[float]
    colour: int
    dashed: bool = False
    dots: bool = False
    spans: list[tuple[float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One picture. `ticks`: places on the x axis with their names, else round numbers; `rule`: a level that is marked.

    `around`: what of x to show on either side of the lines; 0: from x = 0 to their end.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    around: float = 0.0
    rule: float | None = None

    def ranges(self) -> tuple[float, float, float, float]:
        """(x, x, y, y) around what is drawn, less the first steps' peak; values that are all alike get some room."""
        xs = [x for line in self.lines for x in line.xs] + [place for place, _ in self.ticks]
        ys = sorted(y for line in self.lines for y in line.ys)
        shown = [y for line in self.lines if line.dots for y in (*line.ys, *(y for span in line.spans for y in span))]
        shown += [] if self.rule is None else [self.rule]
        low, high = min(ys[0], *shown, ys[0]), max(ys[min(len(ys) - 1, int(0.97 * len(ys)))], *shown, ys[0])
        margin = max(0.06 * (high - low), 0.005 * abs(high), 1e-9)
        return min(xs) - self.around if self.around else 0.0, max(xs) + self.around, low - margin, high + margin


def read_run(folder: Path) -> Run:
    """Raises ByteproxyError where there are no metrics, or they are damaged."""
    path = folder / "metrics.jsonl"
    try:
        config = json.loads((folder / "config.json").read_bytes())
        lines = path.read_bytes().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]  # a run may be writing its last
    except FileNotFoundError as error:
        raise ByteproxyError(f"{folder} is no run that can be drawn: {error.filename} is missing") from None
    except ValueError as error:
        raise ByteproxyError(f"{folder}: config.json or metrics.jsonl is damaged ({error})") from None
    if not entries:
        raise ByteproxyError(f"{path} holds no step yet; wait for the first lines")
    states = sorted(folder.glob("checkpoints/step_*/state.json"))
    tables = json.loads(states[-1].read_bytes()).get("tables", []) if states else []
    result = folder / "result.json"
    return Run(folder.name, config, entries, json.loads(result.read_bytes()) if result.exists() else {}, tables)


def progress(run: Run) -> dict[str, list[float]]:
    """For each axis, where a run stood after each step. Without a checkpoint there is no axis of FLOPs."""
    places: dict[str, list[float]] = {axis: [] for axis in AXES}
    symbols = text = flops = 0
    for entry in run.entries:
        counts = [entry[f"symbols/{view}"] for view in run.views]
        symbols += sum(counts)
        text += sum(entry[f"bytes/{view}"] for view in run.views)
        for axis, value in (("step", entry["step"]), ("symbols", symbols), ("bytes", text)):
            places[axis].append(value)
        if len(run.tables) == len(counts):
            flops += training_flops(run.config, run.tables, counts)
            places["flops"].append(flops)
    return {axis: values for axis, values in places.items() if values}


def means(run: Run, view: str, unit: str) -> tuple[list[int], list[float]]:
    """Means over groups of steps: indices of each group's last step, and nats a symbol or bits a byte of a view."""
    size, sums = math.ceil(len(run.entries) / POINTS), [0.0, 0.0]
    at, values = [], []
    figure, weight = (f"loss/{view}", f"symbols/{view}") if unit == "nats" else (f"bpb/{view}", f"bytes/{view}")
    for index, entry in enumerate(run.entries):
        if figure in entry:
            sums = [sums[0] + entry[figure] * entry[weight], sums[1] + entry[weight]]
        if (index + 1) % size == 0 or index + 1 == len(run.entries):
            if sums[1]:
                at.append(index)
                values.append(sums[0] / sums[1])
            sums = [0.0, 0.0]
    return at, values


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Loss by view against steps; raw bits per byte, in training and held out, against each axis."""
    found = [Panel("Loss by view", AXES["step"], "nats a symbol")]
    places = [progress(run) for run in runs]
    for number, (run, place) in enumerate(zip(runs, places, strict=True)):
        for kind, view in enumerate(run.views):
            at, values = means(run, view, "nats")
            if values:
                name = f"{run.name}, {view}" if len(runs) > 1 else view
                colour = number if len(runs) > 1 else kind
                found[0].lines.append(Line(name, [place["step"][i] for i in at], values, colour, kind > 0))
    for axis, label in AXES.items():
        panel = Panel(f"Raw bits per byte by {label.removesuffix(' trained on')}", label, "bits per byte")
        for number, (run, place) in enumerate(zip(runs, places, strict=True)):
            if axis in place:
                panel.lines.extend(_raw_lines(run, place[axis], number, f"{run.name}, " if len(runs) > 1 else ""))
        if panel.lines:
            found.append(panel)
    return [panel for panel in found if panel.lines]


def _raw_lines(run: Run, place: Sequence[float], number: int, prefix: str) -> Iterable[Line]:
    at, values = means(run, "raw", "bits")
    if values:
        yield Line(f"{prefix}training", [place[i] for i in at], values, number)
    at = [i for i, entry in enumerate(run.entries) if "val_bpb" in entry]
    if at:
        yield Line(
            f"{prefix}held out", [place[i] for i in at], [run.entries[i]["val_bpb"] for i in at], number, dots=True
        )
    if "raw_bpb" in run.result:  # of all of val, where looks in mid-run take a part: not one line with these
        yield Line(f"{prefix}held out, all", [place[-1]], [run.result["raw_bpb"]], number, dots=True)


def summary(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One row a run: what it was and where it stands."""
    rows = []
    for run in runs:
        place = progress(run)
        row = {"run": run.name, "mode": str(run.config.get("mode", ""))}
        row["steps"] = f"{run.entries[-1]['step']:,} of {run.config.get('steps', 0):,}"
        row |= {"symbols": f"{place['symbols'][-1]:,.0f}", "bytes of text": f"{place['bytes'][-1]:,.0f}"}
        row["FLOPs"] = f"{place['flops'][-1]:.3g}" if "flops" in place else "no checkpoint yet"
        held = [entry["val_bpb"] for entry in run.entries if "val_bpb" in entry]
        row["held out, last look"] = f"{held[-1]:.3f}" if held else ""
        row["held out, all"] = f"{run.result['raw_bpb']:.3f}" if "raw_bpb" in run.result else ""
        for name, value in run.result.get("baselines", {}).items():
            row[name] = f"{value:.3f}"
        rows.append(row)
    return rows
