"""Pictures of the records: nearest neighbours, parts of a loss; how all of them look."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from benchmarks.neighbours import tiles
from benchmarks.reporting.selection import Method, Selection
from benchmarks.reporting.tables import interval

COLOURS = {
    "potential_field": "#08519c",
    "potential_field_4": "#3182bd",
    "potential_field_1": "#6baed6",
    "potential_field_0": "#9ecae1",
    "potential_field_5": "#2171b5",
    "potential_field_10": "#08306b",
    "potential_field_30": "#041f45",
    "potential_field_alpha_0": "#fee391",
    "potential_field_alpha_0.5": "#fec44f",
    "potential_field_alpha_1": "#fe9929",
    "potential_field_alpha_2": "#ec7014",
    "potential_field_alpha_4": "#993404",
    "potential_field_alpha_5": "#662506",
    "potential_field_alpha_6": "#3d1603",
    "pfml": "#0b3d91",
    "pfml_2": "#4292c6",
    "lifted_structure": "#006d2c",
    "lifted_structure_pml": "#74c476",
    "lifted_structure_raw": "#238b45",
    "generalized_lifted_structure": "#41ae76",
    "ibc": "#01665e",
    "ibc_auxiliary": "#8c510a",
    "ibc_no_attention": "#bf812d",
    "ibc_null_neighbour": "#35978f",
    "ibc_2_layers": "#80cdc1",
    "ibc_network_only": "#dfc27d",
    "ibc_released": "#e7298a",
    "ensemble_simplex": "#17202a",
    "ensemble_squared": "#5d6d7e",
    "ensemble_heads": "#6c3483",
    "ensemble_compressed": "#bb8fce",
    "ensemble_uniform": "#1f618d",
    "ensemble_uncertainty": "#b7950b",
    "ensemble_non_negative_uncertainty": "#f4d03f",
    "ensemble_gradnorm": "#0e6655",
    "ensemble_dwa": "#48c9b0",
    "ensemble_random": "#aab7b8",
    "ensemble_mgda": "#5499c7",
    "classification": "#922b21",
    "triplet_margin_1": "#f0b27a",
    "binomial_deviance": "#d35400",
    "smoothed_proxy_nca": "#af7ac5",
    "gsp": "#4a1486",
    "gsp_zero_shot": "#c51b8a",
    "gsp_zero_shot_memory": "#f768a1",
    "average_pooling": "#1b9e77",
    "max_pooling": "#d9a404",
    "gem_pooling": "#7f5539",
    "untrained_pooling": "#bdbdbd",
    "contrastive": "#e6550d",
    "triplet_semihard": "#fdae6b",
    "multi_similarity": "#a50f15",
    "proxy_anchor": "#756bb1",
    "normalized_softmax": "#c994c7",
    "untrained": "#636363",
}
INK, GRID, RIGHT, WRONG = "#222222", "#e4e4e4", "#2ca25f", "#de2d26"
CURVES = {"recall_at_1": "Recall@1", "mean_average_precision_at_r": "MAP@R"}
FLOOR = "untrained"
PML, OURS = "pytorch_metric_learning", "pml_extras"
GAP = 0.3  # of a tile, between a query and its neighbours


def contact_sheet(selection: Selection, path: Path) -> None:
    """Fixed queries with their nearest neighbours: ours, the best of the others, the floor."""
    methods = shown(selection)
    sheets = [method.runs[method.seeds[0]]["neighbours"] for method in methods]
    rows, columns = len(sheets[0]["correct"]), len(sheets[0]["correct"][0]) + 1
    width = 4.6
    height = width * rows / (columns + GAP) + 0.85  # titles
    figure = Figure(figsize=(width * len(methods), height), layout="constrained", dpi=150)
    axes = np.atleast_1d(figure.subplots(1, len(methods)))
    for axis, method, sheet in zip(axes, methods, sheets, strict=True):
        right = np.array(sheet["correct"])
        _tiles(axis, tiles(sheet["png"], rows, columns), right)
        axis.set_title(
            f"{method.title}\n{right.sum()} of {right.size} right", fontsize=10, color=INK
        )
    figure.suptitle(
        f"{selection.dataset}: test queries (left) and their nearest neighbours, "
        f"seed {methods[0].seeds[0]}; green right, red wrong",
        fontsize=11,
        color=INK,
    )
    figure.savefig(path, metadata={"Software": None})


def has_statistics(selection: Selection) -> bool:
    """Whether a loss recorded any."""
    return any(map(_statistics, selection.methods))


def loss_statistics(selection: Selection, path: Path) -> None:
    """Each recorded statistic of a loss by epoch, one panel each."""
    recorded = {m.recipe: s for m in selection.methods if (s := _statistics(m))}
    names = list(dict.fromkeys(name for found in recorded.values() for name in found))
    width = 2 if len(names) == 4 else min(3, len(names))
    height = -(-len(names) // width)
    figure = Figure(figsize=(3.7 * width, 2.7 * height + 0.7), layout="constrained", dpi=150)
    axes = figure.subplots(height, width, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        for method in selection.methods:
            if name in recorded.get(method.recipe, {}):
                curves = recorded[method.recipe][name]
                epochs = np.arange(1, curves.shape[1] + 1)
                axis.plot(epochs, curves.mean(0), lw=1.8, label=method.title, **look(method))
                axis.fill_between(
                    epochs,
                    curves.min(0),
                    curves.max(0),
                    alpha=0.15,
                    lw=0,
                    color=look(method)["color"],
                )
        kind, *of = name.split("_")
        of_what = " to ".join(of) if kind == "excess" else " ".join(of)
        dress(axis, f"{kind}, {of_what}", "epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=4 if width > 2 else 2,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(
        f"{selection.dataset}: parts of the training loss, mean of an epoch", fontsize=12, color=INK
    )
    figure.savefig(path, metadata={"Software": None})


def shown(selection: Selection) -> list[Method]:
    """The first method, the best by MAP@R of those of pml, and the floor."""
    first, *others = selection.methods
    foreign = [m for m in others if _package(m) == PML]
    best = sorted(foreign, key=lambda m: -_last(m, "mean_average_precision_at_r"))[:1]
    return [first, *best, *(m for m in others if m.recipe == FLOOR)]


def _package(method: Method) -> str:
    """Of the loss, or of the pooling where that is ours."""
    settings = method.runs[method.seeds[0]]["settings"]
    made = [settings["loss"], settings.get("pooling")]
    packages = [str(part["class"]).split(".")[0] for part in made if part is not None]
    return OURS if OURS in packages else packages[0] if packages else ""


def _last(method: Method, metric: str) -> float:
    return interval(method.values(metric))[0]


def _statistics(method: Method) -> dict[str, NDArray[np.float64]]:
    """(seeds, epochs) by name, of the statistics that are always positive, as a log axis needs."""
    curves = [method.runs[seed]["curve"][1:] for seed in method.seeds]
    names = curves[0][-1]["statistics"] if curves[0] else {}
    found = {n: np.array([[p["statistics"][n] for p in curve] for curve in curves]) for n in names}
    return {name: values for name, values in found.items() if (values > 0).all()}


def look(method: Method) -> dict[str, Any]:
    """Solid lines are ours, dashed ones pml's, on top where both coincide."""
    ours = _package(method) != PML
    return {
        "color": COLOURS.get(method.recipe, INK),
        "ls": "-" if ours else "--",
        "zorder": 2 if ours else 3,
    }


def dress(axis: Axes, title: str, xlabel: str) -> None:
    """Title and label, a grid and no frame."""
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel(xlabel, fontsize=9, color=INK)
    axis.grid(color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.spines[:].set_visible(False)


def _tiles(
    axis: Axes,
    pictures: NDArray[np.uint8],
    right: NDArray[np.bool_],
) -> None:
    """Queries in the left column, a gap, then neighbours in coloured frames."""
    rows, columns = pictures.shape[:2]
    for row in range(rows):
        for column in range(columns):
            left = column + GAP * (column > 0)
            axis.imshow(
                255 - pictures[row, column],
                cmap="gray",
                vmin=0,
                vmax=255,
                extent=(left + 0.08, left + 0.92, row + 0.92, row + 0.08),
                interpolation="antialiased",
            )
            colour = INK if column == 0 else RIGHT if right[row, column - 1] else WRONG
            frame = Rectangle((left + 0.05, row + 0.05), 0.9, 0.9, fill=False, ec=colour, lw=1.8)
            axis.add_patch(frame)
    axis.set(xlim=(0, columns + GAP), ylim=(rows, 0), aspect="equal")
    axis.axis("off")
