"""Settings of a recipe, searched for on validation classes: no test class is at hand.

A trial trains once on each fold without its validation classes; its value is MAP@R of the
validation classes, averaged over folds, at the best epoch of that average. Every search has the
same number of trials, also those that fail. The first one has the settings that the recipe
declares, so that a search chooses nothing that validates worse than they do.

Trials are written as they end, each as one line beside the results. A search that was killed goes
on with the trial that it was at, and ends as one that was not: what a trial tries depends on the
trials before it and on its number alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.alone import alone
from benchmarks.best import criterion_of
from benchmarks.datasets import AnyData
from benchmarks.datasets.folds import training_half
from benchmarks.protocols import Protocol, Setting
from benchmarks.provenance import provenance
from benchmarks.recipes import Budget, Recipe, digest
from benchmarks.recipes.space import Range, Space
from benchmarks.records import cut_half_line
from benchmarks.run import run
from pml_extras._checks import refuse

SEARCHES = "searches"  # folder beside the results
EPOCHS = "budget.epochs"
OBJECTIVE = "mean_average_precision_at_r"
SEED = 0
Values = dict[str, Setting]


@dataclass(frozen=True)
class Found:
    """What came of a search.

    Args:
        settings: of the best trial, by name, with the number of epochs; {} where a recipe trains
            nothing and there is nothing to search.
        value: MAP@R of the validation classes, mean over folds; None without a search.
        trials: how many were made, failed ones too.
        failed: number of a trial -> why it has no value.
    """

    settings: Values
    value: float | None
    trials: int
    failed: dict[int, str]


def path_of(folder: Path, dataset: str, recipe: Recipe) -> Path:
    """File of the searches for one recipe on one data set, beside the results."""
    return folder / SEARCHES / f"{dataset}-{recipe.name}.jsonl"


def search(
    recipe: Recipe,
    data: AnyData,
    budget: Budget,
    protocol: Protocol,
    folder: Path,
    *,
    device: torch.device,
    workers: int = 0,
    on_step: Callable[[], None] = lambda: None,
    on_trial: Callable[[int], None] = lambda number: None,
) -> Found:
    """The best settings of ``protocol.trials`` trials; those that ``folder`` holds are not made
    again.

    Args:
        recipe: what is searched for, in its ``space``.
        data: without validation classes; its test half is not looked at.
        budget: what is not searched; ``budget.epochs`` is the largest number that can be found.
        protocol: how many trials and folds.
        folder: of the results.
        device: where to train.
        workers: processes that read image files.
        on_step: called after every training step.
        on_trial: called with the number of a trial before it begins.

    Raises:
        ValueError: the data has validation classes already, or fewer classes than folds and
            batches need; another process searches for the same, or the file of its trials is
            damaged; or every trial failed.
    """
    if recipe.loss is None:
        return Found({}, None, 0, {})
    parts = [training_half(data, protocol.folds, fold) for fold in range(protocol.folds)]
    _check_batches(parts, budget)
    settings = recipe.settings(data.name, budget)
    declared = {name: _at(settings, name) for name in recipe.space}
    path = path_of(folder, data.name, recipe)
    with alone(path):
        study = _study(path, recipe, settings, protocol)
        for number in range(len(study.trials), protocol.trials):
            on_trial(number)
            params, distributions = _asked(study.trials, recipe.space, declared, SEED + number)
            study.add_trial(
                _tried(recipe, parts, budget, params, distributions, device, workers, on_step)
            )
        return _best(study.trials[: protocol.trials])


def with_settings(recipe: Recipe, budget: Budget, found: Values) -> tuple[Recipe, Budget]:
    """Both with what was found in place of what they declare."""
    changed: dict[str, Values] = {"budget": {}, "loss": {}, "miner": {}}
    for name, value in found.items():
        part, setting = name.split(".")
        changed[part][setting] = value
    return (
        replace(
            recipe,
            loss_args={**recipe.loss_args, **changed["loss"]},
            miner_args={**recipe.miner_args, **changed["miner"]},
        ),
        replace(budget, **changed["budget"]),  # type: ignore[arg-type]
    )


def _check_batches(parts: Sequence[AnyData], budget: Budget) -> None:
    needed = budget.batch_size // budget.images_per_class
    for part in parts:
        if len(part.train.classes) < needed:
            raise ValueError(
                f"{part.name}: expected at least {needed} classes to train on, those of one batch; "
                f"got {len(part.train.classes)}. Take a data set with more classes."
            )


def _at(settings: dict[str, Any], name: str) -> Setting:
    part, setting = name.split(".")
    value: Setting = settings[part][setting]
    return value


def _study(
    path: Path, recipe: Recipe, settings: dict[str, Any], protocol: Protocol
) -> optuna.Study:
    """The study of exactly these conditions; a file may hold others beside it. Nobody else is at
    the file: what Optuna marks it with while it writes was left by a process that was killed, and
    would be waited for."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    cut_half_line(path)
    space = {name: asdict(limits) for name, limits in recipe.space.items()}
    name = digest({"settings": settings, "space": space, "folds": protocol.folds})
    try:
        return optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(path))),
            direction="maximize",
            load_if_exists=True,
        )
    except json.JSONDecodeError as error:
        way_out = "Delete the file: its trials are made again."
        raise refuse(str(path), "one JSON record a line", repr(error), way_out) from error


def _asked(
    trials: Sequence[FrozenTrial], space: Space, declared: Values, seed: int
) -> tuple[Values, dict[str, BaseDistribution]]:
    """What to try after these trials, and the ranges it is from.

    Asked of a copy in memory: only trials that ended are on the disk.
    """
    copy = optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed))
    copy.add_trials(trials)
    if not trials:
        copy.enqueue_trial(declared)
    distributions = {name: _distribution(limits) for name, limits in space.items()}
    return copy.ask(distributions).params, distributions


def _distribution(limits: Range) -> BaseDistribution:
    if limits.whole:
        return IntDistribution(int(limits.low), int(limits.high), log=limits.log)
    return FloatDistribution(limits.low, limits.high, log=limits.log)


def _tried(
    recipe: Recipe,
    parts: Sequence[AnyData],
    budget: Budget,
    params: Values,
    distributions: dict[str, BaseDistribution],
    device: torch.device,
    workers: int,
    on_step: Callable[[], None],
) -> FrozenTrial:
    """A trial that ended, with a value or with the reason why it has none."""
    recipe, budget = with_settings(recipe, budget, params)
    notes: dict[str, Any] = {"commit": provenance(device)["commit"]}
    value = None
    try:
        curves = [
            _validated(recipe, part, seed, budget, device, workers, on_step)
            for seed, part in enumerate(parts)
        ]
        means = [fmean(at_epoch) for at_epoch in zip(*curves, strict=True)]
        value = max(means)
        notes |= {"epochs": 1 + means.index(value), "curve": means}
    except OSError:  # a full disk is no property of the settings
        raise
    except Exception as error:  # whatever settings bring about, as embeddings that are no numbers
        notes["reason"] = f"{type(error).__name__}: {error}"
    state = TrialState.FAIL if value is None else TrialState.COMPLETE
    return create_trial(
        state=state, value=value, params=params, distributions=distributions, user_attrs=notes
    )


def _validated(
    recipe: Recipe,
    part: AnyData,
    seed: int,
    budget: Budget,
    device: torch.device,
    workers: int,
    on_step: Callable[[], None],
) -> list[float]:
    """MAP@R of the validation classes after each epoch."""
    result = run(recipe, part, seed, budget, device=device, workers=workers, on_step=on_step)
    return [float(point[OBJECTIVE]) for point in result.curve[1:]]


def _best(trials: Sequence[FrozenTrial]) -> Found:
    failed = {t.number: str(t.user_attrs["reason"]) for t in trials if t.value is None}
    ended = [trial for trial in trials if trial.value is not None]
    if not ended:
        raise ValueError(
            f"trials: expected at least one that ends with a value; got {len(failed)} that "
            f"failed, the first by {failed[0]}. Change the recipe's space, or its loss."
        )
    best = max(ended, key=lambda trial: trial.value or 0.0)
    settings = {**best.params, EPOCHS: best.user_attrs["epochs"]}
    return Found(settings, best.value, len(trials), failed)


def settle(
    recipe: Recipe,
    data: AnyData,
    budget: Budget,
    protocol: Protocol,
    folder: Path,
    *,
    device: torch.device,
    workers: int = 0,
    on_step: Callable[[], None] = lambda: None,
    on_trial: Callable[[int], None] = lambda number: None,
) -> tuple[Recipe, Budget, Protocol, Found]:
    """What the final runs take: recipe, budget and protocol after the search; and its result.

    Raises:
        ValueError: as :func:`search`; or the recipe's schedule needs classes to select on.
    """
    criterion_of(recipe.schedule, data, protocol)
    found = search(
        recipe,
        data,
        budget,
        protocol,
        folder,
        device=device,
        workers=workers,
        on_step=on_step,
        on_trial=on_trial,
    )
    after = protocol.settled(found.settings, budget.epochs)
    return *with_settings(recipe, budget, found.settings), after, found
