"""Autocast, several batches a step, parts of a batch: what each changes, and what it does not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, NormalizedSoftmaxLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks import evaluate as evaluation
from benchmarks import training, watch
from benchmarks.backbones import Backbone, ImageTrunk
from benchmarks.linear_trunk import LinearTrunk
from benchmarks.processes import Parts
from benchmarks.quiet import quiet_pml
from benchmarks.recipes import RECIPES, Budget, Recipe
from benchmarks.reporting.heading import heading
from benchmarks.reporting.selection import Method, Selection
from benchmarks.run import run, seeded_sampler
from benchmarks.trainer import Trainer, check_parts, scaler_for
from benchmarks.trunk import Trunk
from pml_extras.pooling import GeneralizedSumPooling
from tests.benchmarks.few_features import BUDGET, WIDTH, few_features
from tests.benchmarks.test_checkpoint import comparable, interrupted

CPU = torch.device("cpu")
PARTS = {"sub_batch": 3}
DATA = few_features()
Losses = Callable[[], nn.Module]


def contrastive() -> nn.Module:
    return ContrastiveLoss()


def softmax() -> nn.Module:
    """A mean over rows, each with itself and its class."""
    torch.manual_seed(1)
    return NormalizedSoftmaxLoss(len(DATA.train.classes), WIDTH).double()


def weights_after(
    steps: int, budget: Budget, make_loss: Losses, clip: Callable[[], None] = lambda: None
) -> tuple[list[Tensor], Trainer]:
    """Of trunk and loss; the first rows of the data in order, plain gradient descent in float64."""
    trunk, loss = LinearTrunk(WIDTH, WIDTH).double(), make_loss()
    rows = torch.randperm(len(DATA.train.labels), generator=torch.Generator().manual_seed(2))
    models = {"trunk": trunk, "metric_loss": loss}
    with quiet_pml():
        trainer = Trainer(
            budget,
            scaler_for(budget, CPU),
            models={"trunk": trunk},
            loss_funcs={"metric_loss": loss},
            optimizers={
                f"{name}_optimizer": torch.optim.SGD(model.parameters(), lr=0.5)
                for name, model in models.items()
                if list(model.parameters())
            },
            dataset=TensorDataset(DATA.train.images.double(), DATA.train.labels),
            sampler=Parts(rows.tolist(), budget.batch_size),
            data_device=CPU,
            dataloader_num_workers=0,
            gradient_clippers={"trunk_grad_clipper": clip},
        )
        trainer.train(num_epochs=steps // budget.iterations)
    return [p.detach() for model in models.values() for p in model.parameters()], trainer


def budget_of(**changed: Any) -> Budget:
    return Budget(
        **{"epochs": 1, "iterations": 2, "batch_size": 8, "images_per_class": 1, **changed}
    )


def test_without_any_of_it_a_training_is_that_of_pml_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Plain(MetricLossOnly):
        at_a_step = True

        def __init__(self, budget: Budget, scaler: object, **named: Any) -> None:
            super().__init__(
                batch_size=budget.batch_size, iterations_per_epoch=budget.iterations, **named
            )

    ours = [run(RECIPES[name], DATA, 3, BUDGET, device=CPU) for name in ("ibc", "triplet_semihard")]
    monkeypatch.setattr(training, "Trainer", Plain)
    for name, result in zip(("ibc", "triplet_semihard"), ours, strict=True):
        plain = run(RECIPES[name], DATA, 3, BUDGET, device=CPU)
        assert comparable(result) == comparable(plain)


def test_two_batches_a_step_are_one_batch_of_both_where_rows_are_alone() -> None:
    whole, _ = weights_after(2, budget_of(batch_size=16), softmax)
    twice, _ = weights_after(2, budget_of(accumulate=2), softmax)
    once, _ = weights_after(2, budget_of(), softmax)
    torch.testing.assert_close(twice, whole, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(once[0], whole[0], rtol=1e-3)


def test_pairs_of_two_batches_of_a_step_are_not_compared() -> None:
    whole, _ = weights_after(2, budget_of(batch_size=16), contrastive)
    twice, _ = weights_after(2, budget_of(accumulate=2), contrastive)
    assert not torch.allclose(twice[0], whole[0], rtol=1e-3)


def test_gradients_are_clipped_once_a_step() -> None:
    clipped: list[int] = []
    _, trainer = weights_after(2, budget_of(accumulate=3), softmax, lambda: clipped.append(1))
    assert len(clipped) == 2
    assert trainer.get_global_iteration() == 5


@pytest.mark.parametrize("make_loss", [contrastive, softmax])
def test_parts_of_a_batch_give_the_gradient_of_the_batch(make_loss: Losses) -> None:
    whole, _ = weights_after(2, budget_of(), make_loss)
    parts, _ = weights_after(2, budget_of(**PARTS), make_loss)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    both = budget_of(accumulate=2, **PARTS)
    torch.testing.assert_close(
        weights_after(2, both, make_loss)[0],
        weights_after(2, replace(both, sub_batch=None), make_loss)[0],
        rtol=1e-12,
        atol=1e-14,
    )


def test_a_trunk_sees_no_more_than_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = LinearTrunk.forward

    def watched(trunk: LinearTrunk, rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return forward(trunk, rows)

    monkeypatch.setattr(LinearTrunk, "forward", watched)
    weights_after(2, budget_of(**PARTS), contrastive)
    assert seen == [3, 3, 2] * 4  # two steps, two passes each
    seen.clear()
    weights_after(2, budget_of(), contrastive)
    assert seen == [8, 8]


def test_parts_are_refused_where_batch_norm_would_see_them() -> None:
    budget = budget_of(**PARTS)
    frozen, trained = (
        ImageTrunk(Backbone("resnet18", frozen_batch_norm=frozen), 4) for frozen in (True, False)
    )
    check_parts(frozen, budget)
    check_parts(LinearTrunk(WIDTH, WIDTH), budget)
    check_parts(trained, budget_of())
    for trunk in (trained.eval(), Trunk(4)):
        message = r"sub_batch: expected a trunk without batch norm in training .* leave it out"
        with pytest.raises(ValueError, match=message):
            check_parts(trunk, budget)


def test_parts_are_refused_where_prototypes_would_start_between_them() -> None:
    pooling = partial(GeneralizedSumPooling, num_prototypes=2)
    waiting, started = (
        ImageTrunk(Backbone("resnet18"), 4, partial(pooling, startup_size=size)) for size in (4, 0)
    )
    check_parts(started, budget_of(**PARTS))
    check_parts(waiting, budget_of())
    with pytest.raises(ValueError, match=r"sub_batch: expected a pooling .* recipes of another"):
        check_parts(waiting, budget_of(**PARTS))


def test_the_curve_has_the_mean_over_all_batches_and_steps_are_counted() -> None:
    still = replace(BUDGET, trunk_lr=1e-30, proxy_base_lr=1e-30, epochs=1)
    steps: list[int] = []
    recipe = RECIPES["potential_field_1"]  # records statistics

    def of(budget: Budget) -> Any:
        steps.clear()
        return run(recipe, DATA, 0, budget, device=CPU, on_step=lambda: steps.append(1))

    alone = of(replace(still, iterations=6))
    assert len(steps) == 6
    together = of(replace(still, accumulate=3))
    assert len(steps) == 2
    assert together.curve[1]["loss"] == pytest.approx(alone.curve[1]["loss"], rel=1e-6)
    assert together.curve[1]["statistics"] == pytest.approx(alone.curve[1]["statistics"], rel=1e-6)


def test_one_pass_of_the_sampler_is_the_whole_training() -> None:
    drawn = [*seeded_sampler(DATA, replace(BUDGET, accumulate=3), 0)]
    assert len(drawn) == BUDGET.steps * 3 * BUDGET.batch_size


def test_a_step_of_several_batches_is_timed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[list[float]] = []
    monkeypatch.setattr(
        watch.StepClock, "median", lambda clock: clocks.append(clock.seconds) or 0.0
    )
    run(RECIPES["contrastive"], DATA, 0, replace(BUDGET, accumulate=3), device=CPU)
    assert len(clocks[0]) == BUDGET.steps


@pytest.mark.parametrize("changed", [{}, PARTS])
def test_under_autocast_the_trunk_rounds_and_nothing_else_does(
    changed: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    enclosed: list[bool] = []

    class Spy(ContrastiveLoss):
        def forward(self, embeddings: Tensor, *others: Any, **named: Any) -> Tensor:
            seen.append(embeddings.detach())
            enclosed.append(torch.is_autocast_enabled("cpu"))
            return super().forward(embeddings, *others, **named)

    evaluated: list[Tensor] = []

    def kept(trunk: nn.Module, *others: Any, **named: Any) -> evaluation.Evaluation:
        assert {p.dtype for p in trunk.parameters()} == {torch.float32}
        found = evaluation.evaluate(trunk, *others, **named)
        evaluated.append(found.embeddings)
        return found

    monkeypatch.setattr(watch, "evaluate", kept)
    recipe = Recipe("spy", "Spy", Spy, unit_rows=False)
    half = replace(BUDGET, amp="bfloat16", **changed)
    rounded = run(recipe, DATA, 0, half, device=CPU)
    assert {rows.dtype for rows in (*seen, *evaluated)} == {torch.float32}
    assert not any(enclosed)
    assert all(torch.equal(rows, rows.bfloat16().float()) for rows in seen)
    assert not any(torch.equal(rows, rows.bfloat16().float()) for rows in evaluated)
    seen.clear()
    exact = run(recipe, DATA, 0, replace(BUDGET, **changed), device=CPU)
    assert not any(torch.equal(rows, rows.bfloat16().float()) for rows in seen)
    assert rounded.curve[1]["loss"] == pytest.approx(exact.curve[1]["loss"], rel=0.05)
    assert rounded.curve[1]["loss"] != exact.curve[1]["loss"]


@pytest.mark.parametrize(
    "changed",
    [
        {"amp": "bfloat16"},
        {"amp": "float16", "accumulate": 2},
        {"accumulate": 3},
        {"sub_batch": 3},
        {"amp": "bfloat16", "accumulate": 2, "sub_batch": 5},
    ],
    ids=str,
)
def test_a_run_with_it_that_was_broken_off_ends_like_an_unbroken_one(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    budget = replace(BUDGET, epochs=3, **changed)
    recipe = RECIPES["ibc_released"]  # dropout, and a sampler that starts anew
    resumed = interrupted(recipe, DATA, budget, tmp_path / "run.pt", at_step=4)
    assert comparable(resumed) == comparable(run(recipe, DATA, 3, budget, device=CPU))


def test_the_scale_of_gradients_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubling(budget: Budget, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, init_scale=2.0, growth_interval=1)

    monkeypatch.setattr(training, "scaler_for", doubling)
    budget, file = replace(BUDGET, epochs=3, amp="float16"), tmp_path / "run.pt"
    interrupted(RECIPES["contrastive"], DATA, budget, file, at_step=4)
    kept = torch.load(file, weights_only=False)["state"]["trained"].scaler
    assert kept.get_scale() == 2.0 ** (1 + budget.steps)


def test_only_float16_scales_gradients() -> None:
    enabled = {amp: scaler_for(budget_of(amp=amp), CPU).is_enabled() for amp in AMPS}
    assert enabled == {None: False, "bfloat16": False, "float16": True}


AMPS = (None, "bfloat16", "float16")


def test_each_is_a_setting_where_it_is_on_and_only_there() -> None:
    on = {"amp": "bfloat16", "accumulate": 2, "sub_batch": 4}
    settings = budget_of(**on).settings()
    assert {name: settings[name] for name in on} == on
    assert not on.keys() & budget_of().settings().keys()


def test_the_words_above_a_table_say_how_steps_were_made() -> None:
    def words(budget: Budget) -> str:
        method = Method("contrastive", "Contrastive", {0: {"device": "cpu"}})
        return heading(Selection("few", budget.settings(), (method,), ()))

    on = budget_of(amp="bfloat16", accumulate=2, sub_batch=4)
    assert (
        "2 iterations, 2 batches a step, trunks trained in bfloat16, 4 rows of a batch at a time, "
        "1 seed" in words(on)
    )
    assert "2 iterations, 1 seed" in words(budget_of())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"amp": "half"}, "amp: expected one of 'bfloat16', 'float16'; got 'half'"),
        ({"accumulate": 0}, "accumulate: expected an integer >= 1; got 0"),
        ({"sub_batch": 0}, "sub_batch: expected an integer >= 1; got 0"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        budget_of(**changed)
