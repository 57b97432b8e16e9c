"""What a run would do, in words; trains nothing and reads no data."""

from collections.abc import Sequence

from benchmarks.jobs import Job
from benchmarks.protocols import Protocol
from benchmarks.recipes import Budget, Recipe
from benchmarks.recipes.marks import PARTS, marked


def text(jobs: Sequence[Job], dataset: str, protocol: Protocol, seeds: Sequence[int]) -> str:
    """Every setting of every recipe, each with where its value is from, and what is searched."""
    return "\n\n".join(
        [
            f"{dataset} under {protocol.name}, seeds {', '.join(map(str, seeds))}: "
            f"{_rules(protocol)}",
            *(_of(recipe, dataset, job.budget, protocol) for job in jobs for recipe in job.recipes),
        ]
    )


def _rules(protocol: Protocol) -> str:
    if protocol.trials:
        return (
            f"{protocol.trials} trials for each recipe, each on {protocol.folds} folds of the "
            "training classes; test classes are evaluated once, after the last epoch."
        )
    if protocol.selects_on == "test":
        return (
            "settings and budgets as published, where they are known, and else as declared; the "
            "best epoch by Recall@1 of the test classes counts."
        )
    return "settings as declared; test classes are evaluated after every epoch."


def _of(recipe: Recipe, dataset: str, budget: Budget, protocol: Protocol) -> str:
    settings = marked(recipe, dataset, budget)
    width = max(map(len, settings))
    parts = recipe.settings(dataset, budget)
    made = [f"{kind} {part['class']}" for kind in PARTS if (part := parts.get(kind))]
    lines = [f"{recipe.name}: {recipe.title}" + f" ({', '.join(made)})" * bool(made)]
    for name, (value, mark) in settings.items():
        searched = recipe.space.get(name) if protocol.trials else None
        looked = f"; searched in {searched}" if searched else ""
        lines.append(f"  {name:{width}}  {value!s:24}  {mark}{looked}")
    if protocol.trials and recipe.space:
        lines.append(f"  {'epochs':{width}}  1 to {budget.epochs}, the best on validation classes")
    return "\n".join(lines)
