"""Markdown tables with 95 % t-intervals over seeds, and their place between two markers."""

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.stats import t as student

from benchmarks.recipes import TABLES
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
    """Heading line, table of results, table of paired differences, what they say, and notes, as
    Markdown."""
    parts = [_heading(selection), _results(selection)]
    if differences := _differences(selection):
        parts += [
            f"Difference to {selection.methods[0].title} on the same seeds, in points "
            "(mean ± half a 95 % t-interval of the paired differences):",
            differences,
        ]
    pairs = TABLES[selection.dataset].said if selection.dataset in TABLES else ()
    if said := in_words(selection, pairs):
        parts.append(said)
    return "\n\n".join([*parts, *_flattered(selection), *selection.notes])


def _heading(selection: Selection) -> str:
    budget, seeds = selection.budget, selection.seeds
    devices = {run["device"] for method in selection.methods for run in method.runs.values()}
    per_class = budget["images_per_class"]
    optimizer = (
        f"{budget['optimizer']} with weight decay {budget.get('weight_decay', 0.0):.3g}, "
        if "optimizer" in budget
        else ""
    )
    by_validation = any(method.selected_on == "validation" for method in selection.methods)
    when = "at the epoch that validation classes chose" if by_validation else "after the last epoch"
    return (
        f"Embedding size {budget['embedding_size']}, batch {budget['batch_size']} "
        f"({budget['batch_size'] // per_class} classes x {per_class}), "
        f"{budget['epochs'] * budget['iterations']} iterations, {optimizer}"
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}), "
        f"{'; '.join(sorted(devices))}. Metrics of the test classes {when}, in %, "
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
    rows = [
        {
            "method": other.title,
            **{name: _percent(other.minus(first, COLUMNS[name]), sign="+") for name in COMPARED},
        }
        for other in others
        if set(first.runs) & set(other.runs)
    ]
    return markdown(rows) if rows else ""


def in_words(selection: Selection, pairs: Sequence[tuple[str, str]]) -> str:
    """What paired differences allow one to say; "" where no pair shares two seeds."""
    methods = {method.recipe: method for method in selection.methods}
    lines = [
        f"- {name}: {methods[one].title} minus {methods[other].title} {verdict}."
        for one, other in pairs
        if one in methods and other in methods
        for name in COMPARED
        if (verdict := _verdict(methods[one].minus(methods[other], COLUMNS[name])))
    ]
    if not lines:
        return ""
    return "\n".join(
        [
            f"In words, from the 95 % t-intervals of the paired differences ({len(lines)} "
            "comparisons, looked at one by one: no correction for several):",
            "",
            *lines,
        ]
    )


def _verdict(differences: Sequence[float]) -> str:
    """Interval and what it allows to say; empty where there is none."""
    mean, half = interval([100 * value for value in differences]) if differences else (0.0, None)
    if half is None:
        return ""
    found = f"{mean:+.2f} ± {half:.2f} points over {len(differences)} seeds"
    if abs(mean) > half:
        return f"{found}: the interval excludes 0, {'higher' if mean > 0 else 'lower'}"
    return f"{found}: the interval contains 0, no difference shown at these seeds"


def _flattered(selection: Selection) -> list[str]:
    return [
        f"{method.title}: each run is reported at the epoch with the best Recall@1 of the test "
        "classes, which also chose the weights it was reloaded with, as released. That flatters "
        "it, and its difference to any other row."
        for method in selection.methods
        if method.selected_on == "test"
    ]


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
