"""The same run on several processes: ``torchrun --nproc-per-node 2 -m benchmarks run ...``.

Each process trains on its part of every batch, consecutive rows of it, so that what
``DistributedLossWrapper`` joins is the batch of one process; ``DistributedDataParallel`` averages
the gradients of the trunk. The loss sees the joined batch everywhere and gets the gradient of one
process everywhere, so its own parameters need no averaging. Miners see the joined batch too.
Without ``torchrun`` nothing of this is there: one code path.

What depends on the size of a part stays different: batch norm in training mode. Its running
statistics are those of the first process, as in ``DistributedDataParallel``.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler

from pml_extras.wrappers import DistributedLossWrapper, DistributedMinerWrapper


def rank_and_number() -> tuple[int, int]:
    """Of this process; (0, 1) alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started; gives the device of this one."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


class Batches(BatchSampler):
    """As many as are asked for, so that their number is not known."""

    def __len__(self) -> int:  # list() asks, and takes this for no length
        raise TypeError("Whoever asks for batches says how many.")


class Parts(Batches):
    """The part of this process of every batch: W parts in order, the first ones one row longer
    where they do not divide."""

    def __init__(self, indices: Iterable[Any], batch_size: int) -> None:
        self._indices, self._size = indices, batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        rank, number = rank_and_number()
        batch: list[Any] = []
        for index in self._indices:
            batch.append(index)
            if len(batch) == self._size:
                part = torch.arange(self._size).tensor_split(number)[rank]
                yield [batch[place] for place in part.tolist()]
                batch = []


def wrapped_trunk(trunk: nn.Module) -> nn.Module:
    """Under ``DistributedDataParallel`` where there are several processes."""
    if rank_and_number()[1] == 1 or not any(p.requires_grad for p in trunk.parameters()):
        return trunk
    return DistributedDataParallel(trunk)


def wrapped_loss(loss: nn.Module) -> nn.Module:
    """Of the joined batch where there are several processes."""
    return loss if rank_and_number()[1] == 1 else DistributedLossWrapper(loss)


def wrapped_miner(miner: nn.Module) -> nn.Module:
    """Likewise."""
    return miner if rank_and_number()[1] == 1 else DistributedMinerWrapper(miner)


def share_buffers(*modules: nn.Module) -> None:
    """Those of the first process for all, before they are evaluated or kept."""
    if rank_and_number()[1] > 1:
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)
