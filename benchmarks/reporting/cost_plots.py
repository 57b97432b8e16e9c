"""Time and peak memory by rows: a small panel for each loss, ours, pml's, and the product."""

from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.cost_losses import FLOOR, PAIRS, PRODUCT
from benchmarks.reporting.costs import Costs

INK, GRID = "#222222", "#e4e4e4"
COLUMNS = 4
FIELDS = {"milliseconds": "ms of a pass", "peak_mib": "peak MiB above the warm-up"}
LINES: dict[str, tuple[str, dict[str, Any]]] = {  # (label, style), drawn in this order
    FLOOR: ("X @ X.T, then S @ X", {"color": "#8c8c8c", "ls": ":", "lw": 1.4}),
    "theirs": ("pml's nearest", {"color": "#d95f02", "ls": "--", "marker": "s"}),
    "ours": ("ours", {"color": "#08519c", "ls": "-", "marker": "o"}),
}


def by_rows(costs: Costs, title: str, path: Path) -> None:
    """Both axes are logarithmic, and the same in all panels of a kind."""
    names = [name for name in PAIRS if any(key[0] == name for key in costs)]
    lines = ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(12, 2 * (1.75 * lines + 0.6)), layout="constrained", dpi=110)
    blocks = np.array(figure.subfigures(len(FIELDS), 1), ndmin=1)
    for block, (field, what) in zip(blocks, FIELDS.items(), strict=True):
        axes = block.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axis, name in zip_longest(axes.flat, names):
            if name is None:
                axis.set_visible(False)
            else:
                _panel(axis, costs, name, field)
        block.suptitle(what, fontsize=11, color=INK, x=0.01, ha="left")
    shown = {str(line.get_label()): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=len(LINES), frameon=False
    )
    figure.suptitle(f"Forward and backward by rows of the batch, {title}", fontsize=12, color=INK)
    figure.savefig(path, metadata={"Software": None})


def _panel(axis: Axes, costs: Costs, name: str, field: str) -> None:
    for side, (label, style) in LINES.items():
        loss = PRODUCT if side == FLOOR else name
        points = sorted(
            (rows, record[field])
            for (of, which, rows), record in costs.items()
            if (of, which) == (loss, side) and record[field]
        )
        if points:
            axis.plot(*zip(*points, strict=True), label=label, ms=2.8, **{"lw": 1.5, **style})
    axis.set(xscale="log", yscale="log")
    axis.set_title(name, fontsize=8.5, color=INK, loc="left")
    axis.xaxis.set_major_locator(FixedLocator([64, 256, 1024, 4096, 16384]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:,.0f}"))
    axis.yaxis.set_major_locator(LogLocator(numticks=6))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for kind in (axis.xaxis, axis.yaxis):
        kind.set_minor_locator(NullLocator())
    axis.grid(color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=7, colors=INK, length=0)
    axis.spines[:].set_visible(False)
