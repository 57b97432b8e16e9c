"""A run that is broken off anywhere and started again ends as one that was not."""

import errno
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils import common_functions as pml_globals
from torch.utils._pytree import tree_leaves

from benchmarks import campaign
from benchmarks.checkpoint import UNFINISHED, Checkpoint, RandomStates, Rest
from benchmarks.datasets import Data
from benchmarks.recipes import RECIPES, Budget, Recipe
from benchmarks.records import read
from benchmarks.run import Result, run

CPU = torch.device("cpu")
MEASURED = (
    "seconds_per_training_step_median",
    "seconds_total",
    "training_peak_mib",
    "finished_at",
)
REMEMBERING = (  # by what they keep from step to step
    "potential_field",
    "ibc_released",
    "ensemble_dwa",
    "ensemble_gradnorm",
    "ensemble_random",
    "ensemble_heads",
    "gsp_zero_shot_memory",
    "triplet_semihard",
)


class BrokenOffError(Exception):
    """Instead of a power cut."""


def comparable(result: Result | dict[str, Any]) -> dict[str, Any]:
    record = result if isinstance(result, dict) else asdict(result)
    return {name: value for name, value in record.items() if name not in MEASURED}


def interrupted(recipe: Recipe, data: Data, budget: Budget, file: Path, at_step: int) -> Result:
    """Broken off once after this step, and started again with other random states."""
    left = [at_step]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        run(recipe, data, 3, budget, device=CPU, on_step=step, unfinished=file)
    torch.manual_seed(99)
    random.seed(99)
    return run(recipe, data, 3, budget, device=CPU, unfinished=file)


def tensors_in(file: Path) -> list[torch.Tensor]:
    """Of trunk, loss and optimizers at the end of a run."""
    trained = torch.load(file, weights_only=False)["state"]["trained"]
    parts = (trained.trunk, trained.loss, *trained.optimizers.values())
    return [x for part in parts for x in tree_leaves(part.state_dict()) if torch.is_tensor(x)]


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_run_that_was_broken_off_ends_like_an_unbroken_one(
    name: str, few: Data, tmp_path: Path
) -> None:
    budget = Budget(epochs=3, iterations=2, batch_size=20, images_per_class=4)
    file, other = tmp_path / "run.pt", tmp_path / "whole.pt"
    resumed = interrupted(RECIPES[name], few, budget, file, at_step=4)  # one epoch was whole
    whole = run(RECIPES[name], few, 3, budget, device=CPU, unfinished=other)
    assert comparable(resumed) == comparable(whole)
    pairs = zip(tensors_in(file), tensors_in(other), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("at_step", [1, 2, 5, 6])
def test_any_step_may_be_the_last_one(at_step: int, few: Data, tmp_path: Path) -> None:
    budget = Budget(epochs=3, iterations=2, batch_size=20, images_per_class=4)
    recipe = RECIPES["ibc_released"]  # dropout, and a sampler of its own
    resumed = interrupted(recipe, few, budget, tmp_path / "run.pt", at_step)
    assert comparable(resumed) == comparable(run(recipe, few, 3, budget, device=CPU))


def test_the_schedule_goes_back_to_the_best_epoch_from_before_the_break(
    parted: Data, tmp_path: Path
) -> None:
    scheduled = next(r for r in RECIPES.values() if r.schedule is not None)
    budget = Budget(epochs=7, iterations=1, batch_size=12, images_per_class=4)
    resumed = interrupted(scheduled, parted, budget, tmp_path / "run.pt", at_step=3)
    assert comparable(resumed) == comparable(run(scheduled, parted, 3, budget, device=CPU))


def test_steps_before_the_break_are_counted_again_and_its_time_is_added(
    few: Data, budget: Budget, tmp_path: Path
) -> None:
    file, steps = tmp_path / "run.pt", []
    recipe = RECIPES["contrastive"]
    first = run(recipe, few, 3, budget, device=CPU, unfinished=file)
    again = run(
        recipe, few, 3, budget, device=CPU, unfinished=file, on_step=lambda: steps.append(1)
    )
    assert len(steps) == budget.steps  # nothing was left to train
    assert comparable(again) == comparable(first)
    assert again.seconds_total >= torch.load(file, weights_only=False)["state"]["seconds"]


@pytest.mark.parametrize(("name", "kept"), [("contrastive", False), ("ibc_released", True)])
def test_of_evaluations_only_what_a_run_may_end_with_is_kept(
    name: str, kept: bool, few: Data, budget: Budget, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def step() -> None:
        if (tmp_path / "run.pt").exists():  # that of the epoch before this one
            best = torch.load(tmp_path / "run.pt", weights_only=False)["state"]["best"]
            seen.append(best is not None)

    run(RECIPES[name], few, 3, budget, device=CPU, on_step=step, unfinished=tmp_path / "run.pt")
    assert seen == [kept] * budget.iterations
    ended = torch.load(tmp_path / "run.pt", weights_only=False)["state"]["best"]
    assert ended.evaluation.embeddings.shape == (len(few.test.labels), budget.embedding_size)


def test_a_state_of_other_code_or_no_state_at_all_begins_anew_and_says_so(
    few: Data, budget: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, recipe = tmp_path / "run.pt", RECIPES["contrastive"]
    expected = run(recipe, few, 3, budget, device=CPU, unfinished=file)
    saved = torch.load(file, weights_only=False)
    torch.save({**saved, "origin": {**saved["origin"], "commit": "another"}}, file)
    with pytest.warns(UserWarning, match=r"run\.pt is of another commit, package or device"):
        again = run(recipe, few, 3, budget, device=CPU, unfinished=file)
    assert comparable(again) == comparable(expected)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"run\.pt cannot be read .* begins anew"):
        run(recipe, few, 3, budget, device=CPU, unfinished=file)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "a" / "run.pt", {"commit": "x"})
    assert checkpoint.read() is None
    checkpoint.write({"epoch": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.write({"epoch": 2})
    assert checkpoint.read() == {"epoch": 1}
    checkpoint.write({"epoch": 2})
    assert checkpoint.read() == {"epoch": 2}
    nothing = Checkpoint(None, {})
    nothing.write({"epoch": 1})
    assert nothing.read() is None


@pytest.mark.parametrize("room", [0, 1000, 100_000, 790_000])
def test_a_disk_without_room_is_said_to_be_full_and_has_its_room_back(
    room: int, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "run.pt"
    checkpoint = Checkpoint(path, {"commit": "x"})
    checkpoint.write({"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            checkpoint.write({"epoch": 2, "weights": torch.zeros(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.read() == {"epoch": 1}


def test_all_generators_go_back_to_where_they_were() -> None:
    pml_globals.NUMPY_RANDOM = np.random.default_rng(0)

    def drawn() -> tuple[float, ...]:
        return (
            random.random(),
            float(np.random.rand()),  # noqa: NPY002 (what others draw from)
            float(torch.rand(())),
            float(pml_globals.NUMPY_RANDOM.random()),
        )

    states = RandomStates.now()
    first = drawn()
    assert all(a != b for a, b in zip(first, drawn(), strict=True))
    states.restore()
    assert drawn() == first


def test_the_rest_of_the_batches_begins_with_the_states_of_then() -> None:
    torch.manual_seed(1)
    states = RandomStates.now()
    expected = torch.rand(2)
    rest = iter(Rest([[0], [1], [2]], 2, states))
    torch.manual_seed(2)
    assert next(rest) == [2]
    assert torch.equal(torch.rand(2), expected)
    assert list(rest) == []


def test_passes_before_the_break_are_gone_through_again() -> None:
    states = RandomStates.now()
    rest = Rest([[0], [1], [2]], 7, states)
    assert [*iter(rest)] == [[1], [2]]
    assert [*iter(rest)] == [[0], [1], [2]]  # the next pass is whole
    at_the_end = Rest([[0], [1], [2]], 3, states)
    assert [*iter(at_the_end)] == []
    assert [*iter(at_the_end)] == [[0], [1], [2]]


def test_a_sampler_that_has_been_gone_through_several_times_goes_on(
    few: Data, tmp_path: Path
) -> None:
    budget = Budget(epochs=3, iterations=12, batch_size=20, images_per_class=4)
    recipe = RECIPES["ibc_released"]
    resumed = interrupted(recipe, few, budget, tmp_path / "run.pt", at_step=30)
    assert comparable(resumed) == comparable(run(recipe, few, 3, budget, device=CPU))


def test_a_finished_run_leaves_no_state_and_one_that_was_not_recorded_does(
    few: Data, budget: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = campaign.plan([RECIPES["contrastive"]], "digits", [0], budget, tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(campaign, "append", full)
        with pytest.raises(OSError, match="No space left"):
            campaign.carry_out(planned, few, budget, tmp_path, device=CPU)
    assert len(list((tmp_path / UNFINISHED).iterdir())) == 1
    campaign.carry_out(planned, few, budget, tmp_path, device=CPU)
    assert len(read(tmp_path, "digits")) == 1
    assert list((tmp_path / UNFINISHED).iterdir()) == []


COMMAND = (
    sys.executable, "-m", "benchmarks", "run", "--dataset", "digits", "--recipes", "ibc_released",
    "--seeds", "0", "--epochs", "60", "--iterations", "4",
)  # fmt: skip


def kept_at(folder: Path) -> list[int]:
    """When the checkpoint was written; [] before the first one."""
    return [path.stat().st_mtime_ns for path in (folder / UNFINISHED).glob("*.pt")]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    generator, broken = random.Random(0), tmp_path / "broken"
    for _ in range(10):
        with subprocess.Popen(
            [*COMMAND, "--results", broken], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            for _ in range(generator.randrange(4)):  # epochs, none where it is killed in imports
                before = kept_at(broken)
                while kept_at(broken) == before and process.poll() is None:
                    time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.3))
            assert process.poll() is None  # there was something left to break off
            process.kill()
    assert kept_at(broken)
    for folder in (broken, tmp_path / "unbroken"):
        subprocess.run([*COMMAND, "--results", folder], check=True, capture_output=True)
    (one,), (other,) = (read(tmp_path / name, "digits") for name in ("unbroken", "broken"))
    assert comparable(other) == comparable(one)
