"""Curves as one HTML file with inline SVG: it opens offline, in light and dark, and holds no script."""

import math
from collections.abc import Sequence
from html import escape

from trainer.curves import Line, Panel

COLOURS = (  # light and dark, of lines in order
    ("#2563c9", "#7aa7ff"), ("#c2410c", "#ff9d66"), ("#15803d", "#5fce86"), ("#9333ea", "#c79bff"),
    ("#0e7490", "#5cc8de"), ("#be185d", "#ff85b6"), ("#806000", "#d9b83a"), ("#475569", "#a7b4c6"),
)  # fmt: skip
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 52, 14, 12, 42
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --grid: #e3e7ec; --back: #ffffff; --card: #f7f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #98a3b3; --grid: #2c3440; --back: #12161c; --card: #191f27 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 1220px; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 1rem } h2 { font-size: 1rem; margin: 0 0 .4rem }
.all { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 1rem }
figure { margin: 0; padding: .9rem 1rem; background: var(--card); border-radius: 8px }
svg { width: 100%; height: auto; display: block; overflow: visible }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
.grid { stroke: var(--grid); stroke-width: 1 } path { fill: none; stroke-width: 2; stroke-linejoin: round }
.rule { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 3 } path.bar { stroke-width: 1.4 }
circle { stroke-width: 2 } .faint { opacity: .45; stroke-width: 1.4 } .dashed { stroke-dasharray: 5 3 }
figcaption { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: 13px; color: var(--soft) }
figcaption svg { width: 26px; height: 10px; display: inline; margin-right: .35rem; vertical-align: middle }
.scroll { overflow-x: auto; margin-bottom: 1.2rem } table { border-collapse: collapse; font-size: 14px }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--grid); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 } th { color: var(--soft); font-weight: 500 }
p { color: var(--soft); font-size: 13px; max-width: 75ch }
"""


NOTE = (
    "Each point of a line of training is the exact mean over the steps that it stands for; dots are looks at held-out "
    "raw bytes in mid-run, over as many bytes as --eval-bytes says. FLOPs: 6 for each weight of a matrix product and "
    "each position that it is applied to, and causal attention. The first steps' peak is cut off."
)


def html(title: str, rows: Sequence[dict[str, str]], panels: Sequence[Panel], note: str = NOTE) -> str:
    """The whole page; `note` stands below the pictures."""
    light = "".join(f".c{number} {{ --c: {pair[0]} }} " for number, pair in enumerate(COLOURS))
    dark = "".join(f".c{number} {{ --c: {pair[1]} }} " for number, pair in enumerate(COLOURS))
    style = f"{_STYLE}{light}\n@media (prefers-color-scheme: dark) {{ {dark}}}"
    figures = "\n".join(figure(panel, number) for number, panel in enumerate(panels))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style>\n<h1>{escape(title)}</h1>\n'
        f'{table(rows)}\n<div class="all">\n{figures}\n</div>\n<p>{escape(note)}</p></html>\n'
    )


def table(rows: Sequence[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(row.get(name, ''))}" for name in names) for row in rows)
    return f'<div class="scroll"><table><tr>{head}{body}</table></div>'


def figure(panel: Panel, number: int) -> str:
    """One panel: title, axes, lines, legend."""
    x0, x1, y0, y1 = panel.ranges()
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (right - LEFT)

    def y_of(y: float) -> float:
        return bottom - (y - y0) / (y1 - y0) * (bottom - TOP)

    parts = []
    for tick in ticks(y0, y1):
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for place, name in panel.ticks or [(tick, short(tick)) for tick in ticks(x0, x1)]:
        parts.append(f'<text x="{x_of(place):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    if panel.rule is not None:
        y = y_of(panel.rule)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(panel.x_label)}</text>')
    parts.append(
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>'
    )
    parts.append(f'<clipPath id="clip{number}"><rect x="{LEFT}" y="{TOP - 8}" width="{right - LEFT + 6}" '
                 f'height="{bottom - TOP + 8}"/></clipPath><g clip-path="url(#clip{number})">')  # fmt: skip
    both = any(line.dots for line in panel.lines)
    for line in panel.lines:
        places = [(x_of(x), y_of(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        parts.append(f'<path class="{_class(line, both)}" style="stroke: var(--c)" d="M'
                     + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) + '"/>')  # fmt: skip
        for (x, _), (low, high) in zip(places, line.spans, strict=False):
            if low < high:
                bar = f"M{x - 4:.1f} {y_of(low):.1f}h8m-4 0V{y_of(high):.1f}m-4 0h8"
                parts.append(f'<path class="{_colour(line)} bar" style="stroke: var(--c)" d="{bar}"/>')
        if line.dots:
            notes = line.notes or [
                f"{line.name}: {y:.3f} at {short(x)} {panel.x_label}" for x, y in zip(line.xs, line.ys, strict=True)
            ]
            parts.extend(_dot(line, x, y, note) for (x, y), note in zip(places, notes, strict=True))
    parts.append("</g>")
    legend = "".join(
        f'<span><svg viewBox="0 0 26 10"><path class="{_class(line, both)}" style="stroke: var(--c)" d="M1 5H25"/>'
        + (_dot(line, 13, 5) if line.dots else "")
        + f"</svg>{escape(line.name)}</span>"
        for line in panel.lines
    )  # fmt: skip
    return (
        f'<figure><h2>{escape(panel.title)}</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(panel.title)}">{"".join(parts)}</svg><figcaption>{legend}</figcaption></figure>'
    )


def _dot(line: Line, x: float, y: float, note: str = "") -> str:
    """Full, or hollow where the colours begin again."""
    fill = "var(--c)" if line.colour < len(COLOURS) else "var(--card)"
    title = f"<title>{escape(note)}</title>" if note else ""
    return (f'<circle class="{_colour(line)}" style="fill: {fill}; stroke: var(--c)" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"{title}</circle>")  # fmt: skip


def _colour(line: Line) -> str:
    return f"c{line.colour % len(COLOURS)}"


def _class(line: Line, both: bool) -> str:
    faint = " faint" if both and not line.dots else ""
    return f"{_colour(line)}{' dashed' if line.dashed else ''}{faint}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high, about so many: steps of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number with k, M, B or, beyond, as a power."""
    if abs(value) >= 1e12:
        return f"{value:.3g}".replace("e+", "e")
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
