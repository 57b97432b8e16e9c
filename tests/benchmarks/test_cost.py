"""Costs: how time and peak memory of a pass are measured."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import cost
from benchmarks import cost_losses as losses
from benchmarks.command_line import app
from benchmarks.cost_losses import Setting
from benchmarks.records import read_costs


class Hungry(torch.nn.Module):
    """Touches so many MiB, twice for a batch of more than the warm-up's rows."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.mib = mib

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mib = self.mib if len(embeddings) > losses.WARM_UP_ROWS else 1
        return torch.ones(mib, 2**18).sum() * embeddings.sum()  # 2^18 float32 are one MiB


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_what_the_pass_touches_above_the_warm_up() -> None:
    def peak(mib: int) -> float | None:
        return cost.peak_mib([losses.of_loss(lambda classes: Hungry(mib), Setting())], 128)

    small, large = peak(8), peak(256)
    assert small is not None
    assert large is not None
    assert 200 < large - small < 300


def test_losses_take_turns_and_the_median_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[int] = []

    def slow(seconds: float) -> losses.Pass:
        def one_pass(rows: int) -> None:
            clock[0] += seconds
            calls.append(round(1000 * seconds))

        return one_pass

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    assert cost.milliseconds([slow(0.03), slow(2.0)], 8) == pytest.approx([30.0, 2000.0])
    assert calls[:8] == [30, 30, 30, 2000] * 2  # a warm-up and 50 ms at least, or one long pass
    assert len(calls) == 4 * cost.MIN_TURNS


def test_turns_go_on_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def one_pass(rows: int) -> None:
        clock[0] += 0.1

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    cost.milliseconds([one_pass], 8)
    assert clock[0] == pytest.approx(cost.SECONDS_A_SIDE + 0.2, abs=0.11)


Measured = Callable[[str, int], tuple[float, float]]  # (side, rows) -> MiB, seconds


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Measured], None]:
    """Fresh processes that find what they are told to find; None of a side: they fail."""

    def install(measured: Callable[[str, int], Any]) -> None:
        def find(what: str, name: str, plan: Any, device: torch.device, dtype: str) -> list[Any]:
            found = [[measured(side, rows) for side in sides] for rows, sides in plan]
            if what == "memory":
                return [sides[0] for sides in found if sides[0] is not None]
            return [[1000 * seconds for _, seconds in sides] for sides in found]

        monkeypatch.setattr(cost, "_in_fresh_process", find)

    return install


def measured_rows(*batches: int) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for r in cost.sweep(("LiftedStructureLoss",), batches):
        rows.setdefault(r["side"], []).append(r["rows"])
    return rows


def test_a_side_stops_before_it_is_expected_to_exceed_the_memory(pretend: Any) -> None:
    pretend(lambda side, rows: (cost.LIMIT_MIB / 4 if (side, rows) == ("theirs", 16) else 1, 0.1))
    assert measured_rows(32, 8, 16) == {"ours": [8, 16, 32], "theirs": [8, 16]}


def test_a_side_stops_before_it_is_expected_to_exceed_the_seconds(pretend: Any) -> None:
    assert cost.LIMIT_SECONDS == 10
    pretend(lambda side, rows: (1, 0.05 * rows if side == "ours" else (rows / 8) ** 3 / 8))
    # 1/8, 1, 8 s: 1 s grew eightfold, so 8 s are expected next; 64 s are not tried
    assert measured_rows(8, 16, 32, 64) == {"ours": [8, 16, 32, 64], "theirs": [8, 16, 32]}
    pretend(lambda side, rows: (1, 2.0))  # of the first step nothing is known: 8 times more
    assert measured_rows(8, 16) == {"ours": [8], "theirs": [8]}


def test_a_side_that_fails_is_left_out_and_the_others_go_on(pretend: Any) -> None:
    pretend(lambda side, rows: None if (side, rows) == ("theirs", 16) else (1, 0.1))
    assert measured_rows(8, 16, 32) == {"ours": [8, 16, 32], "theirs": [8]}
    pretend(lambda side, rows: None)
    assert measured_rows(8) == {}


def test_a_process_that_fails_says_what_was_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    plan = [(8, ["ours"]), (16, ["none"])]
    found = cost._in_fresh_process("time", "PNPLoss", plan, losses.CPU, "float32")
    assert len(found) == 1
    assert found[0][0] > 0
    said = capfd.readouterr().err
    assert "KeyError: 'none'" in said
    assert "PNPLoss, time of [(8, ['ours']), (16, ['none'])]: failed, left out" in said


def test_records_say_what_was_measured_of_which_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(what: str, name: str, plan: Any, device: Any, dtype: str) -> list[Any]:
        said = StringIO()
        with redirect_stdout(said):
            cost._main(what, name, json.dumps(plan), str(device), dtype)
        return [json.loads(line) for line in said.getvalue().splitlines()]

    made: list[torch.dtype] = []

    def watched(setting: Setting) -> losses.Pass:
        made.append(setting.dtype)
        return losses.of_product(setting)

    product = losses.OF_EMBEDDINGS["product"]
    sides = {name: losses.Side(side.title, watched) for name, side in product.sides.items()}
    monkeypatch.setitem(losses.OF_EMBEDDINGS, "product", product._replace(sides=sides))
    monkeypatch.setattr(cost, "_in_fresh_process", in_this_process)
    arguments = ["cost", "--losses", "product", "--rows", "8", "66", "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert set(made) == {torch.bfloat16}
    found = read_costs(tmp_path)
    assert [(r["side"], r["rows"], r["classes"]) for r in found] == [
        ("floor", 8, 16),
        ("lifted", 8, 16),
        ("floor", 66, 17),
        ("lifted", 66, 17),
    ]
    for r in found:
        assert (r["dtype"], r["rows_per_class"], r["dim"]) == ("bfloat16", 4, 128)
        assert r["milliseconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "int8"], "--dtype: expected one of float32, bfloat16; got 'int8'"),
        (["--dtype", "bfloat16", "--losses", "attention"], "--losses: expected one of product"),
    ],
)
def test_types_that_nothing_has_are_refused(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["cost", *arguments, "--results", str(tmp_path)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
