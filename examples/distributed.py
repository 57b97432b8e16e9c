"""Several processes with a part of each batch learn what one process learns from all of it.

Two processes on a CPU, one process, and what ``torchrun`` starts print the same lines, to rounding:

    torchrun --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py

For that a batch is cut here. Where it need not be one process's, ``num_replicas`` and ``rank`` of a
sampler of ours give each process batches of its own, as in accelerate_loop.py.
"""

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.losses import SmoothedProxyNCALoss
from pml_extras.wrappers import DistributedLossWrapper

CLASSES, ROWS, STEPS = 10, 61, 60  # no number of processes divides the rows


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around the corners of a cube, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    corners = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(-1))
    return corners[labels] + torch.randn(ROWS, 16, generator=generator), labels


def main() -> None:
    """Train, on this rank's part of each batch."""
    torch.set_num_threads(1)
    parallel = "RANK" in os.environ  # set by torchrun
    if parallel:
        distributed.init_process_group("gloo")
    rank = distributed.get_rank() if parallel else 0
    world = distributed.get_world_size() if parallel else 1
    torch.manual_seed(0)
    trunk: nn.Module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    loss_func: nn.Module = DistributedLossWrapper(SmoothedProxyNCALoss(CLASSES, 8))
    if parallel:
        trunk, loss_func = DistributedDataParallel(trunk), DistributedDataParallel(loss_func)
    optimizer = torch.optim.Adam([*trunk.parameters(), *loss_func.parameters()], lr=0.01)
    for step in range(STEPS):
        x, labels = batch(step)
        part = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        optimizer.zero_grad()
        loss = loss_func(trunk(x[part]), labels[part])
        loss.backward()
        optimizer.step()
        if rank == 0 and step % 20 == 19:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    if parallel:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
