"""The same panels as one PNG, drawn with matplotlib (the extra byteproxy[plots])."""

import io
from collections.abc import Sequence

from shards.errors import ByteproxyError
from trainer.curves import Panel
from trainer.page import COLOURS, short


def png(title: str, panels: Sequence[Panel]) -> bytes:
    """The picture; the same panels give the same pixels. Raises ByteproxyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError:
        raise ByteproxyError(
            "a PNG needs matplotlib, which is not installed: pip install 'byteproxy[plots]', or give --no-png"
        ) from None
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.2 * columns, 4.1 * rows + 0.4), dpi=110, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        x0, x1, y0, y1 = panel.ranges()
        both = any(line.dots for line in panel.lines)
        for line in panel.lines:
            axes.plot(
                line.xs, line.ys, color=COLOURS[line.colour % len(COLOURS)][0], label=line.name,
                linestyle="--" if line.dashed else "-", marker="o" if line.dots else None, markersize=4,
                linewidth=1.8 if line.dots or not both else 1.2, alpha=1.0 if line.dots or not both else 0.5,
            )  # fmt: skip
        axes.set(xlim=(x0, x1 * 1.02), ylim=(y0, y1), title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
