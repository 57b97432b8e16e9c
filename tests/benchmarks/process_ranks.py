"""What each process of the tests of several processes runs; in a file of its own to be imported."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from benchmarks import run as running
from benchmarks.processes import rank_and_number
from benchmarks.recipes import RECIPES, Budget
from benchmarks.trainer import Trainer
from benchmarks.trunk import Trunk
from tests.benchmarks.few_digits import few_digits

CPU = torch.device("cpu")
BUDGET = Budget(epochs=5, iterations=3, batch_size=20, images_per_class=4)
SEVERAL = replace(BUDGET, epochs=2, accumulate=2, sub_batch=3)


class Frozen(Trunk):
    """Batch norm is never in training mode."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def frozen_trunk(
    embedding_size: int, seed: int, image: Any, pooling: Callable[..., nn.Module] | None = None
) -> nn.Module:
    torch.manual_seed(seed)
    return Frozen(embedding_size, image)


def losses_of(name: str, dtype: torch.dtype, budget: Budget = BUDGET) -> list[float]:
    """Mean training loss of every epoch."""
    torch.set_num_threads(1)
    before = running.seeded_trunk
    torch.set_default_dtype(dtype)
    running.seeded_trunk = frozen_trunk  # type: ignore[assignment]
    try:
        result = running.run(RECIPES[name], few_digits(dtype), 0, budget, device=CPU)
    finally:
        torch.set_default_dtype(torch.float32)
        running.seeded_trunk = before
    return [point["loss"] for point in result.curve[1:]]


def first_step_of(name: str) -> tuple[float, torch.Tensor]:
    """Its loss in float32, and the gradient of trunk and loss in one row."""
    found: list[torch.Tensor] = []
    step = Trainer.step_optimizers

    def watched(trainer: Trainer) -> None:
        modules = (*trainer.models.values(), *trainer.loss_funcs.values())
        grads = (parameter.grad for module in modules for parameter in module.parameters())
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
        step(trainer)

    Trainer.step_optimizers = watched  # type: ignore[method-assign]
    try:
        (loss,) = losses_of(name, torch.float32, replace(BUDGET, epochs=1, iterations=1))
    finally:
        Trainer.step_optimizers = step  # type: ignore[method-assign]
    return loss, found[0]


def work(rank: int, number: int, store: str, names: tuple[str, ...], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=number)
    assert rank_and_number() == (rank, number)
    found = {
        "epochs": {name: losses_of(name, torch.float64) for name in names},
        "first_step": {name: first_step_of(name) for name in names},
        "several": losses_of(names[0], torch.float64, SEVERAL),
    }
    torch.save(found, f"{out}.{rank}")
    dist.destroy_process_group()
