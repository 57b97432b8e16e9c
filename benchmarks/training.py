"""What is trained, and the training itself, by pml's trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from benchmarks.datasets import AnyData
from benchmarks.kinds import trunk_groups
from benchmarks.processes import wrapped_loss, wrapped_miner, wrapped_trunk
from benchmarks.quiet import quiet_pml
from benchmarks.recipes import Budget, Recipe
from benchmarks.recipes.budget import OPTIMIZERS
from benchmarks.trainer import Trainer, scaler_for
from benchmarks.watch import Watch


@dataclass
class Trained:
    """All that a training changes."""

    trunk: nn.Module
    loss: nn.Module | None
    miners: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler


def begin(
    recipe: Recipe,
    trunk: nn.Module,
    data: AnyData,
    budget: Budget,
    device: torch.device,
) -> Trained:
    scaler = scaler_for(budget, device)
    loss = recipe.make_loss(len(data.train.classes), budget.embedding_size)
    if loss is None:
        return Trained(trunk, None, {}, {}, scaler)
    loss = loss.to(device)
    make = OPTIMIZERS[budget.optimizer]
    optimizers = {"trunk_optimizer": make(trunk_groups(trunk, budget))}
    if groups := recipe.groups(loss, budget):
        optimizers["metric_loss_optimizer"] = make(groups)
    return Trained(trunk, loss, recipe.make_miners(), optimizers, scaler)


def train(
    trained: Trained,
    dataset: Dataset[Any],
    batches: BatchSampler,
    budget: Budget,
    watch: Watch,
) -> None:
    assert trained.loss is not None
    with quiet_pml():
        trainer = Trainer(
            budget,
            trained.scaler,
            models={"trunk": wrapped_trunk(trained.trunk)},
            optimizers=trained.optimizers,
            loss_funcs={"metric_loss": wrapped_loss(trained.loss)},
            mining_funcs={
                name: _of_embeddings(wrapped_miner(miner), budget.embedding_size)
                for name, miner in trained.miners.items()
            },
            dataset=dataset,
            data_device=watch.device,
            sampler=batches,
            dataloader_num_workers=watch.workers,
            gradient_clippers={"trunk_grad_clipper": watch.warm_up},
            end_of_iteration_hook=watch.after_batch,
            end_of_epoch_hook=watch.after_epoch,
        )
        watch.loss = trained.loss
        watch.start()
        trainer.train(start_epoch=watch.epochs_done + 1, num_epochs=budget.epochs)


def _of_embeddings(miner: nn.Module, width: int) -> Callable[[Tensor, Tensor], Any]:
    """The miner, which sees the first ``width`` columns and not what a pooling appends."""
    return lambda rows, labels: miner(rows[:, :width], labels)
