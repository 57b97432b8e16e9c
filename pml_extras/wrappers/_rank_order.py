"""The rows of all processes, in the order of their ranks."""

import torch
from torch import Tensor, distributed


def gathered(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Rows and labels of all processes, which may have unlike numbers of them.

    Args:
        embeddings: (B, D) of this process, without gradient, of one dtype on all.
        labels: (B,) int64.

    Returns:
        (sum of B, D), (sum of B,), and where the rows of this process begin. What was given, and 0,
        without torch.distributed.
    """
    alone = not (distributed.is_available() and distributed.is_initialized())
    if alone or distributed.get_world_size() == 1:
        return embeddings, labels, 0
    world_size = distributed.get_world_size()
    sizes = [labels.new_zeros(1) for _ in range(world_size)]
    distributed.all_gather(sizes, labels.new_tensor([len(labels)]))
    counts = [int(size) for size in sizes]
    parts = []
    for mine in (embeddings, labels):
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        received = [torch.empty_like(padded) for _ in range(world_size)]
        distributed.all_gather(received, padded)
        parts.append(torch.cat([x[:count] for x, count in zip(received, counts, strict=True)]))
    return parts[0], parts[1], sum(counts[: distributed.get_rank()])
