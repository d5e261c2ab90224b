"""report.html: a set's report as one page that opens without a network and runs no script.

Every string goes through the template's escaping, and what is not printable is spelled out: a corpus may call a file
`<script>` or reverse the direction of writing. The page's own policy forbids scripts and anything from elsewhere.
"""

from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.reporting.charts import Series, columns, inclusive_label, lines, meter, share_bar, shown
from pipeline.reporting.curves import curves
from pipeline.reporting.figures import count, percent, rate, seconds, size
from pipeline.reporting.report import Report

SHOWN = 14  # rows of a long table before the rest is folded away
STAGES = {"survey": "survey: read and judge", "fit": "fit the codecs", "encode": "encode and check", "join": "write"}


def page(report: Report) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "size": size, "percent": percent, "seconds": seconds, "rate": rate}
    splits = list(report["splits"])
    return environment.get_template("report.html.j2").render(
        report=report,
        charts=_charts(report),
        heat=_heat(report),
        near=clusters_by_size(report),
        meter=meter,
        by_split=lambda language: [language["splits"].get(split, {"bytes": 0})["bytes"] for split in splits],
        shown=SHOWN,
    )


def _charts(report: Report) -> dict[str, Markup]:
    lengths = {split: facts["lengths"] for split, facts in report["splits"].items()}
    raw = [Series(split, bins["raw"]) for split, bins in lengths.items()]
    views = [Series(name, _added(bins[name] for bins in lengths.values())) for name in ["raw", *report["views"]]]
    anchors = [
        Series(name, view["anchors"]["documents"])
        for name, view in report["views"].items()
        if view["anchors"]["promised_gap"] is not None
    ]
    stages = [(STAGES.get(name, name), facts["seconds"]) for name, facts in report["timing"]["stages"].items()]
    rest = report["timing"]["total"] - sum(time for _, time in stages)
    return {
        "lengths": columns(raw, "bytes"),
        "symbols": lines(views, "symbols"),
        "anchors": lines(anchors, "anchors") if anchors else Markup(""),
        "stability": _stability(report["stability"]["views"]) if "stability" in report else Markup(""),
        "time": share_bar([*stages, ("the rest", rest)] if rest > 0.01 else stages, "s"),
    }


def _stability(views: Report) -> Markup:
    series = {name: [figure["mean"] for figure in view["distance"].values()] for name, view in views.items()}
    points = [f"{float(rate):.0%}" for rate in next(iter(views.values()))["distance"]]
    return curves(
        series, points, "to the right: share of the text's bytes edited; upwards: of a view's symbols changed"
    )


def clusters_by_size(report: Report) -> list[tuple[str, int, int]]:
    """(documents of a cluster, clusters, documents left out of them) by powers of two, where near-duplicates were
    looked for and found.
    """
    rows: dict[int, list[int]] = {}
    for documents, clusters in report.get("near_duplicates", {}).get("clusters", {}).items():
        row = rows.setdefault(int(documents).bit_length(), [0, 0])
        row[0] += clusters
        row[1] += clusters * (int(documents) - 1)
    return [(inclusive_label(number), clusters, others) for number, (clusters, others) in sorted(rows.items())]


def _heat(report: Report) -> dict[str, float]:
    """For each view's ratio by language: how strongly to colour a cell, at 0 and above; by `language/view`."""
    found = {
        f"{language}/{view}": numbers["ratio"]
        for language, facts in report["languages"].items()
        for view, numbers in facts["views"].items()
    }
    low, high = min(found.values(), default=0.0), max(found.values(), default=0.0)
    return {name: (ratio - low) / ((high - low) or 1.0) for name, ratio in found.items()}


def _added(parts: Iterable[list[int]]) -> list[int]:
    rows = list(parts)
    return [sum(row[n] for row in rows if n < len(row)) for n in range(max(map(len, rows), default=0))]
