"""Cost records -> the table of costs by batch size, and the overview of what there is."""

from collections.abc import Mapping, Sequence

from benchmarks.cost import ATTENTION, PAIRS, SUBJECTS
from benchmarks.records import Record
from benchmarks.reporting.selection import Selection
from benchmarks.reporting.tables import MISSING, interval, markdown

OVERVIEW_ROWS = 256
OVERVIEW_DATASET = "omniglot"
PAPERS = {
    "PotentialFieldLoss": "[Potential field, CVPR 2025](https://arxiv.org/abs/2405.18560)",
    "LiftedStructureLoss": "[Lifted structure, CVPR 2016](https://arxiv.org/abs/1511.06452)",
    "GeneralizedLiftedStructureLoss": "[Generalized lifted structure, 2017]"
    "(https://arxiv.org/abs/1703.07737)",
    "IntraBatchConnectionsLoss": "[Intra-batch connections, ICML 2021]"
    "(https://arxiv.org/abs/2102.07753)",
}
RECIPE_OF = {
    "PotentialFieldLoss": "potential_field",
    "LiftedStructureLoss": "lifted_structure_raw",  # the distance of the paper
    "GeneralizedLiftedStructureLoss": "generalized_lifted_structure",
    "IntraBatchConnectionsLoss": "ibc",
}

Costs = dict[tuple[str, str, int], Record]


def newest(records: Sequence[Record]) -> Costs:
    """The last measurement of each loss, side and batch size."""
    return {(r["loss"], r["side"], r["rows"]): r for r in records}


def cost_table(costs: Costs) -> str:
    """Milliseconds / peak MiB by batch size, each loss above pml's nearest; "" for none."""
    titles: dict[tuple[str, str], str] = {}
    for name, pair in PAIRS.items():
        titles |= {(name, "ours"): f"`{name}`", (name, "theirs"): f"pml: {pair.nearest}"}
    return _by_rows(costs, titles)


def attention_table(costs: Costs) -> str:
    """The same of one network whose attention is computed in several ways; "" for none."""
    sides = SUBJECTS[ATTENTION].sides
    return _by_rows(costs, {(ATTENTION, side): about.title for side, about in sides.items()})


def _by_rows(costs: Costs, titles: Mapping[tuple[str, str], str]) -> str:
    sizes = sorted({rows for name, side, rows in costs if (name, side) in titles})
    table = []
    for key, title in titles.items():
        cells = {str(rows): _cell(costs.get((*key, rows))) for rows in sizes}
        if any(cell != MISSING for cell in cells.values()):
            table.append({"ms / MiB at rows": title, **cells})
    return markdown(table) if table else ""


def overview_table(costs: Costs, measured: Selection | None) -> str:
    """Every public loss: paper, class, cost, measured result, or a blank."""
    table = []
    for name, paper in PAPERS.items():
        ours, theirs = (costs.get((name, side, OVERVIEW_ROWS)) for side in ("ours", "theirs"))
        table.append(
            {
                "class": f"`{name}`",
                "paper": paper,
                f"cost at {OVERVIEW_ROWS} rows": _cell(ours),
                "nearest of pml": f"{_cell(theirs)} ({PAIRS[name].nearest})" if theirs else MISSING,
                "Omniglot Recall@1, %": _recall(RECIPE_OF[name], measured),
            }
        )
    return markdown(table)


def _cell(record: Mapping[str, float | None] | None) -> str:
    if record is None:
        return MISSING
    parts = []
    for field in ("milliseconds", "peak_mib"):
        value = record[field]
        parts.append(MISSING if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}")
    return f"{parts[0]} ms / {parts[1]} MiB"


def _recall(recipe: str, measured: Selection | None) -> str:
    for method in measured.methods if measured else ():
        if method.recipe == recipe:
            mean, half = interval([100 * v for v in method.values("recall_at_1")])
            spread = "" if half is None else f" ± {half:.1f}"
            return f"{mean:.1f}{spread} ({method.title})"
    return MISSING
