"""Charts as SVG within a page: no scripts, no files beside it, readable at any width.

Across, everything is in percent of the room that there is; down, and in its letters, in pixels. So a chart becomes
narrow without its text becoming small. Colours are classes (`c0` to `c7`) that the page's style sheet defines.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup

from pipeline.reporting.figures import printable
from pipeline.reporting.statistics import bin_start

COLOURS = 8
HEIGHT, FOOT, HEAD = 200, 34, 10  # pixels of the plot, below it for labels, above it


class Series(NamedTuple):
    """Counts by `log2_bins`, with the name that the legend gives them."""

    name: str
    bins: Sequence[int]


def markup(template: str, *values: Any, **named: Any) -> Markup:
    """The template with values put in, escaped, and nothing in them that is not printable."""
    return Markup(template).format(*map(shown, values), **{key: shown(value) for key, value in named.items()})


def shown(value: Any) -> Any:
    """A value as it may stand on the page: text that is no markup yet is made printable."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def columns(series: Sequence[Series], unit: str) -> Markup:
    """Histograms stacked on each other; `unit` is what the bins measure ("bytes")."""
    first, last = _range(series)
    top = _nice(max((sum(_at(s, n) for s in series) for n in range(first, last)), default=0))
    step = 100 / max(1, last - first)
    marks = []
    for n in range(first, last):
        below = 0
        for number, one in enumerate(series):
            count = _at(one, n)
            if count:
                y, height = _y(below + count, top), count / top * HEIGHT
                title = markup("<title>{}, {} {}: {:,} documents</title>", one.name, bin_label(n), unit, count)
                marks.append(
                    markup(
                        '<rect class="c{}" x="{:.3f}%" y="{:.2f}" width="{:.3f}%" height="{:.2f}">{}</rect>',
                        number % COLOURS,
                        (n - first + 0.08) * step,
                        y,
                        0.84 * step,
                        max(height, 0.75),
                        title,
                    )
                )
            below += count
    return _plot(marks, first, last, top, unit, series)


def lines(series: Sequence[Series], unit: str) -> Markup:
    """Histograms as lines over each other."""
    first, last = _range(series)
    top = _nice(max((_at(s, n) for s in series for n in range(first, last)), default=0))
    step = 100 / max(1, last - first)
    marks = []
    for number, one in enumerate(series):
        points = [((n - first + 0.5) * step, _y(_at(one, n), top), n) for n in range(first, last)]
        for (x, y, _), (x_next, y_next, _) in pairwise(points):
            marks.append(
                markup(
                    '<line class="s{}" x1="{:.3f}%" y1="{:.2f}" x2="{:.3f}%" y2="{:.2f}"/>',
                    number % COLOURS,
                    x,
                    y,
                    x_next,
                    y_next,
                )
            )
        for x, y, n in points:
            if _at(one, n):
                title = f"{one.name}, {bin_label(n)} {unit}: {_at(one, n):,} documents"
                marks.append(
                    markup(
                        '<circle class="c{}" cx="{:.3f}%" cy="{:.2f}" r="3"><title>{}</title></circle>',
                        number % COLOURS,
                        x,
                        y,
                        title,
                    )
                )
    return _plot(marks, first, last, top, unit, series)


def share_bar(parts: Sequence[tuple[str, float]], unit: str = "") -> Markup:
    """One bar cut into its parts, in the order of the colours, with a legend below."""
    total = sum(size for _, size in parts) or 1.0
    marks, x = [], 0.0
    for number, (name, size) in enumerate(parts):
        title = f"{name}: {size:,.1f} {unit} ({size / total:.1%})"
        marks.append(
            markup(
                '<rect class="c{}" x="{:.3f}%" y="0" width="{:.3f}%" height="26"><title>{}</title></rect>',
                number % COLOURS,
                x,
                100 * size / total,
                title,
            )
        )
        x += 100 * size / total
    drawn = Markup("").join(marks)
    names = legend([f"{name} {size / total:.0%}" for name, size in parts])
    return markup('<figure><svg class="bar" width="100%" height="26" role="img">{}</svg>{}</figure>', drawn, names)


def meter(parts: Sequence[float], whole: float) -> Markup:
    """A small bar for a table's row: its parts, of a whole that would fill it."""
    marks, x = [], 0.0
    for number, size in enumerate(parts):
        width = 100 * size / whole if whole else 0.0
        marks.append(markup('<rect class="c{}" x="{:.3f}%" width="{:.3f}%" height="12"/>', number % COLOURS, x, width))
        x += width
    return markup('<svg class="meter" width="100%" height="12" aria-hidden="true">{}</svg>', Markup("").join(marks))


def bin_label(number: int) -> str:
    """The values of a bin in words: `1K to 2K`."""
    start, end = bin_start(number), bin_start(number + 1)
    return _short(start) if end - start <= 1 else f"{_short(start)} to {_short(end)}"


def inclusive_label(number: int) -> str:
    """The whole numbers of a bin in words: `4 to 7`."""
    start, last = bin_start(number), bin_start(number + 1) - 1
    return str(start) if start == last else f"{start:,} to {last:,}"


def _plot(marks: Sequence[Markup], first: int, last: int, top: int, unit: str, series: Sequence[Series]) -> Markup:
    """A frame with both axes around the marks, and the legend if there is more than one series."""
    ticks = [top * i // 4 for i in range(5)] if top >= 4 else list(range(top + 1))
    grid = Markup("").join(
        markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>', _y(t, top)) for t in ticks
    )
    beside = Markup("").join(
        markup('<text x="100%" y="{:.1f}" dy="4" text-anchor="end">{}</text>', _y(tick, top), _count(tick))
        for tick in ticks
    )
    below = Markup("").join(_labels(first, last))
    return markup(
        '<figure>{legend}<div class="plot"><svg class="axis" width="48" height="{height}" aria-hidden="true">{beside}'
        '</svg><svg width="100%" height="{height}" role="img" aria-label="documents by {unit}">{grid}{marks}{below}'
        "</svg></div><figcaption>{unit} a document, each bin twice as wide as the one before; upwards: documents"
        "</figcaption></figure>",
        legend=legend([one.name for one in series]) if len(series) > 1 else "",
        height=HEAD + HEIGHT + FOOT,
        beside=beside,
        unit=unit,
        grid=grid,
        marks=Markup("").join(marks),
        below=below,
    )


def _labels(first: int, last: int) -> Iterator[Markup]:
    """Where the bins begin: under the left edges of eight columns or so, of half of them where the page is narrow."""
    step = 100 / max(1, last - first)
    every = 1 + (last - first) // 9
    for n in range(first, last):
        if (n - first) % every == 0:
            anchor = "start" if n == first else "middle"
            rank = "" if (n - first) % (2 * every) == 0 else "minor"
            yield markup(
                '<text class="{}" x="{:.3f}%" y="{}" text-anchor="{}">{}</text>',
                rank,
                (n - first) * step,
                HEAD + HEIGHT + 20,
                anchor,
                _short(bin_start(n)),
            )


def legend(names: Sequence[str]) -> Markup:
    """The names with their colours."""
    items = (markup('<span><i class="c{}"></i>{}</span>', number % COLOURS, name) for number, name in enumerate(names))
    return markup('<div class="legend">{}</div>', Markup("").join(items))


def _range(series: Sequence[Series]) -> tuple[int, int]:
    """The bins from the first to behind the last that hold anything."""
    filled = [n for one in series for n, count in enumerate(one.bins) if count]
    return (min(filled), max(filled) + 1) if filled else (0, 1)


def _at(one: Series, n: int) -> int:
    return one.bins[n] if n < len(one.bins) else 0


def _y(value: float, top: int) -> float:
    return HEAD + HEIGHT * (1 - value / top)


def _nice(value: int) -> int:
    """A round number that is not below, and a multiple of four: its ticks are whole numbers."""
    if value < 4:
        return max(1, value)
    power = 10 ** (len(str(value)) - 1)
    steps = (m * power // 10 for m in (10, 12, 16, 20, 24, 28, 32, 40, 48, 60, 80, 100, 120))
    return next(step for step in steps if step >= value and step % 4 == 0)


def _short(value: int) -> str:
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if value >= size:
            return f"{value // size}{unit}"
    return str(value)


def _count(value: int) -> str:
    return f"{value / 1e6:g}M" if value >= 1_000_000 else f"{value / 1e3:g}k" if value >= 10_000 else f"{value:,}"
