"""Which records belong in one table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.protocols import QUICK, protocol_name, shared_settings
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
    def budget(self) -> dict[str, Any]:
        """As recorded; of a search without regard to what it changed, that of the first seed."""
        budget: dict[str, Any] = self.settings["budget"]
        return budget

    @property
    def settings(self) -> dict[str, Any]:
        """As recorded, of the first seed."""
        settings: dict[str, Any] = self.runs[self.seeds[0]]["settings"]
        return settings

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
        budget: what all of them share, without what a search chose for each of them; {} where
            methods have budgets of their own.
        methods: in the order of the registry, then those that it no longer has.
        notes: what was left out, in sentences.
        protocol: what all of them share of it, as recorded; {} is ``quick``.
    """

    dataset: str
    budget: dict[str, Any]
    methods: tuple[Method, ...]
    notes: tuple[str, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its place in a page and of its pictures."""
        return place_of(self.dataset, str(self.protocol.get("name", QUICK.name)))

    @property
    def evaluated_once(self) -> bool:
        """Whether there is no learning curve of the test classes."""
        return bool(self.protocol.get("trials"))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for method in self.methods for seed in method.seeds})


def place_of(dataset: str, protocol: str) -> str:
    """Where the table of a data set under a protocol goes."""
    return dataset if protocol == QUICK.name else f"{dataset}_{protocol}"


def protocols_of(records: Sequence[Record]) -> list[str]:
    """Under which there are runs, ``quick`` first."""
    names = {protocol_name(record["settings"]) for record in records}
    return sorted(names, key=lambda name: (name != QUICK.name, name))


def select(dataset: str, records: Sequence[Record], protocol: str = QUICK.name) -> Selection:
    """One protocol; the newest budget under it, unless rows have their own, and the newest settings
    of each recipe.

    Args:
        dataset: its name.
        records: at least one of the protocol, oldest first; those of others are not looked at.
        protocol: its name.

    Raises:
        ValueError: there is no record of the protocol.
    """
    records = [record for record in records if protocol_name(record["settings"]) == protocol]
    if not records:
        raise ValueError(
            f"{dataset}: expected at least one finished run; got none. "
            f"Start with `python -m benchmarks run --dataset {dataset}"
            + (f" --protocol {protocol}" if protocol != QUICK.name else "")
            + "`."
        )
    shared = shared_settings(records[-1]["settings"])
    comparable = [record for record in records if shared_settings(record["settings"]) == shared]
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
    rules = shared.pop("protocol", {})
    budgets = [method.budget for method in methods]
    if not shared and all(budget == budgets[0] for budget in budgets):
        shared = budgets[0]
    return Selection(dataset, shared, tuple(methods), tuple(notes), rules)


def _row(recipe: str) -> tuple[int, str]:
    order = list(RECIPES)
    return (order.index(recipe) if recipe in order else len(order), recipe)
