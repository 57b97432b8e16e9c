"""Learning curves, a few rows a panel and the others in grey behind them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from benchmarks.reporting.plots import COLOURS, CURVES, FLOOR, INK, dress, look
from benchmarks.reporting.selection import Method, Selection
from benchmarks.reporting.tables import interval

A_PANEL = 4  # rows at most
BEHIND = "#d9d9d9"


def panels(selection: Selection) -> list[list[Method]]:
    """The rows that were trained, in the order of the table."""
    trained = [method for method in selection.methods if len(_curves(method, "epoch")[0]) > 1]
    return [trained[start : start + A_PANEL] for start in range(0, len(trained), A_PANEL)]


def learning_curves(selection: Selection, path: Path) -> None:
    """Recall@1 and MAP@R of the test classes by training step; mean and range over seeds."""
    parts = panels(selection) or [[]]
    trained = [method for part in parts for method in part]
    figure = Figure(figsize=(1.4 + 2.7 * max(2, len(parts)), 6.6), layout="constrained", dpi=110)
    axes = figure.subplots(len(CURVES), len(parts), sharex=True, sharey="row", squeeze=False)
    for line, (metric, name) in zip(axes, CURVES.items(), strict=True):
        for axis, part in zip(line, parts, strict=True):
            for method in trained:
                if method not in part:
                    steps, curves = _by_step(selection, method, metric)
                    axis.plot(steps, curves.mean(0), color=BEHIND, lw=1, zorder=1)
            for method in part:
                _draw(axis, selection, method, metric)
            _floor(axis, selection, metric)
            dress(axis, "", "")
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        line[0].set_title(name, fontsize=10, color=INK, loc="left")
    for axis in axes[-1]:
        axis.set_xlabel("training step", fontsize=9, color=INK)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False, fontsize=8)
    seeds = len(selection.seeds)
    band = f"; band: range over {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(
        f"{selection.name}: learning curves, test classes{band}", color=INK, fontsize=12
    )
    figure.savefig(path, metadata={"Software": None})


def _draw(axis: Axes, selection: Selection, method: Method, metric: str) -> None:
    steps, curves = _by_step(selection, method, metric)
    axis.plot(steps, curves.mean(0), lw=1.8, label=method.title, **look(method))
    colour = look(method)["color"]
    axis.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)


def _floor(axis: Axes, selection: Selection, metric: str) -> None:
    for method in selection.methods:
        if method.recipe == FLOOR:
            mean, _ = interval(method.values(metric))
            axis.axhline(mean, color=COLOURS[FLOOR], ls=":", lw=1.4, label=method.title)


def _by_step(
    selection: Selection, method: Method, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(points,) and (seeds, points)."""
    curves = _curves(method, metric)
    return method.budget["iterations"] * np.arange(curves.shape[1]), curves


def _curves(method: Method, metric: str) -> NDArray[np.float64]:
    return np.array([[p[metric] for p in method.runs[s]["curve"]] for s in method.seeds])
