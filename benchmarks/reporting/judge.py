"""Claims judged by paired differences: what the numbers of a table allow one to say."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.stats import t as student

from benchmarks.recipes.claims import Claim
from benchmarks.reporting.selection import Selection

LEVEL = 0.05
FEWEST_SEEDS = 2
Verdict = Literal["confirmed", "contradicted", "not decided", "not measured"]
CONFIRMED: Verdict = "confirmed"
CONTRADICTED: Verdict = "contradicted"
NOT_DECIDED: Verdict = "not decided"
NOT_MEASURED: Verdict = "not measured"
RULE = f"""\
Each comparison is a difference in Recall@1 between two rows on the same seeds, and between their
falls where a fall is claimed. Its p is that of the two-sided paired t-test, corrected by Holm's
method for the comparisons of the claim on that data set, those that are not measured included; it
counts below {LEVEL:g}.

- **{CONFIRMED}**: every difference is on the side of the claim, and every p counts.
- **{CONTRADICTED}**: at least one difference is on the other side, and its p counts.
- **{NOT_DECIDED}**: neither, or a comparison that is not measured is what is lacking.

Nothing is corrected for the number of claims, and MAP@R stands beside without a say in it."""


def p_value(differences: Sequence[float]) -> float:
    """Of a two-sided paired t-test that their mean is 0; 1 for fewer than two of them."""
    if len(differences) < FEWEST_SEEDS:
        return 1.0
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return float(mean == 0)
    return float(2 * student.sf(abs(mean) / error, len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number, in their order.

    The smallest of n is multiplied by n, the next one by n - 1 and so on; none is below a smaller
    one's, or above 1.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal
    of Statistics 6, 1979.

    >>> holm([0.02, 0.01, 0.5])
    [0.04, 0.03, 0.5]
    """
    corrected, floor = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = floor
    return corrected


@dataclass(frozen=True)
class Comparison:
    """One pair of recipes of a claim.

    Args:
        better, worse: recipes.
        recall: difference in Recall@1 for each seed that both have, positive as claimed.
        precision: the same of MAP@R.
        p: corrected.
    """

    better: str
    worse: str
    recall: list[float]
    precision: list[float]
    p: float = 1.0

    @property
    def measured(self) -> bool:
        return len(self.recall) >= FEWEST_SEEDS

    @property
    def side(self) -> int:
        """1 as claimed, -1 the other way round, 0 where the numbers do not say."""
        if not self.measured or self.p >= LEVEL:
            return 0
        return 1 if statistics.fmean(self.recall) > 0 else -1


@dataclass(frozen=True)
class Judgement:
    """A claim on one data set."""

    claim: Claim
    comparisons: tuple[Comparison, ...]

    @property
    def measured(self) -> list[Comparison]:
        return [comparison for comparison in self.comparisons if comparison.measured]

    @property
    def verdict(self) -> Verdict:
        sides = [comparison.side for comparison in self.comparisons]
        if not self.measured:
            return NOT_MEASURED
        if -1 in sides:
            return CONTRADICTED
        return CONFIRMED if all(side == 1 for side in sides) else NOT_DECIDED


def judge(
    claim: Claim, dataset: str, measured: Selection | None, clean: Selection | None = None
) -> Judgement:
    """The claim on one of its data sets.

    Args:
        claim: what is said.
        dataset: where it is tested.
        measured: rows of that data set; None: there are none. Of budgets of their own two rows are
            compared where these are the same.
        clean: those of the claim's ``clean``; compared where the budget is the same but for the
            label noise.
    """
    found = [_compared(claim, pair, measured, clean) for pair in claim.pairs(dataset)]
    corrected = holm([p_value(comparison.recall) for comparison in found])
    return Judgement(
        claim, tuple(replace(one, p=p) for one, p in zip(found, corrected, strict=True))
    )


def _compared(
    claim: Claim, pair: tuple[str, str], measured: Selection | None, clean: Selection | None
) -> Comparison:
    parts = (measured,) if claim.clean is None else (measured, clean)

    def of(metric: str) -> list[float]:
        one, other = (_by_seed(claim, recipe, metric, measured, clean) for recipe in pair)
        return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]

    if not _of_one_budget(pair, parts):
        return Comparison(*pair, [], [])
    return Comparison(*pair, of("recall_at_1"), of("mean_average_precision_at_r"))


def _of_one_budget(pair: tuple[str, str], parts: Sequence[Selection | None]) -> bool:
    """Whether two rows have the same budget, on all data sets the same but for the label noise."""
    budgets = [[_budget(part, recipe) for recipe in pair] for part in parts if part is not None]
    return len(budgets) == len(parts) and all(
        one == other and _but_for_noise(one) == _but_for_noise(budgets[0][0])
        for one, other in budgets
    )


def _budget(selection: Selection, recipe: str) -> dict[str, Any]:
    """That of all rows, or where they have their own that of this one."""
    own = (method.budget for method in selection.methods if method.recipe == recipe)
    return selection.budget or next(own, {})


def _by_seed(
    claim: Claim, recipe: str, metric: str, measured: Selection | None, clean: Selection | None
) -> dict[int, float]:
    """The recipe's values, or what noise adds to them."""
    values = _values(measured, recipe, metric)
    if claim.clean is None:
        return values
    before = _values(clean, recipe, metric)
    return {seed: values[seed] - before[seed] for seed in values.keys() & before.keys()}


def _values(selection: Selection | None, recipe: str, metric: str) -> dict[int, float]:
    methods = selection.methods if selection else ()
    return {
        seed: run["metrics"][metric]
        for method in methods
        if method.recipe == recipe
        for seed, run in method.runs.items()
    }


def _but_for_noise(budget: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if name != "label_noise"}
