"""The last lines of a build on the terminal: what was kept, what was left out and why, where it is, what comes next."""

import shlex
import textwrap
from collections.abc import Iterable, Sequence

from pipeline.reporting.figures import count, percent, rate, seconds, size
from pipeline.reporting.report import PAGE, Report

WIDTH = 100
STAGES = {"survey": "survey", "split": "split", "fit": "fit", "encode": "encode", "join": "write"}


def summary(report: Report, out: str) -> str:
    """A report in some twenty lines of text; `out`: the set's folder or URL."""
    counts, twins, timing = report["counts"], report["twins"], report["timing"]
    total = timing["total"]
    kept = f"{count(counts['documents'])} documents, {size(counts['bytes'])} of text"
    lines = [f"{out}: {kept}, in {seconds(total)}", ""]
    lines += _aligned(
        (
            (
                name,
                f"{count(split['documents'])} documents",
                size(split["bytes"]),
                percent(split["bytes"] / max(1, counts["bytes"])),
                f"{count(split['shards'])} file{'' if split['shards'] == 1 else 's'}",
            )
            for name, split in report["splits"].items()
        ),
    )
    lines += ["", *_aligned(_views(report))]
    reasons = ", ".join(f"{reason} {count(facts['documents'])}" for reason, facts in report["rejected"].items())
    lines += ["", *_wrapped(f"left out {count(counts['rejected'])} of {count(counts['found'])} found", reasons)]
    if clusters := report["near_duplicates"]["clusters"]:
        alike = count(sum(int(documents) * number for documents, number in clusters.items()))
        found = f"{alike} documents in {count(sum(clusters.values()))} clusters, one each kept"
        lines += _wrapped("near-duplicates", f"{found}; the largest of {count(max(map(int, clusters)))}")
    if report["scrubbed"]:
        found = ", ".join(f"{kind} {count(facts['places'])}" for kind, facts in report["scrubbed"].items())
        lines += _wrapped("replaced", found)
    if twins["sampled"]:
        share = f"{percent(twins['share'])} of {count(twins['sampled'])} documents"
        lines += _wrapped("near-twins of train documents in val", f"{share}, {percent(twins['byte_share'])} of bytes")
    if counts["checked"]:
        checked = f"{count(counts['checked'])} of {count(counts['documents'])} documents, every view"
        lines += _wrapped("decoded and compared", checked)
    times = ", ".join(
        f"{STAGES.get(name, name)} {seconds(stage['seconds'])}"
        + (f" ({rate(stage['bytes'], stage['seconds'])})" if stage["bytes"] else "")
        for name, stage in timing["stages"].items()
    )
    lines += _wrapped("time", times)
    place = shlex.quote(out)
    lines += [
        "",
        f"  report  {out.rstrip('/')}/{PAGE}",
        f"  check   python -m shards verify {place}",
        f"  train   python -m trainer train --shards {place}",
    ]
    return "\n".join(lines)


def _views(report: Report) -> Iterable[Sequence[str]]:
    yield "view", "ratio", "bytes a symbol", "encodes at"
    for name, view in report["views"].items():
        codec = report["timing"]["codecs"].get(name)
        speed = rate(report["counts"]["bytes"], codec["encode"]) if codec else "-"
        yield name, f"{view['ratio']:.2f}", f"{view['bytes_a_symbol']:.2f}", speed


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    given = list(rows)
    widths = [max(map(len, column)) for column in zip(*given, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in given
    ]


def _wrapped(title: str, text: str) -> list[str]:
    """A title and what there is to say, on as many lines as it takes."""
    whole = f"{title}: {text}" if text else title
    return textwrap.wrap(whole, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
