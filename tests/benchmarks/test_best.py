"""The epoch that counts is the one that the right classes chose, and its weights come back."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn

from benchmarks.best import LAST, TEST, VALIDATION, Best, criterion_of
from benchmarks.datasets import Data
from benchmarks.datasets.split import Split
from benchmarks.evaluate import Evaluation
from benchmarks.recipes import RECIPES, Budget, Recipe, ReloadAndDrop
from benchmarks.run import Result, run

CPU = torch.device("cpu")
ON_TEST = "x (selected on the test classes)"

# by epoch, from the untrained one
TEST_RECALL = (0.99, 0.2, 0.3, 0.8, 0.1, 0.8)
TEST_MAP = (0.99, 0.9, 0.1, 0.1, 0.2, 0.1)
VALIDATION_RECALL = (0.99, 0.5, 0.6, 0.7, 0.8, 0.9)
VALIDATION_MAP = (0.99, 0.2, 0.6, 0.1, 0.6, 0.5)
EPOCHS = len(TEST_RECALL) - 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, parted: Data) -> list[Evaluation]:
    """Evaluations give the numbers above instead of what the trunk is worth; those of the test."""
    seen: list[Evaluation] = []
    calls = {"test": 0, "validation": 0}

    def evaluate(trunk: nn.Module, split: Split, **others: object) -> Evaluation:
        part = "test" if split is parted.test else "validation"
        recall, precision = {
            "test": (TEST_RECALL, TEST_MAP),
            "validation": (VALIDATION_RECALL, VALIDATION_MAP),
        }[part]
        epoch = calls[part]
        calls[part] += 1
        evaluation = Evaluation(
            {"recall_at_1": recall[epoch], "mean_average_precision_at_r": precision[epoch]},
            torch.nn.functional.normalize(torch.randn(len(split.labels), 3)),
        )
        if part == "test":
            seen.append(evaluation)
        return evaluation

    monkeypatch.setattr("benchmarks.watch.evaluate", evaluate)
    return seen


def run_once(data: Data, recipe: Recipe = RECIPES["contrastive"]) -> Result:
    budget = Budget(epochs=EPOCHS, iterations=1, batch_size=12, images_per_class=4)
    return run(recipe, data, 0, budget, device=CPU)


def test_the_first_best_epoch_of_the_validation_classes_counts(
    parted: Data, scripted: list[Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []
    monkeypatch.setattr(
        "benchmarks.run.nearest", lambda split, rows, *others: shown.append(rows) or {}
    )
    result = run_once(parted)
    assert (result.selected_epoch, result.selected_on) == (2, "validation")
    assert result.metrics == scripted[2].metrics
    assert shown[0] is scripted[2].embeddings
    assert [p["validation"]["mean_average_precision_at_r"] for p in result.curve] == [
        *VALIDATION_MAP
    ]
    assert [p["recall_at_1"] for p in result.curve] == [*TEST_RECALL]


def test_the_last_epoch_counts_without_validation_classes(
    parted: Data, scripted: list[Evaluation]
) -> None:
    result = run_once(replace(parted, validation=None))
    assert (result.selected_epoch, result.selected_on) == (EPOCHS, None)
    assert result.metrics == scripted[-1].metrics
    assert all("validation" not in point for point in result.curve)


@pytest.mark.parametrize("with_validation", [True, False])
def test_the_released_recipe_takes_the_best_recall_of_the_test_classes(
    parted: Data, scripted: list[Evaluation], with_validation: bool
) -> None:
    data = parted if with_validation else replace(parted, validation=None)
    result = run_once(data, RECIPES["ibc_released"])
    assert (result.selected_epoch, result.selected_on) == (3, "test")
    assert result.metrics == scripted[3].metrics


def test_an_untrained_trunk_counts_where_nothing_is_trained(
    parted: Data, scripted: list[Evaluation]
) -> None:
    result = run_once(parted, RECIPES["untrained"])
    assert result.selected_epoch == 0
    assert result.metrics == scripted[0].metrics


@pytest.mark.usefixtures("scripted")
def test_the_best_weights_come_back_and_rates_fall_and_optimizers_keep_their_state(
    parted: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reloads after epochs 2 and 4 of 5, each time of epoch 2, the first best one."""
    after: list[dict[str, Any]] = []
    began: list[dict[str, Any]] = []
    step = MetricLossOnly.forward_and_backward

    def state(trainer: MetricLossOnly) -> dict[str, Any]:
        def copied(model: nn.Module) -> dict[str, Tensor]:
            return {name: value.clone() for name, value in model.state_dict().items()}

        return {
            "trunk": copied(trainer.models["trunk"]),
            "loss": copied(trainer.loss_funcs["metric_loss"]),
            "lr": [o.param_groups[0]["lr"] for o in trainer.optimizers.values()],
            "moments": [
                value["exp_avg"].clone()
                for o in trainer.optimizers.values()
                for value in o.state.values()
            ],
        }

    def watched(trainer: MetricLossOnly) -> None:  # an epoch has one step
        began.append(state(trainer))
        step(trainer)
        after.append(state(trainer))

    monkeypatch.setattr(MetricLossOnly, "forward_and_backward", watched)
    recipe = replace(RECIPES["proxy_anchor"], schedule=ReloadAndDrop())
    assert run_once(parted, recipe).selected_epoch == 2
    assert [entry["lr"] for entry in began] == [
        *[[1e-3, pytest.approx(1e-2)]] * 2,
        *[[pytest.approx(1e-4), pytest.approx(1e-3)]] * 3,
    ]
    for model in ("trunk", "loss"):
        for epoch, source in ((2, 1), (3, 2), (4, 3), (5, 2)):
            _same(began[epoch - 1][model], after[source - 1][model])
        with pytest.raises(AssertionError):
            _same(after[1][model], after[3][model])
    for epoch in (3, 5):
        for now, before in zip(
            began[epoch - 1]["moments"], after[epoch - 2]["moments"], strict=True
        ):
            assert torch.equal(now, before)


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_kept_epoch_is_a_copy() -> None:
    model = nn.Linear(1, 1, bias=False)
    best = Best(TEST, Evaluation({}, torch.zeros(0)))
    for epoch, recall in enumerate((0.1, 0.9, 0.9, 0.2), start=1):
        nn.init.constant_(model.weight, epoch)
        best.offer({"epoch": epoch, "recall_at_1": recall}, Evaluation({}, torch.zeros(0)), [model])
    best.reload()
    assert (best.epoch, model.weight.item()) == (2, 2.0)


def test_test_classes_select_only_where_a_schedule_asks_for_them(few: Data, parted: Data) -> None:
    on_test, on_validation = ReloadAndDrop(select_on="test"), ReloadAndDrop()
    assert criterion_of(None, few) is LAST
    assert criterion_of(on_test, few) is TEST
    assert criterion_of(None, parted) is VALIDATION
    assert criterion_of(on_validation, parted) is VALIDATION
    assert criterion_of(on_test, parted) is TEST
    recipe = replace(RECIPES["contrastive"], schedule=on_validation)
    with pytest.raises(ValueError, match=r"validation classes; got digits.*omniglot_validation"):
        run_once(few, recipe)


def test_a_title_says_where_the_test_classes_select() -> None:
    Recipe("x", ON_TEST, schedule=ReloadAndDrop(select_on="test"))
    for title, schedule in (("x", ReloadAndDrop(select_on="test")), (ON_TEST, ReloadAndDrop())):
        with pytest.raises(ValueError, match=r"title: expected '\(selected on the test classes\)'"):
            Recipe("x", title, schedule=schedule)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"at": (0.5, 1.0)}, r"at: expected parts of the epochs between 0 and 1; got \(0\.5, 1"),
        ({"factor": 1.0}, r"factor: expected more than 1; got 1\.0"),
        ({"select_on": "train"}, "select_on: expected validation or test; got 'train'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReloadAndDrop(**changed)


def test_reloads_are_rounded_to_epochs_and_never_come_last() -> None:
    def due(epochs: int) -> list[int]:
        return [epoch for epoch in range(1, epochs + 1) if ReloadAndDrop().is_due(epoch, epochs)]

    assert (due(70), due(8), due(5)) == ([30, 50], [3, 6], [2, 4])
    assert (due(2), due(1)) == ([1], [])
