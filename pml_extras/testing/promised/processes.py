"""Promises about training in several processes."""

import multiprocessing
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from pml_extras.testing.batches import UNEVEN, Batch
from pml_extras.testing.registry import extra_promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Run, Subject
from pml_extras.testing.verdicts import differs_from, in_words, not_applicable, number, verdict
from pml_extras.wrappers import DistributedLossWrapper

WORLD_SIZE = 2
EVEN = (1, 0, 0, 1, 1, 0, 1, 0, 0, 1)  # as many rows of each class, where uneven ones are refused


@extra_promise
def two_processes(subject: Subject) -> Iterator[Outcome]:
    """Two processes with unequal parts of a batch, in our DistributedLossWrapper, equal one.

    Compute from the rows that are given alone: no reading of the rank, no collective operation, no
    state of a process.
    """
    if not subject.repeatable:
        yield not_applicable("stochastic or stateful: see `repeatable`")
        return
    batch = subject.batches.of([*UNEVEN, *UNEVEN])
    alone = subject.run(batch)
    if not alone.usable:
        batch = subject.batches.of(EVEN)
        alone = subject.run(batch)
    if not alone.usable:
        return
    loss = subject.fresh(dtype=torch.float64)
    if not isinstance(loss, BaseMetricLossFunction):
        yield not_applicable("DistributedLossWrapper takes losses on pml's base class alone")
        return
    try:
        pickle.dumps(loss)
    except Exception as error:  # `copies` reports it
        yield not_applicable(f"it cannot be sent to a process: {in_words(error)}")
        return
    expected = f"value {number(alone)} and its gradients, as in one process"
    for rank, run in enumerate(_joined(loss, batch, subject.seed)):
        rows = len(_part(batch.embeddings, rank))
        case = f"{rows} of {len(batch.embeddings)} rows, rank {rank}"
        yield verdict(case, run, expected, differs_from(_of_rank(alone, rank)))


def _of_rank(alone: Run, rank: int) -> Run:
    """What a rank can see of a run in one process: the gradient of its own rows."""
    embeddings = alone.gradients["embeddings"]
    own = None if embeddings is None else _part(embeddings, rank)
    gradients = {**alone.gradients, "embeddings": own}
    return Run(alone.batch, alone.given, alone.value, alone.attached, gradients)


def _part(x: Tensor, rank: int) -> Tensor:
    """Two thirds of the rows for the first rank, the rest for the second."""
    return x.tensor_split((2 * len(x) // 3,))[rank]


def _joined(loss: torch.nn.Module, batch: Batch, seed: int) -> list[Run]:
    """A run a rank."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(
            _work, (folder, loss, batch, seed), nprocs=WORLD_SIZE, start_method=_start_method()
        )
        paths = [Path(folder, f"{rank}.pickle") for rank in range(WORLD_SIZE)]
        return [Run(batch, batch, **pickle.loads(path.read_bytes())) for path in paths]


def _start_method() -> str:
    """Where it is known, a server that has imported all and copies itself: 20 times as fast."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload([__name__])
    return "forkserver"


def _work(rank: int, folder: str, loss: torch.nn.Module, batch: Batch, seed: int) -> None:
    warnings.simplefilter("ignore")  # a warning breaks no promise
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    distributed.init_process_group(
        "gloo",
        init_method=Path(folder, "meeting").as_uri(),
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=120),
    )
    try:
        found = _found(rank, loss, batch)
    except Exception as error:  # whatever it is, it is the outcome
        found = {"error": error if isinstance(error, ValueError) else RuntimeError(in_words(error))}
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


def _found(rank: int, loss: torch.nn.Module, batch: Batch) -> dict[str, Any]:
    rows = _part(batch.embeddings, rank).clone().requires_grad_()
    labels = None if batch.labels is None else _part(batch.labels, rank)
    value = DistributedLossWrapper(loss)(rows, labels)
    value.backward()
    # DDP averages: the wrapper gives rows, of one rank each, WORLD_SIZE times their gradient.
    of_rows = None if rows.grad is None else rows.grad / WORLD_SIZE
    return {
        "value": value.detach().reshape(()),
        "attached": value.requires_grad,
        "gradients": {"embeddings": of_rows, **{k: p.grad for k, p in loss.named_parameters()}},
    }
