"""The same panels as one PNG, drawn with matplotlib (the extra byteproxy[plots])."""

import importlib.util
import io
from collections.abc import Sequence

from shards.errors import ByteproxyError
from trainer.curves import Panel
from trainer.page import COLOURS, short

WIDTH, DOTS = 12.0, 100  # inches, and pixels each: to be read at 1,200 pixels
MOST_IN_LEGEND = 7  # names a line


def require_matplotlib() -> None:
    """Raises ByteproxyError where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ByteproxyError(
            "a PNG needs matplotlib, which is not installed: pip install 'byteproxy[plots]', or give --no-png"
        )


def png(title: str, panels: Sequence[Panel]) -> bytes:
    """The picture; the same panels give the same pixels. Raises ByteproxyError without matplotlib."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    fullest = max(panels, key=lambda panel: len(panel.lines))
    names = {line.name for line in fullest.lines}
    shared = len(panels) > 1 and all(line.name in names for panel in panels for line in panel.lines)
    lines = -(-len(names) // MOST_IN_LEGEND)  # of the legend
    height = 4.0 * rows + 0.4 + (0.25 * lines if shared else 0)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        x0, x1, y0, y1 = panel.ranges()
        both = any(line.dots for line in panel.lines)
        for line in panel.lines:
            colour, hollow = COLOURS[line.colour % len(COLOURS)][0], line.colour >= len(COLOURS)
            axes.plot(
                line.xs, line.ys, color=colour, label=line.name, linestyle="--" if line.dashed else "-",
                marker="o" if line.dots else None, markersize=5, markerfacecolor="white" if hollow else colour,
                linewidth=1.8 if line.dots or not both else 1.2, alpha=1.0 if line.dots or not both else 0.5, zorder=3,
            )  # fmt: skip
            if line.spans:
                off = [[abs(y - span[side]) for y, span in zip(line.ys, line.spans, strict=True)] for side in (0, 1)]
                axes.errorbar(line.xs, line.ys, off, color=colour, linestyle="none", capsize=3, elinewidth=1.2)
        if panel.rule is not None:
            axes.axhline(panel.rule, color="0.4", linestyle=":", linewidth=1)
        end = x1 if panel.around else x1 * 1.02
        axes.set(xlim=(x0, end), ylim=(y0, y1), xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_title(panel.title, fontsize=11)
        if panel.ticks:
            axes.set_xticks([place for place, _ in panel.ticks], [name for _, name in panel.ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if not shared:
            axes.legend(frameon=False, fontsize=9)
    if shared:
        handles, labels = grid[panels.index(fullest)].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(names) // lines), frameon=False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
