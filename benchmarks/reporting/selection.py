"""Which records belong in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.recipes import RECIPES
from benchmarks.records import Record


@dataclass(frozen=True)
class Method:
    """The runs of one recipe under one setting, by seed."""

    recipe: str
    title: str
    runs: dict[int, Record]

    def values(self, metric: str) -> list[float]:
        """At the epoch that counts, in the order of the seeds."""
        return [self.runs[seed]["metrics"][metric] for seed in self.seeds]

    def has(self, metric: str) -> bool:
        """Whether every run measured it."""
        return all(metric in run["metrics"] for run in self.runs.values())

    def minus(self, other: "Method", metric: str) -> list[float]:
        """This one's value minus the other one's, for each seed that both have."""
        return [
            self.runs[seed]["metrics"][metric] - other.runs[seed]["metrics"][metric]
            for seed in self.seeds
            if seed in other.runs
        ]

    @property
    def selected_on(self) -> str | None:
        """The classes that said which epoch counts; None, as in older records: the last one."""
        return self.runs[self.seeds[0]].get("selected_on")

    @property
    def seeds(self) -> list[int]:
        return sorted(self.runs)


@dataclass(frozen=True)
class Selection:
    """Comparable methods of one data set.

    Args:
        budget: what all of them share.
        methods: in the order of the registry, then those that it no longer has.
        notes: what was left out, in sentences.
    """

    dataset: str
    budget: dict[str, Any]
    methods: tuple[Method, ...]
    notes: tuple[str, ...]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for method in self.methods for seed in method.seeds})


def select(dataset: str, records: Sequence[Record]) -> Selection:
    """The newest budget, and under it the newest settings of each recipe.

    Args:
        dataset: its name.
        records: at least one, oldest first.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError(
            f"{dataset}: expected at least one finished run; got none. "
            f"Start with `python -m benchmarks run --dataset {dataset}`."
        )
    budget = records[-1]["settings"]["budget"]
    comparable = [record for record in records if record["settings"]["budget"] == budget]
    notes = []
    if other := len(records) - len(comparable):
        notes.append(f"Left out: {other} runs under another budget.")
    newest = {record["recipe"]: record["settings_hash"] for record in comparable}
    methods = []
    for recipe in sorted(newest, key=_row):
        versions = [record for record in comparable if record["recipe"] == recipe]
        kept = [record for record in versions if record["settings_hash"] == newest[recipe]]
        if older := len(versions) - len(kept):
            notes.append(f"{kept[-1]['title']}: newest settings; {older} older runs left out.")
        runs = {record["seed"]: record for record in kept}
        methods.append(Method(recipe, kept[-1]["title"], runs))
    return Selection(dataset, budget, tuple(methods), tuple(notes))


def _row(recipe: str) -> tuple[int, str]:
    order = list(RECIPES)
    return (order.index(recipe) if recipe in order else len(order), recipe)
