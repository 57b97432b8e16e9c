"""What TensorBoard shows: each point once, also of a run that was broken off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data
from benchmarks.recipes import RECIPES
from benchmarks.run import run
from tests.benchmarks.few_features import BUDGET, few_features
from tests.benchmarks.test_checkpoint import BrokenOffError, comparable

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
from benchmarks.tensorboard import Drawn  # noqa: E402

CPU = torch.device("cpu")
DATA = few_features()
Points = dict[str, list[tuple[int, float]]]


def shown(folder: Path) -> Points:
    """Points of every curve, as TensorBoard shows them."""
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_losses_come_by_batch_and_metrics_by_epoch(tmp_path: Path) -> None:
    recipe = RECIPES["potential_field_1"]
    result = run(recipe, DATA, 0, replace(BUDGET, accumulate=2), device=CPU, tensorboard=tmp_path)
    batches, epochs = (shown(tmp_path / name) for name in ("batches", "epochs"))
    losses = batches["loss_histories/metric_loss"]
    assert [at for at, _ in losses] == list(range(8))
    means = [sum(value for _, value in losses[at : at + 4]) / 2 for at in (0, 4)]
    assert means == pytest.approx([point["loss"] for point in result.curve[1:]], rel=1e-6)
    rates = [rate for _, rate in batches["trunk_optimizer_Adam/lr"]]
    assert rates == pytest.approx([BUDGET.trunk_lr] * 8)
    assert "metric_loss_PotentialFieldLoss/excess_sample_sample" in batches
    for name in ("recall_at_1", "mean_average_precision_at_r"):
        values = [(point["epoch"], pytest.approx(point[name])) for point in result.curve]
        assert epochs[f"epoch/{name}"] == values
    assert [at for at, _ in epochs["epoch/loss"]] == [1, 2]
    assert [at for at, _ in epochs["epoch_statistics/excess_sample_sample"]] == [1, 2]


@pytest.mark.parametrize("name", ["potential_field_0", "ibc", "ensemble_heads", "untrained"])
def test_it_changes_nothing_and_draws_every_kind_of_loss(name: str, tmp_path: Path) -> None:
    plain = run(RECIPES[name], DATA, 0, BUDGET, device=CPU)
    drawn = run(RECIPES[name], DATA, 0, BUDGET, device=CPU, tensorboard=tmp_path)
    assert comparable(drawn) == comparable(plain)
    assert [at for at, _ in shown(tmp_path / "epochs")["epoch/recall_at_1"]] == (
        [0] if name == "untrained" else [0, 1, 2]
    )


def test_a_run_that_was_broken_off_shows_the_points_of_an_unbroken_one(tmp_path: Path) -> None:
    recipe, budget = RECIPES["ibc_released"], replace(BUDGET, epochs=3, iterations=3)
    run(recipe, DATA, 3, budget, device=CPU, tensorboard=tmp_path / "whole")
    left = [5]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise BrokenOffError

    again: dict[str, Any] = {
        "device": CPU, "unfinished": tmp_path / "run.pt", "tensorboard": tmp_path / "broken",
    }  # fmt: skip
    with pytest.raises(BrokenOffError):
        run(recipe, DATA, 3, budget, on_step=step, **again)
    run(recipe, DATA, 3, budget, **again)
    for name in ("batches", "epochs"):
        assert shown(tmp_path / "broken" / name) == shown(tmp_path / "whole" / name)


def test_points_of_batches_that_are_trained_again_are_replaced(tmp_path: Path) -> None:
    class Trained:
        """What pml's hook reads of a trainer."""

        iteration = 0
        loss_funcs: dict[str, Any] = {}  # noqa: RUF012
        mining_funcs = models = optimizers = loss_funcs

        def __init__(self, at: int, loss: float) -> None:
            self._at = at
            self.loss_tracker = self
            self.losses, self.loss_weights = {"metric_loss": loss}, {"metric_loss": 1}

        def get_global_iteration(self) -> int:
            return self._at

    curve = [{"epoch": 0, "recall_at_1": 0.25}]
    first = Drawn(tmp_path, curve, 0)
    for at in range(5):
        first.after_batch(Trained(at, 0.5))
    first.after_epoch({"epoch": 1, "recall_at_1": 0.5})
    kept = shown(tmp_path / "batches")["loss_histories/metric_loss"]  # as a killed run leaves it
    assert kept == [(at, 0.5) for at in range(5)]
    first.close()
    second = Drawn(tmp_path, curve, 2)  # the checkpoint was of two batches, before the epoch
    for at in (2, 3):
        second.after_batch(Trained(at, 2.0))
    second.close()
    expected = [(0, 0.5), (1, 0.5), (2, 2.0), (3, 2.0)]
    assert shown(tmp_path / "batches")["loss_histories/metric_loss"] == expected
    assert shown(tmp_path / "epochs")["epoch/recall_at_1"] == [(0, 0.25)]


def test_of_several_processes_the_first_one_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.run.rank_and_number", lambda: (1, 2))
    run(RECIPES["contrastive"], DATA, 0, BUDGET, device=CPU, tensorboard=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_each_run_into_a_folder_of_its_own(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], load=lambda root: few))
    command = ["run", "--epochs", "1", "--iterations", "1", "--seeds", "0", "--device", "cpu"]
    folders = ["--results", str(tmp_path / "mine"), "--tensorboard", str(tmp_path / "drawn")]
    done = CliRunner().invoke(app, [*command, "--recipes", "contrastive", "untrained", *folders])
    assert done.exit_code == 0, done.output
    names = sorted(folder.name for folder in (tmp_path / "drawn").iterdir())
    assert [name.rpartition("-")[0] for name in names] == [
        "contrastive-digits-0", "untrained-digits-0",
    ]  # fmt: skip
    for name, epochs in zip(names, ([0, 1], [0]), strict=True):
        points = shown(tmp_path / "drawn" / name / "epochs")["epoch/recall_at_1"]
        assert [at for at, _ in points] == epochs
