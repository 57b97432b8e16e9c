"""Markdown tables with 95 % t-intervals over seeds, and their place between two markers."""

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.stats import t as student

from benchmarks.quadrants import UNIFORM, WEIGHT_ON_TARGET
from benchmarks.recipes import TABLES, baselines
from benchmarks.recipes.claimed import CLAIMED
from benchmarks.recipes.claims import claims_on
from benchmarks.recipes.tables import Table
from benchmarks.reporting.heading import heading, own_budgets
from benchmarks.reporting.judge import Judgement, judge
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
OF_SOME_ROWS = {"weight on target": WEIGHT_ON_TARGET}
MISSING = "\N{EN DASH}"
BASELINES = tuple(recipe.name for recipe in baselines.RECIPES if recipe.loss is not None)
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
    parts = [heading(selection), _results(selection)]
    first, chosen = reference(selection)
    if not selection.budget:
        parts.append(own_budgets(selection))
    elif differences := _differences(selection, first):
        parts += [
            f"Difference to {first.title}{chosen} on the same seeds, in points "
            "(mean ± half a 95 % t-interval of the paired differences):",
            differences,
        ]
    if said := claims_in_words(selection):
        parts.append(said)
    if aimed := on_target(selection):
        parts.append(aimed)
    return "\n\n".join([*parts, *_sources(selection), *_flattered(selection), *selection.notes])


def _results(selection: Selection) -> str:
    columns = {
        name: metric
        for name, metric in COLUMNS.items()
        if all(method.has(metric) for method in selection.methods)
    }
    of_some = {
        name: metric
        for name, metric in OF_SOME_ROWS.items()
        if any(method.has(metric) for method in selection.methods)
    }
    claimed = _claimed(selection)
    rows = [
        {
            "method": _title(method, selection),
            **({"claimed Recall@1": claimed.get(method.recipe, ("", ""))[0]} if claimed else {}),
            **{
                name: percent(method.values(metric)) if method.has(metric) else MISSING
                for name, metric in (columns | of_some).items()
            },
            "ms per step": _cost(method, "seconds_per_training_step_median", 1e3),
            "peak MiB": _cost(method, "training_peak_mib", 1.0),
        }
        for method in selection.methods
    ]
    return markdown(rows)


def _claimed(selection: Selection) -> dict[str, tuple[str, str]]:
    """Number and source by recipe, of the methods that have one on this data set."""
    known = CLAIMED.get(selection.dataset, {})
    return {m.recipe: known[m.recipe] for m in selection.methods if m.recipe in known}


def _sources(selection: Selection) -> list[str]:
    """Where claimed numbers were read."""
    titles = {method.recipe: method.title for method in selection.methods}
    lines = [f"- {titles[name]}: {source}." for name, (_, source) in _claimed(selection).items()]
    if not lines:
        return []
    return ["\n".join(["Claimed numbers, whose networks and budgets are other ones:", "", *lines])]


def reference(selection: Selection) -> tuple[Method, str]:
    """What the others are compared with, and how it was chosen."""
    unnamed = Table((), best_of=BASELINES if selection.protocol else ())
    best_of = TABLES.get(selection.name, unnamed).best_of
    candidates = [
        method
        for method in selection.methods
        if method.recipe in best_of and method.seeds == selection.seeds
    ]
    if not candidates:
        return selection.methods[0], ""
    best = max(candidates, key=lambda method: interval(method.values("recall_at_1"))[0])
    if len(best_of) == 1:
        return best, ""
    chosen = (
        f", of {len(candidates)} the best by mean Recall@1 in the table above (a choice by these "
        "very results, which favours it)"
    )
    return best, chosen


def _differences(selection: Selection, first: Method) -> str:
    """Every other method minus the reference; "" where no two share a seed."""
    rows = [
        {
            "method": other.title,
            **{name: percent(other.minus(first, COLUMNS[name]), sign="+") for name in COMPARED},
        }
        for other in selection.methods
        if other is not first and set(first.runs) & set(other.runs)
    ]
    return markdown(rows) if rows else ""


def claims_in_words(selection: Selection) -> str:
    """What the rows say of the papers' claims; "" where they decide none."""
    judged = [judge(claim, selection.dataset, selection) for claim in claims_on(selection.dataset)]
    lines = [f"- {of.claim.title}: **{of.verdict}**; {sides(of)}." for of in judged if of.measured]
    if not lines:
        return ""
    return "\n".join(
        ["Claims of the papers, judged by Recall@1 as in `docs/claims.md`:", "", *lines]
    )


def sides(judged: Judgement) -> str:
    """How many comparisons lie on which side."""
    found = [comparison.side for comparison in judged.comparisons]
    missing = len(found) - len(judged.measured)
    counts = {
        "as claimed": found.count(1),
        "the other way round": found.count(-1),
        "undecided": found.count(0) - missing,
        "not measured": missing,
    }
    said = [f"{number} {what}" for what, number in counts.items() if number]
    return f"of {len(found)} comparison{'s' * (len(found) != 1)} {', '.join(said)}"


def on_target(selection: Selection) -> str:
    """Whether poolings prefer the quadrant of the target; "" where no row has weights and two
    seeds."""
    lines = []
    for method in (m for m in selection.methods if m.has(WEIGHT_ON_TARGET)):
        mean, half = interval([100 * value for value in method.values(WEIGHT_ON_TARGET)])
        if half is None:
            continue
        side = "above" if mean > 100 * UNIFORM else "below"
        excluded = abs(mean - 100 * UNIFORM) > half
        lines.append(
            f"- {method.title}: {mean:.2f} ± {half:.2f} % over {len(method.seeds)} seeds: the "
            f"interval {f'lies {side}' if excluded else 'contains'} {100 * UNIFORM:.0f} %."
        )
    if not lines:
        return ""
    return "\n".join(
        [
            "Part of the pooling weight on the quadrant of the target, mean of the test images "
            f"(uniform weights: {100 * UNIFORM:.0f} %), ± half a 95 % t-interval over seeds:",
            "",
            *lines,
        ]
    )


def _flattered(selection: Selection) -> list[str]:
    return [
        f"{method.title}: each run is reported at the epoch with the best Recall@1 of the test "
        "classes, which also chose the weights it was reloaded with, as released. That flatters "
        "it, and its difference to any other row."
        for method in selection.methods
        if method.selected_on == "test" and not selection.protocol  # whose heading says it of all
    ]


def _title(method: Method, selection: Selection) -> str:
    if method.seeds == selection.seeds:
        return method.title
    return f"{method.title} (seeds {', '.join(map(str, method.seeds))} only)"


def percent(values: Sequence[float], sign: str = "") -> str:
    """Mean in %, ± half a 95 % t-interval where there is one."""
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
