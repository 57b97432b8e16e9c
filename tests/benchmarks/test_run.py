"""Every recipe runs; runs of one seed share their start and their batches."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.datasets import Data
from benchmarks.measure import PeakMemory, StepClock
from benchmarks.recipes import BUDGETS, RECIPES, Budget, Recipe, digest
from benchmarks.recipes.recipe import own_parameters
from benchmarks.run import Result, run, seeded_sampler, seeded_trunk

CPU = torch.device("cpu")
TRAINED = [name for name, recipe in RECIPES.items() if recipe.loss is not None]


def run_once(name: str, data: Data, budget: Budget, seed: int = 3) -> Result:
    return run(RECIPES[name], data, seed, budget, device=CPU)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_and_its_result_is_json(name: str, few: Data, budget: Budget) -> None:
    result = run_once(name, few, budget)
    assert json.loads(json.dumps(asdict(result), allow_nan=False))["recipe"] == name
    trained = RECIPES[name].loss is not None
    assert [point["epoch"] for point in result.curve] == ([0, 1, 2] if trained else [0])
    assert result.metrics["recall_at_1"] == result.curve[-1]["recall_at_1"]


@pytest.mark.parametrize("name", TRAINED)
def test_training_moves_the_trunk_and_every_parameter_of_the_loss(
    name: str, few: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[nn.Module] = []
    before: list[list[torch.Tensor]] = []
    make = Recipe.make_loss

    def watched(recipe: Recipe, num_classes: int, embedding_size: int) -> nn.Module | None:
        loss = make(recipe, num_classes, embedding_size)
        assert loss is not None
        losses.append(loss)
        before.append([parameter.detach().clone() for parameter in loss.parameters()])
        return loss

    monkeypatch.setattr(Recipe, "make_loss", watched)
    result = run_once(name, few, budget)
    assert (
        result.curve[0]["mean_average_precision_at_r"]
        != (result.curve[-1]["mean_average_precision_at_r"])
    )
    for old, new in zip(before[0], losses[0].parameters(), strict=True):
        assert old.numel() == 0 or not torch.equal(old, new)


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(
    few: Data, budget: Budget
) -> None:
    first, second = (run_once("proxy_anchor", few, budget) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.curve == second.curve
    assert run_once("proxy_anchor", few, budget, seed=4).metrics != first.metrics


def test_recipes_of_a_seed_share_trunk_and_batches(
    few: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[torch.Tensor]] = []

    def spied(data: Data, budget: Budget, seed: int) -> list[int]:
        seen.append([])
        return Spy(seeded_sampler(data, budget, seed), seen[-1])

    class Spy(list[int]):
        def __init__(self, sampler: object, batches: list[torch.Tensor]) -> None:
            drawn = list(sampler)  # type: ignore[call-overload]
            batches.append(torch.tensor(drawn))
            super().__init__(drawn)

    monkeypatch.setattr("benchmarks.run.seeded_sampler", spied)
    results = [run_once(name, few, budget) for name in ("proxy_anchor", "triplet_semihard")]
    assert len(seen) == 2
    assert torch.equal(seen[0][0], seen[1][0])
    assert results[0].curve[0] == results[1].curve[0] == run_once("untrained", few, budget).curve[0]


def test_a_batch_holds_the_classes_of_its_budget(few: Data, budget: Budget) -> None:
    batches = np.array(list(seeded_sampler(few, budget, 0))).reshape(budget.steps, -1)
    for batch in batches:
        assert torch.bincount(few.train.labels[batch]).tolist() == [4] * 5
    assert (batches[0] != batches[1]).any()


def test_another_seed_is_another_trunk_and_another_order(few: Data, budget: Budget) -> None:
    weights = [torch.cat([p.flatten() for p in seeded_trunk(8, s).parameters()]) for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    orders = [list(seeded_sampler(few, budget, s)) for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_proxies_get_a_hundred_times_the_base_rate_in_every_recipe() -> None:
    for name in TRAINED:
        recipe = RECIPES[name]
        loss = recipe.make_loss(5, 8)
        assert loss is not None
        groups = recipe.groups(loss, 1e-3)
        assert len(groups) == bool(sum(parameter.numel() for parameter in loss.parameters()))
        for group in groups:
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.1), 0.0)
    assert own_parameters(nn.Identity(), 1e-3) == []


def test_recorded_statistics_are_means_of_an_epoch(few: Data, budget: Budget) -> None:
    point = run_once("potential_field_1", few, budget).curve[-1]
    assert {name for name in point["statistics"] if name.startswith("excess")}
    assert all(value >= 0 for value in point["statistics"].values())


def test_settings_name_every_default_and_their_digest_follows_them() -> None:
    settings = RECIPES["multi_similarity"].settings("digits", BUDGETS["digits"])
    assert settings["loss"] == {
        "class": "pytorch_metric_learning.MultiSimilarityLoss",
        "alpha": 2,
        "beta": 50,
        "base": 0.5,
    }
    assert settings["miner"]["epsilon"] == 0.1
    other = {**settings, "loss": {**settings["loss"], "alpha": 3}}
    assert digest(settings) == digest(dict(reversed(settings.items()))) != digest(other)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs: expected more than 0; got 0"):
        Budget(epochs=0, iterations=1, batch_size=20, images_per_class=4)


def test_the_median_leaves_the_warm_up_out() -> None:
    clock = StepClock(CPU)
    clock.seconds = [9.0] * 5
    assert clock.median() is None
    clock.seconds += [1.0, 3.0, 2.0]
    assert clock.median() == 2.0


def test_peak_memory_sees_what_was_freed_again() -> None:
    memory = PeakMemory(CPU)
    memory.start()
    memory.stop()
    if memory.mib is None:
        pytest.skip("this system does not tell the peak of a span")
    small = memory.mib
    memory.start()
    torch.ones(32 * 2**20)  # 128 MiB
    memory.stop()
    assert small + 100 < memory.mib < small + 200
