"""Cost records -> the table of costs by batch size, and the overview of what there is."""

from collections.abc import Collection, Mapping, Sequence

from benchmarks import pooling_cost
from benchmarks.cost_losses import BARE_SUM, ENSEMBLE, FLOOR, OF_EMBEDDINGS, PAIRS, PRODUCT
from benchmarks.cost_subjects import ATTENTION, LARGE_BATCH, POOLING_STEP, POOLINGS, SUBJECTS
from benchmarks.records import FLOAT32, Record
from benchmarks.reporting.selection import Selection
from benchmarks.reporting.tables import MISSING, interval, markdown

OVERVIEW_ROWS, README_ROWS = 256, (256, 1024, 4096)
OVERVIEW_DATASETS = ("omniglot", "omniglot_ensemble", "omniglot_collage")
ONE_BUDGET = ("omniglot", "omniglot_ensemble")  # and the same images
POOLING = "GeneralizedSumPooling"
GSP = "[Generalized sum pooling, ICCV 2023](https://arxiv.org/abs/2308.09228)"
PAPERS = {
    "PotentialFieldLoss": "[Potential field, CVPR 2025](https://arxiv.org/abs/2405.18560)",
    "LiftedStructureLoss": "[Lifted structure, CVPR 2016](https://arxiv.org/abs/1511.06452)",
    "GeneralizedLiftedStructureLoss": "[Generalized lifted structure, 2017]"
    "(https://arxiv.org/abs/1703.07737)",
    "IntraBatchConnectionsLoss": "[Intra-batch connections, ICML 2021]"
    "(https://arxiv.org/abs/2102.07753)",
    "WeightedLossEnsemble": "[Ensemble of losses, 2023](https://arxiv.org/abs/2107.01130)",
    "BinomialDevianceLoss": "[Binomial deviance, 2014](https://arxiv.org/abs/1407.4979)",
    "ClassificationLoss": "[Ensemble of losses, 2023](https://arxiv.org/abs/2107.01130)",
    "SmoothedProxyNCALoss": "[Proxy-NCA, ICCV 2017](https://arxiv.org/abs/1703.07464), smoothed in "
    "[Ensemble of losses, 2023](https://arxiv.org/abs/2107.01130)",
    "DistancePreservingLoss": "[Ensemble of losses, 2023](https://arxiv.org/abs/2107.01130)",
    "NTXentLoss": "[SimCLR, ICML 2020](https://arxiv.org/abs/2002.05709)",
    "TupletMarginLoss": "Tuplet margin, ICCV 2019",
    "SmoothAPLoss": "[Smooth-AP, ECCV 2020](https://arxiv.org/abs/2007.12163)",
    "PNPLoss": "[PNP, AAAI 2022](https://arxiv.org/abs/2102.04640)",
    "SignalToNoiseRatioContrastiveLoss": "[Signal-to-noise ratio, CVPR 2019]"
    "(https://arxiv.org/abs/1904.02616)",
    "ZeroShotPredictionLoss": GSP,
    "DelayedMemoryLoss": "[Cross-batch memory, CVPR 2020](https://arxiv.org/abs/1912.06798), as in "
    + GSP,
}
RECIPE_OF = {  # those that were trained
    "PotentialFieldLoss": "potential_field",
    "LiftedStructureLoss": "lifted_structure_raw",  # the distance of the paper
    "GeneralizedLiftedStructureLoss": "generalized_lifted_structure",
    "IntraBatchConnectionsLoss": "ibc",
    "WeightedLossEnsemble": "ensemble_simplex",
    "BinomialDevianceLoss": "binomial_deviance",
    "ClassificationLoss": "classification",
    "SmoothedProxyNCALoss": "smoothed_proxy_nca",
    "DistancePreservingLoss": "ensemble_compressed",  # one of its terms
    "ZeroShotPredictionLoss": "gsp_zero_shot",
    "DelayedMemoryLoss": "gsp_zero_shot_memory",
}

OF_100_CLASSES = " (100 classes)"
Costs = dict[tuple[str, str, int], Record]


def newest(records: Sequence[Record], dtype: str = FLOAT32) -> Costs:
    """The last measurement of each loss, side and batch size on embeddings of this type.

    A side that was measured with its classes by the batch has no older ones of another batch size
    with labels of at most 100 classes: two kinds do not stand in a row.
    """
    found = {
        (r["loss"], r["side"], r["rows"]): r for r in records if r.get("dtype", FLOAT32) == dtype
    }
    again = {key[:2] for key, r in found.items() if not is_of_100_classes(r)}
    return {k: r for k, r in found.items() if k[:2] not in again or not is_of_100_classes(r)}


def is_of_100_classes(record: Record) -> bool:
    """Whether a loss was measured when labels and proxies had at most 100 classes."""
    return record["loss"] in OF_EMBEDDINGS and "classes" not in record


def mark(costs: Costs, name: str, side: str) -> str:
    """What a title says of such a side."""
    found = (r for key, r in costs.items() if key[:2] == (name, side))
    return OF_100_CLASSES if any(map(is_of_100_classes, found)) else ""


def cost_table(costs: Costs, sizes: Collection[int] = ()) -> str:
    """Milliseconds / peak MiB by batch size (of ``sizes`` alone), the product and then each loss
    above pml's nearest; "" for none."""
    chosen = {key: r for key, r in costs.items() if not sizes or key[2] in sizes}
    return _by_rows(chosen, titles_of_losses())


def titles_of_losses() -> dict[tuple[str, str], str]:
    """By loss and side, in the order of the table."""
    titles = {(PRODUCT, FLOOR): SUBJECTS[PRODUCT].sides[FLOOR].title}
    for name, pair in PAIRS.items():
        titles[name, "ours"] = f"`{name}`"
        if pair.nearest:  # also of a loss that the installed pml lacks: records are of another
            titles[name, "theirs"] = f"pml: {pair.nearest}"
    return titles


def floor_table(costs: Costs) -> str:
    """How many times longer than the product a loss takes beside it; "" where not measured."""
    lifted = {
        rows: r for (name, side, rows), r in costs.items() if (name, side) == (PRODUCT, "lifted")
    }
    cells = {
        str(rows): f"{r['milliseconds'] / costs[PRODUCT, FLOOR, rows]['milliseconds']:.2f}x"
        for rows, r in sorted(lifted.items())
        if (PRODUCT, FLOOR, rows) in costs
    }
    title = f"`{SUBJECTS[PRODUCT].sides['lifted'].title}`"
    return markdown([{"times the product, at rows": title, **cells}]) if cells else ""


def attention_table(costs: Costs) -> str:
    """The same of one network whose attention is computed in several ways; "" for none."""
    return _sides_by_rows(costs, ATTENTION)


def large_batch_table(costs: Costs) -> str:
    """The same of a network and a loss in one pass and in chunks; "" for none."""
    return _sides_by_rows(costs, LARGE_BATCH)


def _sides_by_rows(costs: Costs, name: str) -> str:
    sides = SUBJECTS[name].sides
    return _by_rows(costs, {(name, side): about.title for side, about in sides.items()})


def ensemble_table(costs: Costs) -> str:
    """Milliseconds of each strategy, and what it adds to those of the bare sum of its losses; ""
    where that was not measured."""
    sizes = sorted({rows for name, side, rows in costs if (name, side) == (ENSEMBLE, BARE_SUM)})
    table = []
    for side, about in SUBJECTS[ENSEMBLE].sides.items():
        cells = {str(rows): _over_the_sum(costs, side, rows) for rows in sizes}
        title = about.title + mark(costs, ENSEMBLE, side)
        table.append({"ms, and more than the bare sum, at rows": title, **cells})
    return markdown(table) if sizes else ""


def _over_the_sum(costs: Costs, side: str, rows: int) -> str:
    record = costs.get((ENSEMBLE, side, rows))
    if record is None:
        return MISSING
    ms, bare = (r["milliseconds"] for r in (record, costs[ENSEMBLE, BARE_SUM, rows]))
    more = "" if side == BARE_SUM else f", {100 * (ms / bare - 1):+.1f} %"
    return f"{ms:.2f} ms{more}"


def pooling_table(costs: Costs) -> str:
    """Pooling of both shapes and a training step, and how many times more than what stands first
    of its kind; "" where nothing was measured."""
    first = {"weights_unrolled": "weights", "layer_unrolled": "layer"}
    table = []
    for side, about in SUBJECTS[next(iter(POOLINGS))].sides.items():
        cells = {}
        for name, (rows, locations, size, prototypes) in POOLINGS.items():
            title = f"B {rows}, n {locations}, d {size}, m {prototypes}"
            cells[title] = _times_more(costs, (name, side, rows), first.get(side))
        table.append({"ms / MiB": about.title, **cells})
    measured = any((name, "weights", shape[0]) in costs for name, shape in POOLINGS.items())
    step = _step_sentence(costs)
    return "\n\n".join(part for part in (markdown(table) if measured else "", step) if part)


def _times_more(costs: Costs, key: tuple[str, str, int], first: str | None) -> str:
    record = costs.get(key)
    if record is None or first is None:
        return _cell(record)
    base = costs[key[0], first, key[2]]
    ratios = [
        f"{record[field] / base[field]:.1f}x its {what}"
        for field, what in (("milliseconds", "time"), ("peak_mib", "memory"))
        if record[field] and base[field]
    ]
    return ", ".join([_cell(record), *ratios])


def _step_sentence(costs: Costs) -> str:
    sides, (rows,) = SUBJECTS[POOLING_STEP].sides, SUBJECTS[POOLING_STEP].batches
    both = [costs.get((POOLING_STEP, side, rows)) for side in ("average", "layer")]
    if None in both:
        return ""
    average, layer = (record["milliseconds"] for record in both if record)
    return (
        f"One training step of torchvision's resnet50, {rows} images of {pooling_cost.PIXELS} "
        f"pixels: {average:.0f} ms with average pooling and a linear layer, {layer:.0f} ms with "
        f"{sides['layer'].title.split(', ')[1]}"
        + (f", {100 * (layer / average - 1):+.1f} %." if layer > average else ": no share shows.")
    )


def _by_rows(costs: Costs, titles: Mapping[tuple[str, str], str]) -> str:
    sizes = sorted({rows for name, side, rows in costs if (name, side) in titles})
    table = []
    for key, title in titles.items():
        cells = {str(rows): _cell(costs.get((*key, rows))) for rows in sizes}
        if any(cell != MISSING for cell in cells.values()):
            table.append({"ms / MiB at rows": title + mark(costs, *key), **cells})
    return markdown(table) if table else ""


def overview_table(costs: Costs, measured: Sequence[Selection], verdicts: Mapping[str, str]) -> str:
    """Every public loss and pooling: paper, class, cost, measured result where one was first found,
    and what became of its paper's claims, by class; or a blank."""
    keys = {
        name: ((name, "ours", OVERVIEW_ROWS), (name, "theirs", OVERVIEW_ROWS)) for name in PAPERS
    }
    nearest = {name: pair.nearest for name, pair in PAIRS.items()}
    pooling, shape = next(iter(POOLINGS.items()))
    keys[POOLING] = ((pooling, "layer", shape[0]), (pooling, "average", shape[0]))
    nearest[POOLING] = SUBJECTS[pooling].sides["average"].title
    table = []
    for name, paper in {**PAPERS, POOLING: GSP}.items():
        ours, theirs = (costs.get(key) for key in keys[name])
        old, theirs_old = (mark(costs, *key[:2]) for key in keys[name])
        table.append(
            {
                "class": f"`{name}`",
                "paper": paper,
                f"cost at {OVERVIEW_ROWS} rows": _cell(ours)
                + old
                + (f" ({shape[0]} images of {shape[1]} places)" if name == POOLING else ""),
                "nearest of pml": f"{_cell(theirs)} ({nearest[name]}){theirs_old}"
                if theirs
                else MISSING,
                "Omniglot Recall@1, %": _recall({**RECIPE_OF, POOLING: "gsp"}.get(name), measured),
                "claims of the paper": verdicts.get(name, MISSING),
            }
        )
    return markdown(table)


def _cell(record: Record | None) -> str:
    if record is None:
        return MISSING
    parts = []
    for field in ("milliseconds", "peak_mib"):
        value = record[field]
        parts.append(MISSING if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}")
    return f"{parts[0]} ms / {parts[1]} MiB"


def _recall(recipe: str | None, measured: Sequence[Selection]) -> str:
    for selection in measured:
        for method in selection.methods:
            if method.recipe == recipe:
                mean, half = interval([100 * v for v in method.values("recall_at_1")])
                spread = "" if half is None else f" ± {half:.1f}"
                where = "" if selection.dataset in ONE_BUDGET else ", on collages: another task"
                return f"{mean:.1f}{spread} ({method.title}{where})"
    return MISSING
