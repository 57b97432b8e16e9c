"""What is measured of cost is what its name says."""

from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cost_losses as losses
from benchmarks import cost_subjects as subjects
from benchmarks import large_batch_cost, pooling_cost
from benchmarks.cost_losses import Setting
from benchmarks.recipes import RECIPES
from benchmarks.reporting import costs
from pml_extras import losses as ours
from pml_extras import weighting
from pml_extras.functional.message_passing import (
    explicit_neighbour_attention,
    neighbour_attention,
)
from pml_extras.nn import message_passing


def test_every_strategy_is_measured_around_the_losses_of_the_bare_sum() -> None:
    assert set(losses.STRATEGIES.values()) == {
        value
        for name in weighting.__all__
        if isinstance(value := getattr(weighting, name), type)
        and issubclass(value, weighting.LossWeighting)
        and value is not weighting.LossWeighting
    }
    sides = subjects.SUBJECTS["ensemble"].sides
    assert list(sides) == ["sum", *losses.STRATEGIES]
    for side in sides.values():
        side.make(Setting())(16)
    torch.manual_seed(0)
    bare = losses.BareSum(2)
    torch.manual_seed(0)
    three = losses.three_losses(2)
    x, labels = torch.randn(8, losses.DIM), torch.arange(8) // 4
    expected = sum(loss(x, labels) for loss in three)
    torch.testing.assert_close(bare(x, labels), expected)


@pytest.mark.parametrize("name", losses.OF_EMBEDDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_side_of_a_loss_makes_a_pass_of_more_rows_than_the_warm_up(
    name: str, dtype: torch.dtype
) -> None:
    rows = losses.WARM_UP_ROWS + 8
    for side in losses.OF_EMBEDDINGS[name].sides.values():
        side.make(Setting(rows, dtype=dtype))(rows)


@pytest.mark.parametrize("rows", [8, 64, 66, 1024, 4096, 16384])
def test_a_class_has_4_rows_in_any_batch_and_a_loss_has_the_classes_of_the_batch(
    rows: int,
) -> None:
    seen: list[tuple[int, torch.Tensor, torch.dtype]] = []

    class Watch(torch.nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.classes = classes

        def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            seen.append((self.classes, labels, embeddings.dtype))
            return embeddings.sum()

    losses.of_loss(Watch, Setting(rows, dtype=torch.bfloat16))(rows)
    ((classes, labels, dtype),) = seen
    counts = labels.bincount()
    assert dtype == torch.bfloat16
    assert set(counts[:-1].tolist()) == {4}
    assert classes == len(counts) or rows < losses.WARM_UP_ROWS
    assert classes >= losses.WARM_UP_ROWS // 4


def test_losses_with_parameters_of_classes_have_them_of_the_batch() -> None:
    grow = [
        name
        for name, pair in losses.PAIRS.items()
        for make in (pair.ours, pair.theirs)
        if make and len({sum(p.numel() for p in make(c).parameters()) for c in (16, 32)}) == 2
    ]
    of_classes = (
        "PotentialFieldLoss",
        "IntraBatchConnectionsLoss",
        "WeightedLossEnsemble",
        "ClassificationLoss",
        "SmoothedProxyNCALoss",
        "ZeroShotPredictionLoss",
    )
    assert grow == [name for name in of_classes for _ in ("ours", "theirs")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_floor_is_two_products_of_the_similarities_and_nothing_else(
    dtype: torch.dtype,
) -> None:
    rows = 96
    counter = FlopCounterMode(display=False)
    with counter:
        losses.of_product(Setting(rows, dtype=dtype))(rows)
    assert counter.get_total_flops() == 2 * 2 * rows**2 * losses.DIM


def test_a_batch_is_no_larger_than_the_memory_it_is_compared_with() -> None:
    batches = losses.OF_EMBEDDINGS["DelayedMemoryLoss"].batches
    assert max(batches) == losses.MEMORY_SIZE
    assert max(losses.OF_EMBEDDINGS["NTXentLoss"].batches) == 16384


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_batch_is_compared_with_a_full_memory(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[torch.Tensor, torch.Tensor]] = []
    to_compare = CrossBatchMemory.create_indices_tuple

    def watched(self: Any, embeddings: Any, labels: Any, *memory_and_others: Any) -> Any:
        compared.append(memory_and_others[:2])
        return to_compare(self, embeddings, labels, *memory_and_others)

    monkeypatch.setattr(CrossBatchMemory, "create_indices_tuple", watched)
    subjects.SUBJECTS["DelayedMemoryLoss"].sides[side].make(Setting())(8)
    ((rows, labels),) = compared
    assert rows.shape == (losses.MEMORY_SIZE, losses.DIM)
    assert rows.std(dim=1).min() > 0.5  # of normal numbers 1
    assert labels.bincount().tolist() == [4] * (losses.MEMORY_SIZE // 4)


@pytest.mark.parametrize("side", subjects.SUBJECTS[subjects.LARGE_BATCH].sides)
def test_large_batches_have_as_many_chunks_as_their_title_says(side: str) -> None:
    subject = subjects.SUBJECTS[subjects.LARGE_BATCH].sides[side]
    chunks: list[int] = []

    class Counted(large_batch_cost.Trunk):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            chunks.append(len(images))
            return super().forward(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_batch_cost, "Trunk", Counted)
        subject.make(Setting())(64)
    passes = {"one_pass": (1, 1), "chunks_8": (2, 8), "chunks_32": (2, 32)}
    times, number = passes[side]
    assert chunks == [64 // number] * number * times
    assert number == 1 or f"{number} chunks" in subject.title


def test_the_ways_to_compute_attention_are_what_they_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explicit, dropouts = [], []

    def attend(*arguments: Any, dropout: float, **named: Any) -> Any:
        dropouts.append(dropout)
        return neighbour_attention(*arguments, dropout=dropout, **named)

    def attend_explicitly(*arguments: Any, dropout: float, **named: Any) -> Any:
        explicit.append(dropout)
        return explicit_neighbour_attention(*arguments, dropout=dropout, **named)

    monkeypatch.setattr(message_passing, "neighbour_attention", attend)
    monkeypatch.setattr(message_passing, "explicit_neighbour_attention", attend_explicitly)
    for side in ("fused", "explicit", "dropout"):
        subjects.SUBJECTS["attention"].sides[side].make(Setting())(8)
    assert (dropouts, explicit) == ([0.0, 0.1], [0.0])


def test_every_public_loss_has_a_cost_and_a_paper() -> None:
    classes = {name for name in ours.__all__ if isinstance(getattr(ours, name), type)}
    assert classes == set(losses.PAIRS) == set(costs.PAPERS)
    assert set(costs.RECIPE_OF) <= classes
    assert set(costs.RECIPE_OF.values()) <= set(RECIPES)


def test_poolings_that_are_compared_give_the_same_weights_and_gradients() -> None:
    costs_of_maps = 2 * torch.rand(3, 4, 6, dtype=torch.float64)
    sides = []
    for weights in (pooling_cost.closed_form, pooling_cost.unrolled):
        cost_of_maps = costs_of_maps.clone().requires_grad_()
        p, z = weights(cost_of_maps)
        (p.square().sum() + z.square().sum()).backward()
        sides.append((p, z, cost_of_maps.grad))
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", subjects.POOLINGS)
def test_weights_of_more_images_than_have_costs_are_refused(name: str) -> None:
    images = subjects.POOLINGS[name][0]
    one_pass = subjects.SUBJECTS[name].sides["weights"].make(Setting())
    one_pass(images)
    with pytest.raises(ValueError, match=f"^rows: expected at most {images}, .* got {images + 1}"):
        one_pass(images + 1)


@pytest.mark.parametrize("name", [*subjects.POOLINGS, subjects.POOLING_STEP])
def test_every_side_of_the_pooling_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling_cost, "PIXELS", 64)
    for side in subjects.SUBJECTS[name].sides.values():
        side.make(Setting())(2)
