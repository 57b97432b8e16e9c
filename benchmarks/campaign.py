"""Several runs, one after another; each finished one is on the disk before the next begins."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.checkpoint import path_of
from benchmarks.datasets import Loaded
from benchmarks.processes import rank_and_number
from benchmarks.protocols import QUICK, Protocol
from benchmarks.recipes import Budget, Recipe, digest
from benchmarks.records import Record, RunKey, append, key_of, read
from benchmarks.run import run

Planned = tuple[Recipe, int]


def plan(
    recipes: Sequence[Recipe],
    dataset: str,
    seeds: Sequence[int],
    budget: Budget,
    folder: Path,
    *,
    nmi: bool = False,
    protocol: Protocol = QUICK,
) -> list[Planned]:
    """(recipe, seed) of every run that ``folder`` does not hold yet; a seed at a time."""
    finished = {
        key_of(record) for record in read(folder, dataset) if not nmi or "NMI" in record["metrics"]
    }
    return [
        (recipe, seed)
        for seed in seeds
        for recipe in recipes
        if RunKey(recipe.name, dataset, seed, digest(protocol.settings_of(recipe, dataset, budget)))
        not in finished
    ]


def steps_of(planned: Sequence[Planned], budget: Budget) -> int:
    """Training steps of all planned runs."""
    return budget.steps * sum(recipe.loss is not None for recipe, _ in planned)


def carry_out(
    planned: Sequence[Planned],
    data: Loaded,
    budget: Budget,
    folder: Path,
    *,
    device: torch.device,
    nmi: bool = False,
    protocol: Protocol = QUICK,
    workers: int = 0,
    tensorboard: Path | None = None,
    on_start: Callable[[Recipe, int], None] = lambda recipe, seed: None,
    on_step: Callable[[], None] = lambda: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> None:
    """Run what is planned and append each result; the callbacks are for a progress bar.

    A run that was killed is kept until its last whole epoch, and goes on from there.
    """
    for recipe, seed in planned:
        on_start(recipe, seed)
        settings = protocol.settings_of(recipe, data.name, budget)
        key = RunKey(recipe.name, data.name, seed, digest(settings))
        unfinished = path_of(folder, key)
        result = run(
            recipe,
            data,
            seed,
            budget,
            device=device,
            nmi=nmi,
            workers=workers,
            on_step=on_step,
            unfinished=unfinished,
            protocol=protocol,
            tensorboard=None if tensorboard is None else tensorboard / unfinished.stem,
        )
        record = asdict(result)
        if rank_and_number()[0] > 0:  # the first process writes
            continue
        append(folder, record)
        unfinished.unlink(missing_ok=True)
        on_record(record)
