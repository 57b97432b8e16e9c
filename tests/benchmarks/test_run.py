"""Every recipe runs; runs of one seed share their start and their batches."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import nn
from torch.utils.data import Sampler

from benchmarks.datasets import DATASETS, Data
from benchmarks.measure import PeakMemory, StepClock
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, Budget, Recipe, ReloadAndDrop, digest
from benchmarks.recipes.recipe import own_parameters
from benchmarks.records import RESULTS, read
from benchmarks.run import Result, run, seeded_sampler, seeded_trunk
from pml_extras.losses import IntraBatchConnectionsLoss
from pml_extras.weighting import LossWeighting

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
    selected = result.curve[result.selected_epoch]
    assert result.metrics["recall_at_1"] == selected["recall_at_1"]
    if result.selected_on is None:
        assert selected is result.curve[-1]


@pytest.mark.parametrize("name", [name for name in TRAINED if not name.startswith("gsp_zero_shot")])
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
        assert old.numel() == 0 or torch.equal(old, new) != new.requires_grad


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


def test_proxies_get_a_hundred_times_the_base_rate_and_weights_of_losses_that_of_the_trunk() -> (
    None
):
    budget = Budget(1, 1, 20, 4, trunk_lr=3e-3, proxy_base_lr=1e-3, weight_decay=0.5)
    for name in TRAINED:
        recipe = RECIPES[name]
        loss = recipe.make_loss(5, 8)
        assert loss is not None
        groups = recipe.groups(loss, budget)
        weights = {
            id(parameter)
            for module in loss.modules()
            if isinstance(module, LossWeighting)
            for parameter in module.parameters()
        }
        trained = [parameter for parameter in loss.parameters() if parameter.numel() > 0]
        grouped = [parameter for group in groups for parameter in group["params"]]
        assert sorted(map(id, trained)) == sorted(id(p) for p in grouped if p.numel() > 0)
        for group in groups:
            of_trunk = name.startswith(("ibc", "gsp_zero_shot"))
            expected = (3e-3, 0.5) if of_trunk else (pytest.approx(0.1), 0.0)
            if weights & {id(parameter) for parameter in group["params"]}:
                expected = (3e-3, 0.0)
                assert weights == {id(parameter) for parameter in group["params"]}
            assert (group["lr"], group["weight_decay"]) == expected
    assert own_parameters(nn.Identity(), budget) == []


def test_the_budget_says_the_optimizer_and_the_decay_of_the_trunk(
    few: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []
    train = MetricLossOnly.train

    def watched(trainer: MetricLossOnly, **named: int) -> None:
        made.extend(trainer.optimizers.values())
        train(trainer, **named)

    monkeypatch.setattr(MetricLossOnly, "train", watched)
    run_once("ibc", few, budget)
    run_once("ibc", few, replace(budget, optimizer="radam", weight_decay=0.25))
    assert [type(optimizer) for optimizer in made] == [
        *[torch.optim.Adam] * 2,
        *[torch.optim.RAdam] * 2,
    ]
    groups = [optimizer.param_groups[0] for optimizer in made]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0, 0.25, 0.25]
    assert {group["lr"] for group in groups} == {budget.trunk_lr}
    assert all(group["decoupled_weight_decay"] for group in groups[2:])


def test_without_messages_each_image_is_alone_in_the_network() -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for name, alone in (("ibc_no_attention", True), ("ibc", False)):
        loss = RECIPES[name].make_loss(5, 8)
        assert isinstance(loss, IntraBatchConnectionsLoss)
        loss.eval()
        assert torch.allclose(loss.refine(x)[:2], loss.refine(x[:2]), atol=1e-6) == alone


def test_a_sampler_of_its_own_starts_again_until_the_steps_are_those_of_all_others(
    few: Data, budget: Budget
) -> None:
    make = RECIPES["ibc_released"].sampler
    assert make is not None
    passes: list[list[int]] = []
    steps: list[int] = []

    def spied(labels: torch.Tensor, budget: Budget, seed: int) -> Iterable[int]:
        sampler = make(labels, budget, seed)

        class Spy(Sampler[int]):
            def __iter__(self) -> Iterator[int]:
                passes.append(list(sampler))
                return iter(passes[-1])

        return Spy()

    longer = replace(budget, iterations=12)
    recipe = replace(RECIPES["ibc_released"], sampler=spied)
    run(recipe, few, 0, longer, device=CPU, on_step=lambda: steps.append(1))
    assert len(steps) == longer.steps
    assert len(passes) == 3  # of 8 or 9 batches
    for drawn in passes:
        assert set(drawn) == set(range(len(few.train.labels)))


@pytest.mark.parametrize("dataset", ["digits", "omniglot"])
def test_older_committed_results_are_still_results_of_these_settings(dataset: str) -> None:
    records = read(RESULTS, dataset)
    assert len(records) >= 42
    for record in records:
        settings = RECIPES[record["recipe"]].settings(dataset, BUDGETS[dataset])
        assert digest(settings) == record["settings_hash"], record["recipe"]


def test_sampler_and_schedule_are_settings() -> None:
    released = RECIPES["ibc_released"]
    settings = [
        recipe.settings("digits", BUDGETS["digits"])
        for recipe in (
            released,
            replace(released, sampler=None),
            replace(released, schedule=ReloadAndDrop(factor=2.0, select_on="test")),
        )
    ]
    assert len({digest(found) for found in settings}) == 3
    assert settings[0]["schedule"]["select_on"] == "test"


def test_every_data_set_has_a_budget_and_a_table_of_known_rows() -> None:
    assert list(TABLES) == list(BUDGETS) == list(DATASETS)
    for table in TABLES.values():
        assert set(table.recipes) <= set(RECIPES)
        assert set(table.best_of) <= set(table.recipes)
    assert len(TABLES["digits"].recipes) == len(TABLES["omniglot"].recipes) == 16
    assert len(TABLES["omniglot_validation"].recipes) == 11
    for name in ("omniglot_ensemble", "flowers", "pets"):
        assert len(TABLES[name].recipes) == 16
        assert TABLES[name].seeds == (0, 1, 2, 3, 4)
    assert BUDGETS["omniglot_ensemble"] == BUDGETS["omniglot"]
    for name in ("clinc150", "clinc150_tfidf", "banking77", "banking77_tfidf"):
        assert {"potential_field", "proxy_anchor", "multi_similarity"} < set(TABLES[name].recipes)
        assert all(RECIPES[row].pooling is None for row in TABLES[name].recipes)
        assert BUDGETS[name].embedding_size == 384  # at full width the start is the identity
    for name in ("omniglot_collage", "cifar_collage"):
        assert len(TABLES[name].recipes) == 7
        assert set(TABLES[name].best_of) == {"average_pooling"}


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs: expected more than 0; got 0"),
        ({"optimizer": "lamb"}, "optimizer: expected one of adam, radam, .*; got 'lamb'"),
        ({"head_multiple": 0.0}, r"head_multiple: expected a finite number > 0; got 0\.0"),
        ({"head_multiple": 10.0}, r"head_multiple: expected 1 without a backbone; got 10\.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected 0 or more; got -1\.0"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**{"epochs": 1, "iterations": 1, "batch_size": 20, "images_per_class": 4, **changed})


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
