"""Several processes train as one."""

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from benchmarks.checkpoint import Rest
from benchmarks.processes import Parts
from benchmarks.records import read
from tests.benchmarks.process_ranks import SEVERAL, first_step_of, losses_of, work

NAMES = ("potential_field", "lifted_structure", "triplet_semihard", "ensemble_simplex")


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def found(request, tmp_path_factory):
    """By rank: losses of the epochs in float64, and the first step in float32, by recipe."""
    folder = tmp_path_factory.mktemp("processes")
    number = request.param
    multiprocessing.spawn(
        work, args=(number, str(folder / "store"), NAMES, str(folder / "out")), nprocs=number
    )
    return [torch.load(f"{folder / 'out'}.{rank}", weights_only=False) for rank in range(number)]


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_of_all_epochs_are_those_of_one_process(name, found):
    double = found[0]["epochs"][name]
    assert double == pytest.approx(losses_of(name, torch.float64), rel=1e-10)
    assert double[-1] != pytest.approx(double[0], rel=1e-3)  # something was learnt


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_in_float32_has_the_loss_and_the_gradient_of_one_process(name, found):
    (loss, grad), (expected_loss, expected) = found[0]["first_step"][name], first_step_of(name)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert (grad - expected).norm() <= 1e-5 * expected.norm()
    assert expected.norm() > 0


def test_several_batches_a_step_and_parts_of_a_batch_are_too(found):
    several = losses_of(NAMES[0], torch.float64, SEVERAL)
    assert found[0]["several"] == pytest.approx(several, rel=1e-10)


def test_every_process_has_the_same_losses_and_gradients(found):
    for of_rank in found[1:]:
        assert of_rank["epochs"] == found[0]["epochs"]
        assert of_rank["several"] == found[0]["several"]
        for name, (loss, grad) in of_rank["first_step"].items():
            assert loss == found[0]["first_step"][name][0]
            assert torch.equal(grad, found[0]["first_step"][name][1])


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_parts_are_consecutive_rows_of_every_batch(number, monkeypatch):
    parts = []
    for rank in range(number):
        monkeypatch.setattr("benchmarks.processes.rank_and_number", lambda r=rank: (r, number))
        parts.append([*iter(Parts(iter(range(23)), 7))])
    batches = [list(chain(*of_batch)) for of_batch in zip(*parts, strict=True)]
    assert batches == [list(range(start, start + 7)) for start in (0, 7, 14)]
    sizes = [len(of_rank[0]) for of_rank in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_number_of_batches_is_not_known():
    for batches in (Parts([], 7), Rest([], 0, None)):
        with pytest.raises(TypeError, match="Whoever asks for batches says how many"):
            len(batches)


def test_torchrun_writes_one_line_a_run_and_speaks_once(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "benchmarks", "run", "--dataset", "digits", "--recipes", "lifted_structure",
        "--seeds", "0", "--epochs", "1", "--iterations", "2", "--device", "cpu",
        "--results", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 runs to do") == 1
    (record,) = read(tmp_path, "digits")
    assert record["recipe"] == "lifted_structure"
