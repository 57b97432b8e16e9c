"""Records of ``benchmarks.evaluation_cost`` -> a section of docs/cost.md."""

from collections.abc import Sequence

from benchmarks.evaluation_cost import CLASSES, RECALL_AT
from benchmarks.records import Record
from benchmarks.reporting.tables import MISSING, markdown

TITLES = {"ours": "`RetrievalAccuracyCalculator`", "pml": "pml: AccuracyCalculator"}
SHOWN = {
    **{f"recall_at_{at}": f"Recall@{at}" for at in RECALL_AT},
    "mean_average_precision_at_r": "MAP@R",
    "r_precision": "R-precision",
}


def section(records: Sequence[Record]) -> list[str]:
    """Paragraphs; none without records."""
    newest = {r["evaluation"]: r for r in records if r["classes"] == CLASSES}
    if not newest:
        return []
    first = next(iter(newest.values()))
    lines = [
        {"": TITLES[side], "time": f"{r['seconds']:.0f} s", "above the embeddings": _peak(r)}
        | {title: _value(r, name) for name, title in SHOWN.items()}
        for side in TITLES
        if (r := newest.get(side)) is not None
    ]
    return [
        "## Evaluation at the scale of Stanford Online Products",
        f"{first['rows']:,} queries against each other, {first['classes']:,} classes, "
        f"{first['dim']} dimensions, on {first['device']}, each in a fresh process "
        "(`python -m benchmarks.evaluation_cost`); the embeddings are drawn around centres of "
        f"their classes. pml is asked for as many neighbours ({max(RECALL_AT):,}) and for what it "
        "has; its precision at 1 is Recall@1.",
        markdown(lines),
    ]


def _peak(record: Record) -> str:
    return MISSING if record["peak_mib"] is None else f"{record['peak_mib']:,.0f} MiB"


def _value(record: Record, name: str) -> str:
    metrics = {"recall_at_1": record["metrics"]["precision_at_1"], **record["metrics"]}
    return f"{100 * metrics[name]:.2f} %" if name in metrics else MISSING
