"""The measurements as medians over the rounds, and these as Markdown."""

from statistics import median
from typing import Any

from tests.bench.train.shape import REFERENCE, ROWS
from trainer.counts import training_flops

NOTES = """\
Every measurement is a new process; rounds are interleaved, figures are medians over them, and ÷ ours the median of the
quotients to the first row of the same round. Same for all: sizes, rows and context, vocabulary (320), float32 weights,
matrix products in the dtype above, fused AdamW (but where the title says otherwise), clipping, torch.
Not the same: ours masks attention at document boundaries, checks every document's sum, and casts its residual stream
too; the peers read random windows, attend causally without a mask, and run under autocast, which keeps that stream in
float32. The nanoGPT-style model has neither rotation nor QK-norm nor gate, with as many weights. Our `forward` holds
masks, loss and the head's gradients as well. Memory: the process's peak, imports included."""


def summarise(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Preset -> row key -> medians, or {"error": why}."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for preset in dict.fromkeys(one["preset"] for one in found):
        of_preset = [one for one in found if one["preset"] == preset]
        reference = {one["round"]: one for one in of_preset if one["row"] == REFERENCE.key and "step_s" in one}
        for key in dict.fromkeys(one["row"] for one in of_preset):
            runs = [one for one in of_preset if one["row"] == key]
            summary.setdefault(preset, {})[key] = _medians(runs, reference)
    return summary


def _medians(runs: list[dict[str, Any]], reference: dict[int, dict[str, Any]]) -> dict[str, Any]:
    timed = [one for one in runs if "step_s" in one]
    if not timed:
        return {"error": runs[0]["error"]}
    beside = [(one, reference[one["round"]]) for one in timed if one["round"] in reference]
    waits = [one["waited_share"] for one in timed if one["waited_share"] is not None]
    return {
        "tokens_per_s": median(one["tokens"] / one["step_s"] for one in timed),
        "bytes_per_s": median(one["bytes"] / one["step_s"] for one in timed),
        "flops_per_s": median(training_flops(one["settings"], one["tables"], one["counted"]) / one["step_s"]
                              for one in timed),
        "step_s": median(one["step_s"] for one in timed),
        "memory": median(one["memory_cuda"] or one["memory"] for one in timed),
        "speed_of_ours": median(own["step_s"] / one["step_s"] for one, own in beside) if beside else None,
        "memory_of_ours": median((one["memory_cuda"] or one["memory"]) / (own["memory_cuda"] or own["memory"])
                                 for one, own in beside) if beside else None,
        "parts": {name: median(one["parts"][name] for one in timed) for name in timed[0]["parts"]},
        "waited_share": median(waits) if waits else None,
    }  # fmt: skip


def markdown(body: dict[str, Any], peak_tflops: float) -> str:
    """A table a preset, and the notes. MFU: the formula's FLOPs of a step / its seconds / `peak_tflops`."""
    lines = ["# Training steps side by side", "", body["machine"], "", NOTES]
    if peak_tflops:
        lines += ["", (f"MFU: 6 FLOPs a weight and position and causal attention (trainer/counts.py), by our shape's "
                      f"formula for every row, / seconds / {peak_tflops:g} TFLOP/s.")]  # fmt: skip
    names = ("row", "tokens/s", "÷ ours", "bytes/s", "ms a step", "memory MB", "÷ ours", "MFU", "waits for data")
    for preset, rows in body["summary"].items():
        lines += ["", f"## {preset}: {body['shapes'][preset]}", "", _line((*names, "parts, ms")), _line(["---"] * 10)]
        lines += [_line(_cells(row.title, rows[row.key], peak_tflops)) for row in ROWS if row.key in rows]
    return "\n".join(lines) + "\n"


def _cells(title: str, found: dict[str, Any], peak_tflops: float) -> list[str]:
    if "error" in found:
        return [title, "not available: " + found["error"].replace("|", "\\|")[:160], *["-"] * 8]
    return [
        title,
        f"{found['tokens_per_s']:,.0f}",
        _figure(found["speed_of_ours"], ".2f"),
        f"{found['bytes_per_s']:,.0f}",
        f"{1e3 * found['step_s']:.1f}",
        f"{found['memory'] / 1e6:,.0f}",
        _figure(found["memory_of_ours"], ".2f"),
        f"{found['flops_per_s'] / peak_tflops / 1e12:.1%}" if peak_tflops else "-",
        _figure(found["waited_share"], ".2%"),
        ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in found["parts"].items()) or "-",
    ]


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
