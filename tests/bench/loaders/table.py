"""The measurements as medians over the rounds, and these as Markdown."""

from statistics import median
from typing import Any

from tests.bench.loaders.lineup import MIXED, ROWS, VARIANTS, Row

HEADINGS = {
    "tokens": "Tokens: the sentencepiece view's symbols, uint16",
    "bytes": "Raw bytes, uint8",
    MIXED: "Both views mixed: ours alone, beside the figures above",
}
COLUMNS = (
    "loader",
    "shuffle",
    "M symbols/s (min to max)",
    "÷ flat copy",
    "÷ ours",
    "÷ ours, mixed",
    "first batch ms",
    "memory MB (mapped MB)",
    "resume ms",
    "exact",
)
NOTES = """\
Batches of (16, 2049) symbols, concatenated and cut; one process, warm page cache, every measurement a new process.
**The peers do none of what ours does for each batch: mixing views, sentinels, document boundaries and masks,
checksums of every document read, and handing out the state to resume from.** They deliver ids, widened to int64, and
nothing else; ours ids and targets in 16 or 32 bits, which of them count, views, positions and boundaries.

* M symbols/s: wall time, from the first batch of a pass to its last; ours count rows x 2049, as the peers.
* ÷ flat copy: to the `np.copyto` process that ran right before, so it holds where the machine's speed drifts;
  ÷ ours and ÷ ours, mixed: the quotients of these (1 = as fast as our row of the same symbols, or of both views mixed).
* first batch: from opening the data set, imports not counted. memory: anonymous, beyond the interpreter's after its
  imports; in brackets file-backed and shared pages, which the page cache holds anyhow.
* resume: a new process, from the state at half an epoch to its next batch; exact: that batch and the next two equal
  the uninterrupted run's."""


def summarise(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> row key -> medians, or {"error": …}."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in (*VARIANTS, MIXED):
        for row in ROWS:
            rounds = [one for one in found if (one["row"], one["variant"]) == (row.key, variant)]
            if rounds:
                summary.setdefault(variant, {})[row.key] = _medians(rounds)
    return summary


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    timed = [one for one in rounds if all("symbols_per_s" in one.get(name, {}) for name in ("run", "reference"))]
    if not timed:
        return {"error": next(one["error"] for one in rounds if "error" in one)}
    runs = [one["run"] for one in timed]
    rates = [run["symbols_per_s"] for run in runs]
    resumed = [one["resume"] for one in rounds if "resume_s" in one.get("resume", {})]
    halves = [one["half"] for one in rounds if "half" in one]
    mapped = [run["memory"]["RssFile"] + run["memory"]["RssShmem"] for run in runs]
    return {
        "symbols_per_s": median(rates),
        "symbols_per_s_range": [min(rates), max(rates)],
        "of_flat_copy": median(one["run"]["symbols_per_s"] / one["reference"]["symbols_per_s"] for one in timed),
        "first_batch_s": median(run["first_batch_s"] for run in runs),
        "memory_mb": median(run["memory"]["RssAnon"] - run["memory_imports"]["RssAnon"] for run in runs),
        "mapped_mb": median(mapped),
        "imports_mb": median(run["memory_imports"]["RssAnon"] for run in runs),
        "import_s": median(run["import_s"] for run in runs),
        "resume_s": median(one["resume_s"] for one in resumed) if resumed else None,
        "exact": all(one["exact"] for one in resumed) if resumed else None,
        "resume_error": next((one["error"] for one in rounds if "error" in one), None),
    } | {name: half[name] for half in halves for name in ("resumes", "state_bytes", "counted_share") if name in half}


def markdown(body: dict[str, Any]) -> str:
    """Of all results: the machine, a table a variant, the notes."""
    summary, machine = body["summary"], body["machine"]
    low, high = machine["load"]
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {body['date']}"
    sizes = body["documents"].items()
    held = [f"{variant}: {size['documents']:,} documents, {size['symbols']:,} symbols" for variant, size in sizes]
    lines = [
        "# Loaders side by side",
        "",
        f"{where}; load average {low:.1f} to {high:.1f}; medians of {body['rounds']} rounds.",
        "; ".join(held) + ".",
        "",
        NOTES,
    ]
    for variant, rows in summary.items():
        lines += ["", f"## {HEADINGS[variant]}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line(_cells(row, rows[row.key], _ours(summary, variant))) for row in ROWS if row.key in rows]
    lines += ["", f"Imports, which no figure counts, in seconds: {_imports(summary)}."]
    if shares := _shares(summary):
        lines += ["", f"Of ours, the share trained on (the rest: specials, padding, second openers): {shares}."]
    lines += ["", "Versions: " + "; ".join(_versions(body["versions"])) + "."]
    return "\n".join(lines) + "\n"


def _ours(summary: dict[str, Any], variant: str) -> list[float | None]:
    """Our own quotients to the flat copy: of the variant's row, and of the mixed one."""
    own = summary.get(variant, {}).get(f"ours-{variant}", {}).get("of_flat_copy")
    return [own, summary.get(MIXED, {}).get("ours-mixed", {}).get("of_flat_copy")]


def _cells(row: Row, found: dict[str, Any], ours: list[float | None]) -> list[str]:
    if "symbols_per_s" not in found:
        return [row.title, row.shuffle, f"failed: {_escaped(found['error'])}", *["-"] * (len(COLUMNS) - 3)]
    low, high = found["symbols_per_s_range"]
    resume, exact = "none", "-"
    if found["resume_s"] is not None:
        resume, exact = _figure(1e3 * found["resume_s"]), "yes" if found["exact"] else "**no**"
    elif found["resume_error"]:
        resume = f"failed: {_escaped(found['resume_error'])}"
    return [
        row.title,
        row.shuffle,
        f"{_figure(found['symbols_per_s'] / 1e6)} ({_figure(low / 1e6)} to {_figure(high / 1e6)})",
        _figure(found["of_flat_copy"]),
        *(_figure(found["of_flat_copy"] / own) if own else "-" for own in ours),
        _figure(1e3 * found["first_batch_s"]),
        f"{found['memory_mb']:.0f} ({found['mapped_mb']:.0f})",
        resume,
        exact,
    ]


def _figure(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")[:160]


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _shares(summary: dict[str, Any]) -> str:
    found = {
        key.removeprefix("ours-"): one["counted_share"]
        for rows in summary.values()
        for key, one in rows.items()
        if key.startswith("ours-") and "counted_share" in one
    }
    return ", ".join(f"{name} {share:.1%}" for name, share in found.items())


def _imports(summary: dict[str, Any]) -> str:
    """The longest imports of each peer."""
    longest: dict[str, float] = {}
    for rows in summary.values():
        for key, one in rows.items():
            peer = key.partition("-")[0]
            longest[peer] = max(longest.get(peer, 0.0), one.get("import_s", 0.0))
    return ", ".join(f"{peer} {seconds:.2f}" for peer, seconds in longest.items())


def _versions(versions: dict[str, dict[str, str]]) -> list[str]:
    """Of each peer, the packages that its name stands for."""
    named = {
        "flat": ("numpy",),
        "mosaic": ("mosaicml-streaming", "numpy"),
        "litdata": ("litdata",),
        "grain": ("grain", "array_record"),
        "datasets": ("datasets", "pyarrow"),
        "parquet": ("torch", "pyarrow"),
    }
    return [
        f"{peer} ({', '.join(f'{name} {versions[peer][name]}' for name in names)})"
        for peer, names in named.items()
        if peer in versions
    ]
