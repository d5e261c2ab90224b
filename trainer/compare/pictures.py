"""The comparison's panels: bits per byte against FLOPs and against bytes of text, and the gap against size."""

from collections.abc import Mapping
from typing import Any

from trainer.curves import Line, Panel

AXES = {"flops": "training FLOPs", "bytes": "bytes of text trained on"}


def panels(body: Mapping[str, Any]) -> list[Panel]:
    """From the body of compare.json. Each dot is a run of its own, decayed to its end, as the mean over its seeds."""
    groups = body["groups"]
    arms = list(dict.fromkeys(group["arm"] for group in groups))
    found = []
    for size in dict.fromkeys(group["size"] for group in groups):
        for unit, label in AXES.items():
            mine = [group for group in groups if group["size"] == size and group["unit"] == unit]
            panel = Panel(f"{size}: raw bits per byte by {label}", label, "bits per raw byte")
            for arm in arms:
                points = sorted((_place(group, unit), group["bpb"]) for group in mine if group["arm"] == arm)
                if points:
                    reads = next(group["reads"] for group in mine if group["arm"] == arm)
                    name = arm if reads == "raw" else f"{arm} (of {reads})"
                    panel.lines.append(_line(name, points, arms.index(arm), reads != "raw"))
            found.append(panel)
    found.append(_gaps(body, arms))
    return [panel for panel in found if panel.lines]


def _gaps(body: Mapping[str, Any], arms: list[str]) -> Panel:
    """The gap at each size's largest mark."""
    panel = Panel(f"Gap to {body['against']} at the largest mark, by size", "parameters of the body", "percent of BPB")
    groups = [group for group in body["groups"] if group["unit"] == "flops" and "gap_percent" in group]
    largest = {size: max(g["mark"] for g in groups if g["size"] == size) for size in {g["size"] for g in groups}}
    for arm in arms:
        mine = [group for group in groups if group["arm"] == arm and group["mark"] == largest[group["size"]]]
        if mine:
            points = sorted((float(group["body_parameters"]), group["gap_percent"]) for group in mine)
            panel.lines.append(_line(arm, points, arms.index(arm), arm == body["against"]))
    return panel


def _place(group: Mapping[str, Any], unit: str) -> float:
    return float(group["flops"] if unit == "flops" else sum(group["bytes_of_text"].values()))


def _line(name: str, points: list[tuple[float, float]], colour: int, dashed: bool) -> Line:
    return Line(name, [x for x, _ in points], [y for _, y in points], colour, dashed, dots=True)
