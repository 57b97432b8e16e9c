"""Under which rules a table is made; two of them are never in one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.recipes import Budget, Recipe
from benchmarks.recipes.published import row_of

Setting = float | int | str | bool | None
SEARCHED = ("epochs", "trunk_lr", "proxy_base_lr")  # of a budget


@dataclass(frozen=True)
class Protocol:
    """How settings and epochs are chosen.

    Args:
        name: as in ``--protocol`` and in the records.
        selects_on: classes that say which epoch counts: "test" flatters; "validation" are training
            classes, given up in turn while searching; None leaves it to recipe and data set, as
            :func:`benchmarks.best.criterion_of` says.
        trials: of the search for each recipe; 0 takes the settings that recipes declare.
        folds: parts of the training classes, each of which validates once in a trial.
        seeds: of the final runs; () is those of the data set's table.
        found: settings that a search found, under their names in the records; None before it.
        max_epochs: that the search could choose from; None before it.
        as_published: whether a recipe takes settings and a budget of its own where there are any,
            see :mod:`benchmarks.recipes.published`.

    Raises:
        ValueError: a search without two folds, or folds without a search.
    """

    name: str
    selects_on: Literal["validation", "test"] | None = None
    trials: int = 0
    folds: int = 0
    seeds: tuple[int, ...] = ()
    found: Mapping[str, Setting] | None = field(default=None, hash=False)
    max_epochs: int | None = None
    as_published: bool = False

    def __post_init__(self) -> None:
        searches = self.selects_on == "validation"
        if searches and not (self.trials >= 1 and self.folds >= 2):
            raise ValueError(
                f"trials, folds: expected at least 1 and 2 where validation classes select; got "
                f"{self.trials} and {self.folds}."
            )
        if not searches and (self.trials or self.folds):
            raise ValueError(
                f"trials, folds: expected 0 and 0 without validation classes; got {self.trials} "
                f"and {self.folds}. Take reality-check."
            )

    @property
    def evaluates_once(self) -> bool:
        """Whether test classes are evaluated after the last epoch alone."""
        return self.selects_on == "validation"

    def settings_of(self, recipe: Recipe, dataset: str, budget: Budget) -> dict[str, Any]:
        """The recipe's settings and, but for ``quick``, what this protocol adds: older records,
        which say nothing of it, are ``quick``."""
        settings = recipe.settings(dataset, budget)
        if self == QUICK:
            return settings
        return {
            **settings,
            "protocol": {
                "name": self.name,
                "epoch_selected_on": self.selects_on,
                "test_classes_chose_something": self.selects_on == "test",
                "trials": self.trials,
                "folds": self.folds,
                "max_epochs": self.max_epochs,
                "found": None if self.found is None else dict(self.found),
                **({"own_budget": True} if row_of(recipe, dataset) else {}),
            },
        }

    def settled(self, found: Mapping[str, Setting], max_epochs: int) -> "Protocol":
        """This protocol after its search."""
        return replace(self, found=found, max_epochs=max_epochs)


QUICK = Protocol("quick")
PAPER = Protocol("paper", selects_on="test", seeds=(0, 1, 2, 3, 4), as_published=True)
REALITY_CHECK = Protocol(
    "reality-check", selects_on="validation", trials=50, folds=4, seeds=tuple(range(10))
)
PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, PAPER, REALITY_CHECK)}
OWN_BUDGETS = {name for name, protocol in PROTOCOLS.items() if protocol.as_published}
"""``quick`` has the settings and budgets of this package. ``paper`` does as the papers did: all
training classes, the epoch with the best Recall@1 of the test classes, and of rows that are known
to have had a budget of their own that one. ``reality-check`` is the
protocol of Musgrave et al., A Metric Learning Reality Check, ECCV 2020: 50 trials for every method,
validation on each of four parts of the training classes, ten seeds. Departures: the final model is
trained on all training classes, for as many epochs as were best in the search, where the paper
evaluates the models of its folds; trials are of Optuna, where the paper has Ax; backbone, batch and
optimizer are the budget's.
"""


def protocol_name(settings: Mapping[str, Any]) -> str:
    """Of the settings of a record."""
    return str(settings.get("protocol", {}).get("name", QUICK.name))


def shared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What two records have in common if they may be in one table: the budget, of a search without
    what it may have changed; and the protocol without what was found. Where rows have budgets of
    their own it is the protocol alone."""
    protocol = dict(settings.get("protocol", {}))
    if not protocol:
        return dict(settings["budget"])
    if protocol["name"] in OWN_BUDGETS:
        return {"protocol": {name: of for name, of in protocol.items() if name != "own_budget"}}
    changed = () if protocol.pop("found") is None else SEARCHED
    budget = {name: value for name, value in settings["budget"].items() if name not in changed}
    return {**budget, "protocol": protocol}
