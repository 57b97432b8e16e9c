"""Forest plot: how far each row of a table is from the row that all are compared with."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.plots import CURVES, INK, dress, look
from benchmarks.reporting.selection import Method, Selection
from benchmarks.reporting.tables import interval, reference


def compared(selection: Selection) -> tuple[Method, list[Method]]:
    """The reference and, in the order of the table, the others that share a seed with it."""
    first, _ = reference(selection)
    others = [m for m in selection.methods if m is not first and set(m.runs) & set(first.runs)]
    return first, others


def forest(selection: Selection, path: Path) -> None:
    """Paired differences in Recall@1 and MAP@R: mean, 95 % t-interval over seeds, and each seed."""
    first, others = compared(selection)
    figure = Figure(figsize=(11, 2.2 + 0.34 * len(others)), layout="constrained", dpi=110)
    axes: Sequence[Axes] = figure.subplots(1, len(CURVES), sharey=True)
    for axis, (metric, name) in zip(axes, CURVES.items(), strict=True):
        for row, method in enumerate(others):
            colour = look(method)["color"]
            points = [100 * difference for difference in method.minus(first, metric)]
            mean, half = interval(points)
            axis.errorbar(
                mean, row, xerr=half, fmt="o", color=colour, ms=6, capsize=4, lw=1.8, zorder=3
            )
            above = [row - 0.24] * len(points)  # the axis points down
            axis.plot(points, above, "o", color=colour, ms=3, alpha=0.5, mew=0)
        axis.axvline(0, color=INK, lw=1, zorder=1)
        dress(axis, f"{name}, points more than {first.title}", "")
        axis.set_yticks(range(len(others)), [method.title for method in others])
    axes[0].set_ylim(len(others) - 0.5, -0.5)  # the first row is the highest
    figure.suptitle(
        f"{selection.name}: paired differences, mean and 95 % t-interval; small dots: seeds",
        color=INK,
        fontsize=12,
    )
    figure.savefig(path, metadata={"Software": None})
