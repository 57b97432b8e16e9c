"""Costs: what is measured, and the tables made from it."""

import sys
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import CrossBatchMemory

from benchmarks import cost, large_batch_cost, pooling_cost
from benchmarks import cost_subjects as subjects
from benchmarks.reporting import costs
from benchmarks.reporting.selection import Selection, select
from benchmarks.reporting.tables import MISSING
from pml_extras import weighting
from pml_extras.functional.message_passing import (
    explicit_neighbour_attention,
    neighbour_attention,
)
from pml_extras.nn import message_passing


class Hungry(torch.nn.Module):
    """Touches so many MiB, twice for a batch of more than the warm-up's rows."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.mib = mib

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mib = self.mib if len(embeddings) > subjects.WARM_UP_ROWS else 1
        return torch.ones(mib, 2**18).sum() * embeddings.sum()  # 2^18 float32 are one MiB


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_what_the_pass_touches_above_the_warm_up() -> None:
    small, large = (
        cost.peak_mib([subjects.of_loss(partial(Hungry, mib))], 128) for mib in (8, 256)
    )
    assert small is not None
    assert large is not None
    assert 200 < large - small < 300


def test_losses_take_turns_and_the_median_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[int] = []

    def slow(seconds: float) -> subjects.Pass:
        def one_pass(rows: int) -> None:
            clock[0] += seconds
            calls.append(round(1000 * seconds))

        return one_pass

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    assert cost.milliseconds([slow(0.03), slow(2.0)], 8) == pytest.approx([30.0, 2000.0])
    assert calls[:5] == [30, 30, 30, 2000, 2000]  # a warm-up each, then at least 50 ms


def record(loss: str, side: str, rows: int, ms: float, mib: float | None) -> dict[str, Any]:
    return {"loss": loss, "side": side, "rows": rows, "milliseconds": ms, "peak_mib": mib}


def test_a_side_stops_before_it_is_expected_to_exceed_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(what: str, name: str, sides: list[str], rows: int, device: torch.device) -> Any:
        if what == "time":
            return [1.0 for _ in sides]
        return cost.LIMIT_MIB / 4 if sides == ["theirs"] and rows == 16 else 1.0

    monkeypatch.setattr(cost, "_in_fresh_process", measured)
    records = list(cost.sweep((8, 16, 32), ("LiftedStructureLoss",)))
    found = [(r["side"], r["rows"]) for r in records]
    assert found == [("ours", 8), ("theirs", 8), ("ours", 16), ("theirs", 16), ("ours", 32)]


def test_tables_show_the_newest_measurement_and_leave_blanks() -> None:
    found = costs.newest(
        [
            record("LiftedStructureLoss", "ours", 256, 99.0, 99.0),
            record("LiftedStructureLoss", "ours", 256, 2.54, 2.85),
            record("LiftedStructureLoss", "theirs", 256, 1606.2, 1042.3),
            record("LiftedStructureLoss", "ours", 512, 7.0, None),
        ]
    )
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in costs.cost_table(found).splitlines()
    ]
    assert lines[0] == ["ms / MiB at rows", "256", "512"]
    assert lines[2] == ["`LiftedStructureLoss`", "2.5 ms / 2.9 MiB", f"7.0 ms / {MISSING} MiB"]
    assert lines[3] == ["pml: LiftedStructureLoss", "1606 ms / 1042 MiB", MISSING]
    assert len(lines) == 4
    overview = costs.overview_table(found, ())
    assert "1606 ms / 1042 MiB (LiftedStructureLoss)" in overview
    row = next(line for line in overview.splitlines() if "`PotentialFieldLoss`" in line)
    assert row.count(MISSING) == 3


def test_a_loss_that_pml_has_nothing_near_has_a_row_with_blanks() -> None:
    alone = costs.newest([record("DistancePreservingLoss", "ours", 256, 2.5, 1.0)])
    overview = costs.overview_table(alone, ())
    (row,) = (line for line in overview.splitlines() if "`DistancePreservingLoss`" in line)
    assert row.count(MISSING) == 2
    assert costs.cost_table(alone).count("`DistancePreservingLoss`") == 1
    assert "pml" not in costs.cost_table(alone)


def test_the_overview_takes_the_first_data_set_that_has_a_recipe(made_up: Any) -> None:
    def selection(dataset: str, **recalls: float) -> Selection:
        found = [made_up(recipe, 0, recall, dataset) for recipe, recall in recalls.items()]
        return select(dataset, found)

    overview = costs.overview_table(
        {},
        (
            selection("omniglot", ensemble_simplex=0.51),
            selection("omniglot_ensemble", ensemble_simplex=0.62, binomial_deviance=0.73),
        ),
    )
    rows = {line.split("|")[1].strip(" `"): line for line in overview.splitlines()[2:]}
    assert "51.0 (Ensemble of losses)" in rows["WeightedLossEnsemble"]
    assert "73.0 (Binomial deviance)" in rows["BinomialDevianceLoss"]
    assert rows["ClassificationLoss"].count(MISSING) == 3


def test_strategies_are_shown_over_the_bare_sum_of_the_same_rows() -> None:
    found = costs.newest(
        [
            record("ensemble", "sum", 128, 4.0, 1.0),
            record("ensemble", "simplex", 128, 4.5, 1.0),
            record("ensemble", "sum", 512, 20.0, 1.0),
            record("ensemble", "simplex", 512, 19.0, 1.0),
            record("ensemble", "mgda", 512, 50.0, 1.0),
        ]
    )
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in costs.ensemble_table(found).splitlines()
    ]
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert lines[0][1:] == ["128", "512"]
    assert rows["bare sum of the three losses"] == ["4.00 ms", "20.00 ms"]
    assert rows["`LearnedSimplex`"] == ["4.50 ms, +12.5 %", "19.00 ms, -5.0 %"]
    assert rows["`MultipleGradientDescent`"] == [MISSING, "50.00 ms, +150.0 %"]
    assert costs.ensemble_table({}) == ""


def test_every_strategy_is_measured_around_the_losses_of_the_bare_sum() -> None:
    assert set(subjects.STRATEGIES.values()) == {
        value
        for name in weighting.__all__
        if isinstance(value := getattr(weighting, name), type)
        and issubclass(value, weighting.LossWeighting)
        and value is not weighting.LossWeighting
    }
    sides = subjects.SUBJECTS["ensemble"].sides
    assert list(sides) == ["sum", *subjects.STRATEGIES]
    for side in sides.values():
        side.make(subjects.CPU)(16)
    torch.manual_seed(0)
    bare = subjects.BareSum()
    torch.manual_seed(0)
    three = subjects.three_losses()
    x, labels = torch.randn(8, subjects.DIM), torch.arange(8) // 4
    expected = sum(loss(x, labels) for loss in three)
    torch.testing.assert_close(bare(x, labels), expected)


@pytest.mark.parametrize("name", subjects.PAIRS)
def test_every_side_of_a_pair_makes_a_pass(name: str) -> None:
    for side in subjects.SUBJECTS[name].sides.values():
        side.make(subjects.CPU)(8)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_batch_is_compared_with_a_full_memory(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[torch.Tensor, torch.Tensor]] = []
    to_compare = CrossBatchMemory.create_indices_tuple

    def watched(self: Any, embeddings: Any, labels: Any, *memory_and_others: Any) -> Any:
        compared.append(memory_and_others[:2])
        return to_compare(self, embeddings, labels, *memory_and_others)

    monkeypatch.setattr(CrossBatchMemory, "create_indices_tuple", watched)
    subjects.SUBJECTS["DelayedMemoryLoss"].sides[side].make(subjects.CPU)(8)
    ((rows, labels),) = compared
    assert rows.shape == (subjects.MEMORY_SIZE, subjects.DIM)
    assert rows.std(dim=1).min() > 0.5  # of normal numbers 1
    assert labels.unique().tolist() == list(range(subjects.CLASSES))
    assert labels.bincount().min() >= subjects.MEMORY_SIZE // subjects.CLASSES - 4


def test_attention_has_a_table_of_its_own() -> None:
    found = costs.newest(
        [
            record("LiftedStructureLoss", "ours", 256, 2.54, 2.85),
            record("attention", "fused", 4096, 7.0, 30.0),
            record("attention", "dropout", 4096, 8.0, 2000.0),
        ]
    )
    assert "4096" not in costs.cost_table(found)
    lines = [line.split("|")[1].strip() for line in costs.attention_table(found).splitlines()]
    assert lines[2:] == ["fused", "fused, attention dropout 0.1"]
    assert costs.attention_table({}) == ""


@pytest.mark.parametrize("side", subjects.SUBJECTS[subjects.LARGE_BATCH].sides)
def test_large_batches_have_a_table_and_as_many_chunks_as_their_title_says(side: str) -> None:
    subject = subjects.SUBJECTS[subjects.LARGE_BATCH].sides[side]
    chunks: list[int] = []

    class Counted(large_batch_cost.Trunk):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            chunks.append(len(images))
            return super().forward(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_batch_cost, "Trunk", Counted)
        subject.make(subjects.CPU)(64)
    passes = {"one_pass": (1, 1), "chunks_8": (2, 8), "chunks_32": (2, 32)}
    times, number = passes[side]
    assert chunks == [64 // number] * number * times
    assert number == 1 or f"{number} chunks" in subject.title
    table = costs.large_batch_table(costs.newest([record("large_batch", side, 512, 2.0, 1.0)]))
    assert subject.title in table
    assert costs.large_batch_table({}) == ""


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
        subjects.SUBJECTS["attention"].sides[side].make(subjects.CPU)(8)
    assert (dropouts, explicit) == ([0.0, 0.1], [0.0])


def test_every_public_loss_has_a_cost_and_a_paper() -> None:
    from benchmarks.recipes import RECIPES
    from pml_extras import losses

    classes = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)}
    assert classes == set(subjects.PAIRS) == set(costs.PAPERS)
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
    one_pass = subjects.SUBJECTS[name].sides["weights"].make(subjects.CPU)
    one_pass(images)
    with pytest.raises(ValueError, match=f"^rows: expected at most {images}, .* got {images + 1}"):
        one_pass(images + 1)


@pytest.mark.parametrize("name", [*subjects.POOLINGS, subjects.POOLING_STEP])
def test_every_side_of_the_pooling_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling_cost, "PIXELS", 64)
    for side in subjects.SUBJECTS[name].sides.values():
        side.make(subjects.CPU)(2)


def test_the_table_of_the_pooling_says_how_many_times_more() -> None:
    sides = {"weights": 2.0, "weights_unrolled": 9.0, "layer": 30.0, "average": 1.0}
    records = [record("pooling_49", side, 112, ms, ms) for side, ms in sides.items()]
    table = costs.pooling_table(costs.newest(records))
    assert "9.0 ms / 9.0 MiB, 4.5x its time, 4.5x its memory" in table
    assert "30 ms / 30 MiB |" in table
    assert "training step" not in table
    steps = [
        record("pooling_step", "average", 8, 1000.0, None),
        record("pooling_step", "layer", 8, 1050.0, None),
    ]
    assert costs.pooling_table(costs.newest(steps)).endswith(
        "1000 ms with average pooling and a linear layer, 1050 ms with `GeneralizedSumPooling`, "
        "+5.0 %."
    )
    steps[1]["milliseconds"] = 990.0
    assert costs.pooling_table(costs.newest(steps)).endswith(
        "`GeneralizedSumPooling`: no share shows."
    )
    assert costs.pooling_table({}) == ""
