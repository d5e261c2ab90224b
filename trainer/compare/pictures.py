"""The comparison's panels: bits per byte against FLOPs and against bytes of text, and the gap against size.

Where runs were brought to the same mark they would lie on one spot, so the arms stand side by side there. A body of one
mark has no curve, but a column of arms; of several, a line joins an arm's dots, each of which is a run of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.curves import Line, Panel
from trainer.page import short

AXES = {"flops": "training FLOPs", "bytes": "bytes of text trained on"}
BITS = "bits per held-out raw byte"
SPREAD = 0.6  # of the way from one mark to the next, that arms side by side take
SPREAD_OF_CURVES = 0.1  # the same where lines join marks: no more than tells dots apart

Group = Mapping[str, Any]


def panels(body: Mapping[str, Any]) -> list[Panel]:
    """From the body of compare.json. Each dot is the mean over its seeds, its bar the range of them."""
    found = []
    for size in dict.fromkeys(group["size"] for group in body["groups"]):
        for unit in AXES:
            groups = [group for group in body["groups"] if group["size"] == size and group["unit"] == unit]
            if groups:
                found.append(_at_marks(body, f"{size}: bits per byte at equal {AXES[unit]}", unit, groups))
                if unit == "flops":
                    found.append(_by_bytes_seen(body, f"{size}: the same runs by bytes of text seen", groups))
    found.append(_gaps(body))
    return [panel for panel in found if panel.lines]


def _at_marks(body: Mapping[str, Any], title: str, unit: str, groups: Sequence[Group]) -> Panel:
    """The arms side by side at each mark; marks lie evenly, and are named."""
    marks = sorted({group["mark"] for group in groups})
    places = {mark: float(number) for number, mark in enumerate(marks)}
    label = f"{AXES[unit]}: arms side by side at each mark"
    panel = Panel(title, label, BITS, ticks=[(places[mark], _mark(mark, unit)) for mark in marks], around=0.5)
    arms = _arms(body, groups)
    for number, arm in enumerate(arms):
        mine = sorted((group for group in groups if group["arm"] == arm), key=lambda group: group["mark"])
        spread = SPREAD if len(marks) == 1 else SPREAD_OF_CURVES
        xs = [places[group["mark"]] + _aside(number, len(arms), spread) for group in mine]
        panel.lines.append(_line(body, mine, xs, "bpb"))
    return panel


def _by_bytes_seen(body: Mapping[str, Any], title: str, groups: Sequence[Group]) -> Panel:
    """What the FLOPs bought: where each arm stands in text, of both views."""
    seen = [_seen(group) for group in groups]
    panel = Panel(title, AXES["bytes"], BITS, around=max(0.1 * (max(seen) - min(seen)), 0.02 * max(seen)))
    for arm in _arms(body, groups):
        mine = sorted((group for group in groups if group["arm"] == arm), key=_seen)
        panel.lines.append(_line(body, mine, [_seen(group) for group in mine], "bpb"))
    return panel


def _gaps(body: Mapping[str, Any]) -> Panel:
    """The gap of each arm at its largest mark of a size, sizes from small to large."""
    against = body["against"]
    groups = [group for group in body["groups"] if "gap_percent" in group and group["unit"] == "flops"]
    largest: dict[tuple[str, str], float] = {}
    for group in groups:
        key = group["size"], group["arm"]
        largest[key] = max(group["mark"], largest.get(key, 0.0))
    groups = [group for group in groups if group["mark"] == largest[group["size"], group["arm"]]]
    sizes = sorted({(group["body_parameters"], group["size"]) for group in groups})
    ticks = [(float(at), f"{size}: {short(float(f'{count:.2g}'))}") for at, (count, size) in enumerate(sizes)]
    panel = Panel(f"Gap to {against} at equal FLOPs, each at its largest mark", "size: parameters of the body",
                  f"% of the BPB of {against}; below 0 is better", ticks=ticks, around=0.5, rule=0.0)  # fmt: skip
    arms, places = [arm for arm in _arms(body, groups) if arm != against], [size for _, size in sizes]
    for number, arm in enumerate(arms):
        mine = sorted((group for group in groups if group["arm"] == arm), key=lambda group: places.index(group["size"]))
        xs = [places.index(group["size"]) + _aside(number, len(arms), SPREAD) for group in mine]
        panel.lines.append(_line(body, mine, xs, "gap"))
    return panel


def _mark(mark: float, unit: str) -> str:
    """FLOPs as a power of ten, for they have one from the smallest plan to the largest; bytes in words."""
    mantissa, exponent = f"{mark:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if unit == "flops" else short(mark)


def _arms(body: Mapping[str, Any], groups: Sequence[Group]) -> list[str]:
    """Those among the groups, in the plan's order."""
    return [arm for arm in body["arms"] if any(group["arm"] == arm for group in groups)]


def _aside(number: int, count: int, spread: float) -> float:
    return spread * ((number + 0.5) / count - 0.5)


def _seen(group: Group) -> float:
    return float(sum(group["bytes_of_text"].values()))


def _line(body: Mapping[str, Any], mine: Sequence[Group], xs: list[float], figure: str) -> Line:
    """An arm's dots, of its `bpb` or its `gap`. Its colour is its own in every panel; dashed is who is scored by
    another view than raw bytes."""
    value, seeds = ("bpb", "seeds") if figure == "bpb" else ("gap_percent", "gap_seeds")
    ys = [group[value] for group in mine]
    arm, reads = mine[0]["arm"], mine[0]["reads"]
    name = arm if reads == "raw" else f"{arm} (of {reads})"
    spans = [(group[f"{figure}_range"][0], group[f"{figure}_range"][1]) for group in mine]
    notes = [
        f"{name}, {group['size']}: {y:.4g}, {low:.4g} to {high:.4g} over {len(group[seeds])} seeds"
        if len(group[seeds]) > 1
        else f"{name}, {group['size']}: {y:.4g}, one seed"
        for group, y, (low, high) in zip(mine, ys, spans, strict=True)
    ]
    return Line(name, xs, ys, body["arms"].index(arm), reads != "raw", dots=True, spans=spans, notes=notes)
