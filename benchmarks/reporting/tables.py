"""Markdown tables with 95 % t-intervals over seeds, and their place between two markers."""

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.stats import t as student

from benchmarks.reporting.selection import Method, Selection

COLUMNS = {
    "Recall@1": "recall_at_1",
    "Recall@2": "recall_at_2",
    "Recall@4": "recall_at_4",
    "Recall@8": "recall_at_8",
    "MAP@R": "mean_average_precision_at_r",
    "R-precision": "r_precision",
    "NMI": "NMI",
}
MISSING = "\N{EN DASH}"
COMPARED = ("Recall@1", "MAP@R")


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % t-interval; None for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(student.ppf(0.975, len(values) - 1)) * error


def table(selection: Selection) -> str:
    """Heading line, table of results, table of paired differences and notes, as Markdown."""
    parts = [_heading(selection), _results(selection)]
    if differences := _differences(selection):
        parts += [
            f"Difference to {selection.methods[0].title} on the same seeds, in points "
            "(mean ± half a 95 % t-interval of the paired differences):",
            differences,
        ]
    return "\n\n".join([*parts, *selection.notes])


def _heading(selection: Selection) -> str:
    budget, seeds = selection.budget, selection.seeds
    devices = {run["device"] for method in selection.methods for run in method.runs.values()}
    per_class = budget["images_per_class"]
    return (
        f"Embedding size {budget['embedding_size']}, batch {budget['batch_size']} "
        f"({budget['batch_size'] // per_class} classes x {per_class}), "
        f"{budget['epochs'] * budget['iterations']} iterations, "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}), "
        f"{'; '.join(sorted(devices))}. Metrics of the test classes after the last epoch, in %, "
        "mean ± half a 95 % t-interval over seeds."
    )


def _results(selection: Selection) -> str:
    columns = {
        name: metric
        for name, metric in COLUMNS.items()
        if all(metric in run["metrics"] for m in selection.methods for run in m.runs.values())
    }
    rows = [
        {
            "method": _title(method, selection),
            **{name: _percent(method.values(metric)) for name, metric in columns.items()},
            "ms per step": _cost(method, "seconds_per_training_step_median", 1e3),
            "peak MiB": _cost(method, "training_peak_mib", 1.0),
        }
        for method in selection.methods
    ]
    return markdown(rows)


def _differences(selection: Selection) -> str:
    """Every other method minus the first one; "" where no two share a seed."""
    first, *others = selection.methods
    rows = []
    for other in others:
        shared = sorted(set(first.runs) & set(other.runs))
        if shared:
            row = {"method": other.title}
            for name in COMPARED:
                row[name] = _percent(
                    [
                        other.runs[seed]["metrics"][COLUMNS[name]]
                        - first.runs[seed]["metrics"][COLUMNS[name]]
                        for seed in shared
                    ],
                    sign="+",
                )
            rows.append(row)
    return markdown(rows) if rows else ""


def _title(method: Method, selection: Selection) -> str:
    if method.seeds == selection.seeds:
        return method.title
    return f"{method.title} (seeds {', '.join(map(str, method.seeds))} only)"


def _percent(values: Sequence[float], sign: str = "") -> str:
    mean, half = interval([100 * value for value in values])
    return f"{mean:{sign}.1f}" + ("" if half is None else f" ± {half:.1f}")


def _cost(method: Method, field: str, factor: float) -> str:
    values = [run[field] for run in method.runs.values() if run[field] is not None]
    return f"{factor * statistics.median(values):.0f}" if values else MISSING


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table with the first column to the left."""
    frame = pd.DataFrame(list(rows))
    align = ["left", *["right"] * (len(frame.columns) - 1)]
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=align))


def _between(dataset: str) -> re.Pattern[str]:
    start, end = (f"<!-- table:{dataset}:{edge} -->" for edge in ("start", "end"))
    return re.compile(f"(?<={re.escape(start)})(.*?)(?={re.escape(end)})", re.DOTALL)


def has_place(path: Path, dataset: str) -> bool:
    """Whether the file has the two markers of this data set."""
    return path.is_file() and bool(_between(dataset).search(path.read_text(encoding="utf-8")))


def is_current(path: Path, dataset: str, text: str) -> bool:
    """Whether the file holds exactly this table."""
    found = _between(dataset).search(path.read_text(encoding="utf-8"))
    return found is not None and found.group(1).strip() == text.strip()


def write(path: Path, dataset: str, text: str) -> None:
    """Put the table between the markers; nothing else of the file changes."""
    page = path.read_text(encoding="utf-8")
    path.write_text(
        _between(dataset).sub(lambda _: f"\n\n{text}\n\n", page, count=1), encoding="utf-8"
    )
