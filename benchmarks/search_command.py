"""The searches of a protocol at the command line, with a bar and a line for each recipe."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import typer
from tqdm import tqdm

from benchmarks.datasets import AnyData
from benchmarks.jobs import Job
from benchmarks.protocols import Protocol
from benchmarks.recipes import Budget, Recipe
from benchmarks.run_command import INTERRUPTED, number_of_workers
from benchmarks.search import Found, path_of, settle


def settle_all(
    jobs: Sequence[Job],
    data: AnyData,
    folder: Path,
    *,
    device: torch.device,
    workers: int | None,
) -> Iterator[Job]:
    """What the final runs of each recipe take, as soon as its search has ended."""
    for recipes, budget, protocol in jobs:
        for recipe in recipes:
            settled, changed, rules, found = _settle(
                recipe, data, budget, protocol, folder, device, number_of_workers(workers)
            )
            typer.echo(_line(recipe, found))
            yield Job([settled], changed, rules)


def _settle(
    recipe: Recipe,
    data: AnyData,
    budget: Budget,
    protocol: Protocol,
    folder: Path,
    device: torch.device,
    workers: int,
) -> tuple[Recipe, Budget, Protocol, Found]:
    a_trial = budget.steps * protocol.folds
    bar = tqdm(total=protocol.trials * a_trial, unit="step", dynamic_ncols=True, disable=None)

    def began(number: int) -> None:
        bar.set_description(f"{recipe.name} trial {number + 1} of {protocol.trials}")
        bar.n = number * a_trial

    def stepped() -> None:
        bar.update()

    try:
        with bar:
            return settle(
                recipe,
                data,
                budget,
                protocol,
                folder,
                device=device,
                workers=workers,
                on_step=stepped,
                on_trial=began,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped: trials that ended are kept in {path_of(folder, data.name, recipe)}. "
            "The same command goes on with the rest.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise ValueError(
            f"{error}: trials that ended are kept in {path_of(folder, data.name, recipe)}. Make "
            "room or choose another --results, and give the same command again."
        ) from error


def _line(recipe: Recipe, found: Found) -> str:
    if found.value is None:
        return f"{recipe.name}: nothing to search"
    settings = ", ".join(f"{name} {value:.4g}" for name, value in found.settings.items())
    reasons = "".join(f"; trial {n + 1} failed: {why}" for n, why in found.failed.items())
    return (
        f"{recipe.name}: {found.trials} trials, MAP@R {100 * found.value:.1f} on validation "
        f"classes with {settings}{reasons}"
    )
