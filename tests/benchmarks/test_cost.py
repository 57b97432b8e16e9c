"""Costs: what is measured, and the tables made from it."""

import sys
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import cost
from benchmarks.reporting import costs
from benchmarks.reporting.tables import MISSING
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
        mib = self.mib if len(embeddings) > cost.WARM_UP_ROWS else 1
        return torch.ones(mib, 2**18).sum() * embeddings.sum()  # 2^18 float32 are one MiB


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_what_the_pass_touches_above_the_warm_up() -> None:
    small, large = (cost.peak_mib([cost.of_loss(partial(Hungry, mib))], 128) for mib in (8, 256))
    assert small is not None
    assert large is not None
    assert 200 < large - small < 300


def test_losses_take_turns_and_the_median_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[int] = []

    def slow(seconds: float) -> cost.Pass:
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
    overview = costs.overview_table(found, None)
    assert "1606 ms / 1042 MiB (LiftedStructureLoss)" in overview
    row = next(line for line in overview.splitlines() if "`PotentialFieldLoss`" in line)
    assert row.count(MISSING) == 3


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
        cost.SUBJECTS["attention"].sides[side].make(cost.CPU)(8)
    assert (dropouts, explicit) == ([0.0, 0.1], [0.0])


def test_every_public_loss_has_a_cost_a_paper_and_a_recipe() -> None:
    from benchmarks.recipes import RECIPES
    from pml_extras import losses

    assert set(losses.__all__) == set(cost.PAIRS) == set(costs.PAPERS) == set(costs.RECIPE_OF)
    assert set(costs.RECIPE_OF.values()) <= set(RECIPES)
