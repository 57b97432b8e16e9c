"""Embeddings of a few test classes in the plane of their two principal components."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.reporting.plots import INK, dress, shown
from benchmarks.reporting.selection import Method, Selection


def has_plane(selection: Selection) -> bool:
    """Whether a record of the rows that are shown has it; older ones have not."""
    return bool(_in_a_plane(selection))


def plane_picture(selection: Selection, path: Path) -> None:
    """Points of the first seed: ours, the best of the others, and the floor."""
    methods = _in_a_plane(selection)
    figure = Figure(figsize=(1.2 + 3.6 * len(methods), 4.9), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(methods), squeeze=False).ravel()
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axis, method in zip(axes, methods, strict=True):
        plane = method.runs[method.seeds[0]]["plane"]
        points, class_idx = np.array(plane["points"]), np.array(plane["class_idx"])
        for place, name in enumerate(plane["classes"]):
            axis.plot(
                *points[class_idx == place].T,
                "o",
                ms=3.5,
                mew=0,
                alpha=0.8,
                color=colours[place],
                label=name.replace("$", r"\$"),  # starts no formula
            )
        dress(axis, f"{method.title}, {plane['variance']:.0%} of the variance", "")
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelbottom=False, labelleft=False)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(
        f"{selection.name}: embeddings of some test classes, two principal components, "
        f"seed {methods[0].seeds[0]}",
        color=INK,
        fontsize=11,
    )
    figure.savefig(path, metadata={"Software": None})


def _in_a_plane(selection: Selection) -> list[Method]:
    return [m for m in shown(selection) if "plane" in m.runs[m.seeds[0]]]
