"""Lifted structure loss at batch sizes where pml's own runs out of memory: change one import.

pml's LiftedStructureLoss builds a matrix of positive by negative pairs, which grows with the
cube of the batch. Ours is the same loss, equal in value and gradient where each pair has a
negative, in memory that grows with the batch alone:

    python examples/lifted_large_batch.py
"""

import time

import torch
from pytorch_metric_learning import losses as pml_losses

from pml_extras import losses


def value_and_gradient(loss_func: torch.nn.Module, rows: int) -> tuple[float, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(rows, 128, generator=generator, requires_grad=True)
    labels = torch.arange(rows) // 4
    start = time.perf_counter()
    loss = loss_func(embeddings, labels)
    loss.backward()
    seconds = time.perf_counter() - start
    assert embeddings.grad is not None
    return loss.item(), embeddings.grad, seconds


def main() -> None:
    ours, theirs = losses.LiftedStructureLoss(), pml_losses.LiftedStructureLoss()
    value_and_gradient(ours, 32)  # warm-up
    for rows in (32, 128, 512, 2048, 8192):
        value, grad, seconds = value_and_gradient(ours, rows)
        line = f"{rows:5d} rows   ours {value:8.4f} in {1000 * seconds:7.1f} ms"
        if rows <= 128:
            expected, expected_grad, pml_seconds = value_and_gradient(theirs, rows)
            apart = (grad - expected_grad).abs().max().item()
            line += f"   pml {expected:8.4f} in {1000 * pml_seconds:7.1f} ms"
            line += f", gradients {apart:.0e} apart"
        else:
            elements = rows * 3 * rows * (rows - 4)  # positive pairs times negative pairs
            line += f"   pml would need a matrix of {elements:.1e} elements, several times over"
        print(line)


if __name__ == "__main__":
    main()
