"""A chart of shares against a few named points, one line a series: SVG like those of charts.py."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from pipeline.reporting.charts import COLOURS, FOOT, HEAD, HEIGHT, legend, markup

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def curves(series: Mapping[str, Sequence[float]], points: Sequence[str], caption: str) -> Markup:
    """`series`: name -> shares in [0, 1] at each of the points, which stand at equal distances."""
    step = 100 / max(1, len(points))
    marks = [markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>', _y(tick)) for tick in TICKS]
    for number, (name, shares) in enumerate(series.items()):
        places = [((i + 0.5) * step, _y(share), share, point) for i, (share, point) in
                  enumerate(zip(shares, points, strict=True))]  # fmt: skip
        for (x, y, *_), (x_next, y_next, *_) in pairwise(places):
            line = '<line class="s{}" x1="{:.3f}%" y1="{:.2f}" x2="{:.3f}%" y2="{:.2f}"/>'
            marks.append(markup(line, number % COLOURS, x, y, x_next, y_next))
        for x, y, share, point in places:
            dot = '<circle class="c{}" cx="{:.3f}%" cy="{:.2f}" r="3"><title>{}</title></circle>'
            marks.append(markup(dot, number % COLOURS, x, y, f"{name}, {point}: {share:.1%}"))
    below = '<text x="{:.3f}%" y="{}" text-anchor="middle">{}</text>'
    marks += [markup(below, (i + 0.5) * step, HEAD + HEIGHT + 20, point) for i, point in enumerate(points)]
    beside = [markup('<text x="100%" y="{:.1f}" dy="4" text-anchor="end">{:.0%}</text>', _y(t), t) for t in TICKS]
    return markup(
        '<figure>{legend}<div class="plot"><svg class="axis" width="48" height="{height}" aria-hidden="true">{beside}'
        '</svg><svg width="100%" height="{height}" role="img" aria-label="{caption}">{marks}</svg></div>'
        "<figcaption>{caption}</figcaption></figure>",
        legend=legend(list(series)),
        height=HEAD + HEIGHT + FOOT,
        beside=Markup("").join(beside),
        marks=Markup("").join(marks),
        caption=caption,
    )


def _y(share: float) -> float:
    return HEAD + HEIGHT * (1 - share)
