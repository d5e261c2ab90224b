"""What the runs of a comparison found: compare.json, and its tables. No clock is in compare.json: it is the same again
when the same plan is run again; seconds lie beside it in seconds.json.

A spread is half of the range over seeds. A gap is the mean's distance from that of the arm that all are held against,
in percent of it: below 0 is better; its range is that of the gaps of each seed. The compute-equivalent gain is what the
arm held against would have to be trained with for the same BPB, as a multiple of the mark.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

from trainer.baselines import FILE as BASELINES
from trainer.compare.driver import FIGURES, RESULT, TRANSLATE, VIEWS, Run, read_json
from trainer.compare.flops import flops_of, raw_share
from trainer.compare.plan_file import UNITS, PlanFile
from trainer.counts import count_parameters

TITLES = {"flops": "Matched by training FLOPs", "bytes": "Matched by bytes of text"}


def collect(plan: PlanFile, runs: Sequence[Run]) -> dict[str, Any]:
    """The body of compare.json: each run that is done, and groups of them over seeds, by unit, size and mark."""
    rows = [_row(plan, run) for run in runs if run.done]
    baselines = next((found for run in runs if (found := read_json(run.folder / BASELINES))), {})
    return {
        "plan": plan.name, "against": plan.against, "arms": [arm.name for arm in plan.arms],
        "complete": len(rows) == len(runs), "wanted": len(runs), "baselines": baselines.get("bits_per_byte", {}),
        "groups": _groups(plan, rows), "runs": rows,
    }  # fmt: skip


def seconds(runs: Sequence[Run]) -> dict[str, float]:
    """Of training, by folder."""
    return {run.folder.name: read_json(run.folder / RESULT)["seconds"] for run in runs if run.done}


def _row(plan: PlanFile, run: Run) -> dict[str, Any]:
    result, wanted, work = read_json(run.folder / RESULT), run.wanted, run.solved.work
    symbols, text = result["symbols"], result["bytes_of_text"]
    encode = sum(plan.views[view].encode * text[view] for view in wanted.views if view in plan.views)
    views, told = read_json(run.folder / VIEWS), read_json(run.folder / TRANSLATE)
    told = {view: {name: told[view][name] for name in FIGURES} for view in run.translated if view in told}
    return {
        "run": run.folder.name, "size": wanted.size, "arm": wanted.arm, "seed": wanted.seed, "unit": wanted.unit,
        "mark": wanted.mark, "steps": run.config.steps, "flops": run.solved.flops,
        "flops_by_part": flops_of(run.config, run.tables, work), "encode_flops": round(encode),
        "raw_share": raw_share(run.config, run.tables, work),
        "parameters": count_parameters(run.config, run.tables), "raw_bpb": result.get("raw_bpb"),
        "view_bpb": {view: views[view] for view in wanted.views}, "translation": told,
        "val_bytes": result.get("val_bytes"), "symbols": symbols, "bytes_of_text": text, "data": dict(run.digests),
    }  # fmt: skip


def score_of(row: Mapping[str, Any]) -> float:
    """Bits per raw byte that a run is ranked by: of raw bytes, or where it never read any, of its best view."""
    return row["raw_bpb"] if row["raw_bpb"] is not None else min(row["view_bpb"].values())


def _groups(plan: PlanFile, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A group for each arm that has a run to a mark, by unit, size and mark."""
    found = []
    for unit, size in product(UNITS, plan.sizes):
        here = [row for row in rows if (row["unit"], row["size"]) == (unit, size.name)]
        base = [row for row in here if row["arm"] == plan.against]
        for mark, arm in product(size.marks[unit], plan.arms):
            if mine := [row for row in here if (row["mark"], row["arm"]) == (mark, arm.name)]:
                found.append(_group(mine, base))
    return found


def _curve(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[tuple[float, float]]:
    """Means over these seeds at each mark that has all of them: the luck of another seed is no part of it."""
    marks: dict[float, dict[int, float]] = {}
    for row in rows:
        marks.setdefault(row["mark"], {})[row["seed"]] = score_of(row)
    return [(mark, _mean(found[seed] for seed in seeds)) for mark, found in marks.items() if set(seeds) <= found.keys()]


def equivalent(points: Sequence[tuple[float, float]], bpb: float) -> tuple[float, str] | None:
    """The mark at which a curve of (mark, BPB) comes to a BPB, by a power law between neighbouring marks, and `=`.

    Beyond them the last power law holds up to a factor of two; further out all that is told is `<` or `>` of that. None
    of a curve of one mark, or one that does not fall.
    """
    spans = [(low, high) for low, high in pairwise(sorted(points)) if high[1] < low[1]]
    if not spans or len(spans) < len(points) - 1:
        return None
    inside = [span for span in spans if span[1][1] <= bpb <= span[0][1]]
    (x0, y0), (x1, y1) = inside[0] if inside else spans[0] if bpb > spans[0][0][1] else spans[-1]
    octaves = math.log(bpb / y0) / math.log(y1 / y0) * math.log2(x1 / x0)
    least, most = spans[0][0][0] / 2, spans[-1][1][0] * 2
    if octaves < math.log2(least / x0):
        return least, "<"
    if octaves > math.log2(most / x0):
        return most, ">"
    return x0 * 2**octaves, "="


def _group(mine: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, the gap to the base at the same mark over the seeds that both have, and what that is worth."""
    body: dict[str, Any] = {name: mine[0][name] for name in ("unit", "size", "mark", "arm")}
    equal = [row for row in base if row["mark"] == body["mark"]]
    scores, others = ({row["seed"]: score_of(row) for row in rows} for rows in (mine, equal))
    body |= {"seeds": sorted(scores), "reads": "raw" if mine[0]["raw_bpb"] is not None else "its view"}
    body |= {"bpb": _mean(scores.values()), "bpb_range": [min(scores.values()), max(scores.values())]}
    views = mine[0]["view_bpb"]
    body["view_bpb"] = {view: _mean(row["view_bpb"][view] for row in mine) for view in views}
    told = [row["translation"] for row in mine]
    body["translation"] = {
        view: {name: _mean(each[view][name] for each in told if view in each) for name in FIGURES}
        for view in dict.fromkeys(view for each in told for view in each)
    }
    for name in ("steps", "flops", "encode_flops", "raw_share"):
        body[name] = _mean(row[name] for row in mine)
    body["body_parameters"] = mine[0]["parameters"]["body"]
    for name in ("symbols", "bytes_of_text"):
        body[name] = {view: _mean(row[name][view] for row in mine) for view in mine[0][name]}
    if both := sorted(scores.keys() & others.keys()):
        body["gap_seeds"] = both
        ours, theirs = ([each[seed] for seed in both] for each in (scores, others))
        body["gap_percent"] = 100 * (_mean(ours) / _mean(theirs) - 1)
        each = [100 * (our / their - 1) for our, their in zip(ours, theirs, strict=True)]
        body["gap_range"] = [min(each), max(each)]
        body["ranges_apart"] = max(ours) < min(theirs) or min(ours) > max(theirs)
    if worth := equivalent(_curve(base, body["seeds"]), body["bpb"]):
        body["compute_gain"], body["compute_gain_is"] = worth[0] / body["mark"], worth[1]
    return body


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def table_rows(body: Mapping[str, Any], unit: str, times: Mapping[str, float]) -> list[dict[str, str]]:
    """The table of one unit, a row a group, as text by column."""
    rows = []
    for group in (group for group in body["groups"] if group["unit"] == unit):
        key = {name: group[name] for name in ("unit", "size", "mark", "arm")}
        spent = [times[row["run"]] for row in body["runs"] if key.items() <= row.items() and row["run"] in times]
        low, high = group["bpb_range"]
        spread = f" ± {(high - low) / 2:.4f}" if len(group["seeds"]) > 1 else ""
        shown = {"size": group["size"], "mark": f"{group['mark']:.3g}", "arm": group["arm"]}
        shown["BPB"] = f"{group['bpb']:.4f}{spread}" + ("" if group["reads"] == "raw" else " *")
        shown[f"against {body['against']}"] = f"{group['gap_percent']:+.2f}%" if "gap_percent" in group else ""
        apart = "yes" if group.get("ranges_apart") and len(group["gap_seeds"]) > 1 else ""
        shown["ranges apart"] = apart if group["arm"] != body["against"] else ""
        if any("compute_gain" in each for each in body["groups"]):
            shown["worth"] = (
                f"{group['compute_gain_is'].strip('=')}{group['compute_gain']:.2f}x" if "compute_gain" in group else ""
            )
        shown["on raw"] = f"{group['raw_share']:.1%}"
        shown["view BPB"] = ", ".join(f"{name} {bpb:.4f}" for name, bpb in group["view_bpb"].items())
        if any(each["translation"] for each in body["groups"]):
            told = group["translation"].items()
            shown["translated"] = ", ".join(
                f"{view} {each['exact_match']:.1%} {each['bpb_given'] - each['bpb_alone']:+.3f}" for view, each in told
            )
        shown["seeds"], shown["steps"] = str(len(group["seeds"])), f"{group['steps']:,.0f}"
        shown["FLOPs"], shown["codec FLOPs"] = f"{group['flops']:.3e}", f"{group['encode_flops']:.2e}"
        for name, heading in (("symbols", "M symbols"), ("bytes_of_text", "MB of text")):
            counts = group[name].items()
            shown[heading] = ", ".join(f"{view} {count / 1e6:.2f}" for view, count in counts)
        shown["minutes"] = f"{sum(spent) / len(spent) / 60:.1f}" if spent else ""
        rows.append(shown)
    return rows


def foreword(body: Mapping[str, Any]) -> list[str]:
    """How far it is, and what other compressors make of the held-out text."""
    found = []
    if not body["complete"]:
        found.append(f"Not complete: {len(body['runs'])} of {body['wanted']} runs are done.")
    if body["baselines"]:
        found.append(f"The same held-out text: {', '.join(f'{k} {v:.3f}' for k, v in body['baselines'].items())}.")
    return found


def markdown(body: Mapping[str, Any], times: Mapping[str, float]) -> str:
    """Both tables, with what they mean."""
    parts = [f"# Comparison: {body['plan']}", ""]
    for sentence in foreword(body):
        parts += [sentence, ""]
    for unit, title in TITLES.items():
        if rows := table_rows(body, unit, times):
            parts += [f"## {title}", "", f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
            parts += [f"| {' | '.join(row.values())} |" for row in rows] + [""]
    return "\n".join([*parts, NOTE, ""])


NOTE = (
    "BPB: bits per held-out raw byte, mean over seeds ± half of their range, as bars in pictures show; with * of the "
    "compressed view, by a model that reads no raw bytes. Below 0% is better than the arm held against, over the "
    "seeds that both have; ranges are apart where every seed of one is better than every seed of the other. Worth: "
    "the mark that the arm held against needs for the same BPB, read off its own marks, over this one. On raw: the "
    "part of the FLOPs that raw bytes took; a recipe that is worth no more than that had nothing of its symbols. "
    "FLOPs: of training alone, by formula; codec FLOPs: what encoding the text of the views cost on top. A pair's "
    "text counts in both views. Translated: the share of held-out segments, of 32 bytes or more, that greedy decoding "
    "writes without an error when it has read them in the view, and what it needs in bits per byte against reading "
    "them alone."
)
