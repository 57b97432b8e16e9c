"""What a command runs: recipes, each with its budget and under which rules."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.protocols import Protocol
from benchmarks.recipes import BUDGETS, Budget, Recipe
from benchmarks.recipes.published import PUBLISHED
from benchmarks.text_trunk import SentenceEncoder
from pml_extras._checks import refuse


class Job(NamedTuple):
    """Recipes that share a budget."""

    recipes: list[Recipe]
    budget: Budget
    protocol: Protocol


def jobs_of(
    recipes: Sequence[Recipe],
    dataset: str,
    protocol: Protocol,
    changed: Mapping[str, Any],
    weights: Path | None,
) -> list[Job]:
    """All recipes under the budget of the data set; or, where the protocol says so, those that were
    published with a budget of their own under that one, in the order of ``recipes``.

    Args:
        recipes: as they are declared.
        dataset: its name.
        protocol: see ``as_published`` there.
        changed: settings in place of those of any budget.
        weights: to start the backbones from.

    Raises:
        ValueError: a setting out of its range; or weights where there is no backbone, or where
            there is more than one.
    """
    rows = PUBLISHED.get(dataset, {}) if protocol.as_published else {}
    jobs: list[Job] = []
    for recipe in recipes:
        row = rows.get(recipe.name)
        recipe, budget = (row.recipe, row.budget) if row else (recipe, BUDGETS[dataset])
        budget = replace(budget, **changed)
        if jobs and jobs[-1].budget == budget:
            jobs[-1].recipes.append(recipe)
        else:
            jobs.append(Job([recipe], budget, protocol))
    return jobs if weights is None else _starting_from(weights, jobs, dataset)


def _starting_from(weights: Path, jobs: Sequence[Job], dataset: str) -> list[Job]:
    if all(job.budget.encoder for job in jobs):
        return [
            job._replace(budget=replace(job.budget, encoder=SentenceEncoder(weights)))
            for job in jobs
        ]
    backbones = [job.budget.backbone for job in jobs]
    names = sorted({backbone.name for backbone in backbones if backbone})
    if not names:
        expected = f"none for {dataset}, whose images lie in memory"
        raise refuse("--weights", expected, weights, "Its small network starts at random.")
    if len(names) > 1:
        way_out = "Name those of one in --recipes, and start the others with theirs."
        raise refuse("--weights", "recipes of one network", " and ".join(names), way_out)
    return [
        job._replace(budget=replace(job.budget, backbone=replace(backbone, weights=weights)))
        for job, backbone in zip(jobs, backbones, strict=True)
        if backbone
    ]
