"""A search looks at validation classes alone, has as many trials as any other, and resumes."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import search as searching
from benchmarks.datasets import Data
from benchmarks.datasets.folds import folds
from benchmarks.protocols import REALITY_CHECK, Protocol
from benchmarks.recipes import BUDGETS, RECIPES, Budget, Recipe
from benchmarks.recipes.space import RATE, Range
from benchmarks.records import cut_half_line
from benchmarks.run import run
from benchmarks.search import Found, path_of, search, settle, with_settings
from tests.benchmarks.few_features import BUDGET, few_features, unreadable

CPU = torch.device("cpu")
TWO_FOLDS = replace(REALITY_CHECK, trials=3, folds=2)
SEARCHED = ("contrastive", "multi_similarity", "proxy_anchor", "potential_field_1")


def found_in(
    folder: Path,
    recipe: str | Recipe = "multi_similarity",
    protocol: Protocol = TWO_FOLDS,
    data: Data | None = None,
    budget: Budget = BUDGET,
    on_step: Callable[[], None] = lambda: None,
) -> Found:
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    return search(
        chosen, data or few_features(), budget, protocol, folder, device=CPU, on_step=on_step
    )


def trials_in(folder: Path, recipe: str = "multi_similarity") -> list[tuple[Any, ...]]:
    """What is on the disk, without times."""
    path = path_of(folder, "few", RECIPES[recipe])
    cut_half_line(path)
    storage = searching.JournalStorage(searching.JournalFileBackend(str(path)))
    (study,) = searching.optuna.get_all_study_summaries(storage)
    return [
        (trial.number, trial.state, trial.value, trial.params, trial.user_attrs)
        for trial in storage.get_all_trials(study._study_id)
    ]


class Interrupt:
    """Ctrl-C after so many training steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_no_search_reads_a_test_image_or_changes_with_the_test_half(tmp_path: Path) -> None:
    data = few_features()
    hidden = replace(data, test=replace(data.test, images=unreadable(data.test.images)))
    with pytest.raises(NotImplementedError):
        run(RECIPES["contrastive"], hidden, 0, BUDGET, device=CPU)  # as anything that reads one
    for name in SEARCHED:
        assert found_in(tmp_path / "hidden", name, data=hidden) == found_in(tmp_path, name)


@pytest.mark.parametrize("name", SEARCHED)
def test_every_recipe_has_the_same_number_of_trials_and_the_declared_settings_are_the_first(
    name: str, tmp_path: Path
) -> None:
    assert found_in(tmp_path, name).trials == 3
    numbers, _, _, params, _ = zip(*trials_in(tmp_path, name), strict=True)
    assert numbers == (0, 1, 2)
    settings = RECIPES[name].settings("few", BUDGET)
    for setting, value in params[0].items():
        part, key = setting.split(".")
        assert value == settings[part][key]
    assert len({tuple(tried.items()) for tried in params}) == 3


@pytest.mark.parametrize("steps", [1, 9, 16, 17])  # a trial has 8
def test_a_search_that_was_broken_off_ends_like_an_unbroken_one(steps: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        found_in(tmp_path / "broken", on_step=Interrupt(steps))
    kept = trials_in(tmp_path / "broken")
    assert len(kept) == (steps - 1) // 8
    assert found_in(tmp_path / "broken") == found_in(tmp_path)
    assert trials_in(tmp_path / "broken") == trials_in(tmp_path)
    assert trials_in(tmp_path)[: len(kept)] == kept


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.benchmarks.test_search import Interrupt, found_in
class Kill(Interrupt):
    def __call__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
found_in(Path(sys.argv[1]), on_step=Kill(12))
"""


def test_a_half_written_trial_is_cut(tmp_path: Path) -> None:
    found_in(tmp_path / "half", protocol=replace(TWO_FOLDS, trials=1))
    path = path_of(tmp_path / "half", "few", RECIPES["multi_similarity"])
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    assert found_in(tmp_path / "half") == found_in(tmp_path)
    assert trials_in(tmp_path / "half") == trials_in(tmp_path)


def test_what_a_search_left_that_was_killed_while_it_wrote_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(seconds: float) -> None:
        raise AssertionError("waits for a process that is gone")

    path = path_of(tmp_path, "few", RECIPES["multi_similarity"])
    path.parent.mkdir()
    path.with_name(f"{path.name}.lock").symlink_to(path)  # as Optuna marks that it writes
    monkeypatch.setattr("time.sleep", waits)
    assert found_in(tmp_path).trials == 3


def test_two_processes_never_search_for_the_same(tmp_path: Path) -> None:
    refused: list[str] = []

    def beside() -> None:
        if not refused:
            with pytest.raises(
                ValueError, match=r"few-contrastive\.jsonl: expected no other process"
            ):
                found_in(tmp_path, "contrastive")
            refused.append("contrastive")
            found_in(tmp_path, "proxy_anchor")

    found = found_in(tmp_path, "contrastive", on_step=beside)
    assert found == found_in(tmp_path, "contrastive") == found_in(tmp_path / "alone", "contrastive")
    assert trials_in(tmp_path, "contrastive") == trials_in(tmp_path / "alone", "contrastive")


def test_a_file_of_trials_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    found_in(tmp_path)
    path = path_of(tmp_path, "few", RECIPES["multi_similarity"])
    first, second, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, second[:30], *rest]))
    with pytest.raises(ValueError, match=r"multi_similarity\.jsonl: expected .*Delete the file"):
        found_in(tmp_path)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], check=False)
    assert killed.returncode == -9
    assert len(trials_in(tmp_path / "killed")) == 1
    assert found_in(tmp_path / "killed") == found_in(tmp_path)
    assert trials_in(tmp_path / "killed") == trials_in(tmp_path)


def test_a_finished_search_trains_nothing_and_a_larger_one_goes_on_from_it(tmp_path: Path) -> None:
    steps: list[int] = []
    two = found_in(tmp_path, protocol=replace(TWO_FOLDS, trials=2))
    assert found_in(tmp_path, on_step=lambda: steps.append(1)).trials == 3
    assert len(steps) == 8
    again = found_in(
        tmp_path, protocol=replace(TWO_FOLDS, trials=2), on_step=lambda: steps.append(1)
    )
    assert again == two
    assert len(steps) == 8


def test_other_conditions_are_another_search(tmp_path: Path) -> None:
    steps: list[int] = []
    found_in(tmp_path, on_step=lambda: steps.append(1))
    for changed in (
        {"protocol": replace(TWO_FOLDS, folds=4)},
        {"budget": replace(BUDGET, iterations=3)},
        {"recipe": replace(RECIPES["multi_similarity"], space=RATE)},
    ):
        before = len(steps)
        found_in(tmp_path, on_step=lambda: steps.append(1), **changed)  # type: ignore[arg-type]
        assert len(steps) > before


def test_the_value_is_that_of_the_best_epoch_of_the_mean_over_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {"few_fold0of2": [0.1, 0.5, 0.8, 0.6], "few_fold1of2": [0.3, 0.5, 0.2, 0.2]}
    parts: list[Data] = []

    def validated(recipe: Recipe, part: Data, *rest: object) -> list[float]:
        parts.append(part)
        return curves[part.name]

    monkeypatch.setattr(searching, "_validated", validated)
    found = found_in(tmp_path, protocol=replace(TWO_FOLDS, trials=1))
    assert found.value == 0.5  # of 0.2, 0.5, 0.5 and 0.4, the first of equals
    assert found.settings["budget.epochs"] == 2
    everything = set(few_features().train.classes)
    assert parts[0].test.classes + parts[1].train.classes == parts[0].test.classes * 2
    assert set(parts[0].test.classes) | set(parts[1].test.classes) == everything
    assert all(part.validation is None for part in parts)


def test_a_trial_is_judged_by_the_precision_on_validation_classes_after_each_epoch(
    tmp_path: Path,
) -> None:
    found_in(tmp_path, protocol=replace(TWO_FOLDS, trials=1))
    curves = []
    for fold in (0, 1):
        part = folds(few_features(), 2, fold)
        assert part.validation is not None
        half = Data(part.name, train=part.train, test=part.validation)
        curve = run(RECIPES["multi_similarity"], half, fold, BUDGET, device=CPU).curve
        curves.append([point["mean_average_precision_at_r"] for point in curve if point["epoch"]])
    ((*_, notes),) = trials_in(tmp_path)
    expected = [sum(at_epoch) / 2 for at_epoch in zip(*curves, strict=True)]
    assert notes["curve"] == pytest.approx(expected, rel=1e-12)


def test_the_first_trial_with_the_largest_value_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.5, 0.5])  # two folds a trial
    monkeypatch.setattr(searching, "_validated", lambda *given: [next(values)])
    found = found_in(tmp_path, protocol=replace(TWO_FOLDS, trials=4))
    _, second, *_ = (params for _, _, _, params, _ in trials_in(tmp_path))
    assert (found.value, found.settings) == (0.75, {**second, "budget.epochs": 1})


def fragile(margin: float = 0.1, broken: float = 0.5) -> nn.Module:
    """A loss that cannot be built above some margin, and is no number near it."""
    if margin > broken:
        raise RuntimeError(f"margin {margin} is too large")

    class Loss(nn.Module):
        def forward(self, rows: Tensor, labels: Tensor, indices_tuple: None = None) -> Tensor:
            return rows.pow(2).mean() * (torch.nan if margin > broken / 2 else 1.0)

    return Loss()


def made_of(space: Range, broken: float = 0.5) -> Recipe:
    return Recipe(
        "contrastive",
        "Fragile",
        fragile,
        loss_args={"broken": broken},
        space={"loss.margin": space},
    )


def test_trials_that_fail_or_diverge_count_and_say_why(tmp_path: Path) -> None:
    conditions = (tmp_path, made_of(Range(0, 1, "ours")), replace(TWO_FOLDS, trials=8))
    found = found_in(*conditions)
    assert found_in(*conditions) == found
    assert found.trials == 8
    assert 2 <= len(found.failed) <= 7
    assert len(trials_in(tmp_path, "contrastive")) == 8
    margins = {
        number: params["loss.margin"]
        for number, _, _, params, _ in trials_in(tmp_path, "contrastive")
    }
    assert set(found.failed) == {number for number, margin in margins.items() if margin > 0.25}
    for number, reason in found.failed.items():
        if margins[number] > 0.5:
            assert reason == f"RuntimeError: margin {margins[number]} is too large"
        else:
            assert "Has the training diverged?" in reason
    assert found.settings["loss.margin"] <= 0.25  # type: ignore[operator]


def test_a_search_without_any_value_is_refused_and_a_full_disk_is_no_property_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"got 3 that failed, the first by RuntimeError: margin 0"):
        found_in(tmp_path / "none", made_of(Range(0, 1, "ours"), broken=0.01))

    def full(*anything: object) -> list[float]:
        raise OSError("No space left on device")

    monkeypatch.setattr(searching, "_validated", full)
    with pytest.raises(OSError, match="No space left"):
        found_in(tmp_path)
    assert trials_in(tmp_path) == []


@given(
    st.lists(st.floats(0, 1), max_size=4),
    st.floats(1e-6, 1.0),
    st.floats(1.5, 100.0),
    st.integers(0, 2**16),
)
def test_what_is_asked_lies_in_its_range_and_depends_on_history_and_seed_alone(
    values: list[float], low: float, factor: float, seed: int
) -> None:
    space = {
        "loss.a": Range(low, low * factor, "ours", log=True),
        "loss.b": Range(-low, factor, "ours"),
        "loss.c": Range(0, 6, "ours", whole=True),
    }
    declared = {"loss.a": low, "loss.b": factor, "loss.c": 6}
    trials: list[searching.FrozenTrial] = []
    for value in values:
        params, distributions = searching._asked(trials, space, declared, seed + len(trials))
        again, _ = searching._asked(list(trials), space, declared, seed + len(trials))
        assert params == again
        if not trials:
            assert params == declared
        for name, limits in space.items():
            chosen = params[name]
            assert isinstance(chosen, (int, float))
            assert limits.low <= chosen <= limits.high
        trials.append(
            searching.create_trial(params=params, distributions=distributions, value=value)
        )


def test_what_is_asked_follows_the_better_trials() -> None:
    space, asked = {"loss.a": Range(0, 1, "ours")}, []
    for sign in (-1, 1):
        trials: list[searching.FrozenTrial] = []
        for number in range(20):
            params, distributions = searching._asked(trials, space, {"loss.a": 0.5}, number)
            value = sign * float(params["loss.a"])  # type: ignore[arg-type]
            trials.append(
                searching.create_trial(params=params, distributions=distributions, value=value)
            )
        asked.append(sum(trial.params["loss.a"] for trial in trials[10:]) / 10)
    assert asked[0] < 0.4 < 0.6 < asked[1]


def test_found_settings_are_those_of_the_final_runs(tmp_path: Path) -> None:
    found = {"budget.trunk_lr": 0.5, "budget.epochs": 7, "loss.beta": 9.0, "miner.epsilon": 0.3}
    recipe, budget = with_settings(RECIPES["multi_similarity"], BUDGETS["digits"], found)
    settings = recipe.settings("digits", budget)
    assert (budget.trunk_lr, budget.epochs, budget.iterations) == (0.5, 7, 50)
    assert (settings["loss"]["beta"], settings["loss"]["alpha"]) == (9.0, 2)
    assert settings["miner"]["epsilon"] == 0.3


def test_a_recipe_that_trains_nothing_is_not_searched(tmp_path: Path) -> None:
    recipe, budget, protocol, found = settle(
        RECIPES["untrained"], few_features(), BUDGET, TWO_FOLDS, tmp_path, device=CPU
    )
    assert (recipe, budget, found) == (RECIPES["untrained"], BUDGET, Found({}, None, 0, {}))
    assert protocol.found == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        ("ibc_released", few_features(), "schedule: expected none under reality-check"),
        ("contrastive", few_features(train=3), "expected at least 2 classes to train on, those of"),
        ("contrastive", few_features(train=2), "k: expected 2 to 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    recipe: str, data: Data, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        settle(RECIPES[recipe], data, BUDGET, TWO_FOLDS, tmp_path, device=CPU)
