"""The rows of all processes, in the order of their ranks."""

import torch
from pytorch_metric_learning.utils import distributed as pml
from torch import Tensor, distributed, nn

from pml_extras._checks import refuse


def world_size() -> int:
    """1 without a process group."""
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def all_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Those of every rank, padded to the most rows on the way.

    As bytes: backends know few types, and autocast may refuse to join half rows.

    Args:
        rows: (n, D) or (n,) of this process, of one dtype on all.
        sizes: n of each rank.

    Returns:
        (sum of n, D) or (sum of n,), without gradient.
    """
    columns = rows if rows.ndim == 2 else rows[:, None]
    padded = columns.new_zeros(max(sizes), columns.shape[1])
    padded[: len(rows)] = columns
    packed = padded.view(torch.uint8)
    parts = [torch.empty_like(packed) for _ in sizes]
    distributed.all_gather(parts, packed)
    joined = torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)]).view(rows.dtype)
    return joined if rows.ndim == 2 else joined[:, 0]


def gathered(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Rows and labels of all processes, which may have unlike numbers of them.

    Args:
        embeddings: (B, D) of this process, without gradient, of one dtype on all.
        labels: (B,) int64.

    Returns:
        (sum of B, D), (sum of B,), and where the rows of this process begin. What was given, and 0,
        with one process.
    """
    if world_size() == 1:
        return embeddings, labels, 0
    counts = [labels.new_zeros(1) for _ in range(world_size())]
    distributed.all_gather(counts, labels.new_tensor([len(labels)]))
    sizes = [int(count) for count in counts]
    start = sum(sizes[: distributed.get_rank()])
    return all_rows(embeddings, sizes), all_rows(labels, sizes), start


def refuse_joining(**modules: nn.Module | None) -> None:
    """Refuse what would join the rows of all processes by itself, inside another wrapper."""
    for name, module in modules.items():
        for inner in module.modules() if isinstance(module, nn.Module) else ():
            if isinstance(inner, (pml.DistributedLossWrapper, pml.DistributedMinerWrapper)):
                raise refuse(
                    name,
                    "one that leaves the rows of other processes to the outermost wrapper",
                    type(inner).__name__,
                    "Put DistributedLossWrapper around all, and nothing distributed inside.",
                )
