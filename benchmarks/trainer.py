"""pml's trainer with what a budget may ask for: autocast, several batches a step, parts of one."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.recipes import Budget
from pml_extras._checks import refuse
from pml_extras.functional.precision import at_least_float32
from pml_extras.pooling import GeneralizedSumPooling
from pml_extras.training import GradCache


class Trainer(GradCache):
    """One step of the optimizers is ``budget.accumulate`` batches, an iteration of pml is one.

    Args:
        budget: its ``amp`` is the type that the trunk multiplies in. Embeddings leave the trunk in
            float32, and miners and losses compute in that, parameters of losses included: pml's
            casts those for good where embeddings are half, and distances of near neighbours are
            what half types round away. Gradients and optimizers are float32 as the weights are.
            With ``sub_batch`` rows in a part the trunk keeps the graph of one part at a time, see
            :func:`pml_extras.training.cached_embeddings`; losses and miners see the whole batch.
        scaler: of gradients, for float16; disabled otherwise. Steps whose gradients are not finite
            are left out, of which the first ones of a training may be some.
        **kwargs: of pml's ``MetricLossOnly``, but for what follows from the budget.

    Accumulated gradients are averaged over the batches of a step, before they are clipped. That is
    no larger batch: a loss compares the rows of one batch alone, as miners and batch norm do, and
    only of a loss that is a mean over rows without any such thing is it the same.
    """

    def __init__(self, budget: Budget, scaler: torch.amp.GradScaler, **kwargs: Any) -> None:
        self.budget = budget
        super().__init__(
            batch_size=budget.batch_size,
            iterations_per_epoch=budget.batches,
            loss_weights={"metric_loss": 1 / budget.accumulate},
            chunk_size=budget.sub_batch or budget.batch_size,
            autocast=None if budget.amp is None else getattr(torch, budget.amp),
            scaler=scaler,
            **kwargs,
        )

    @property
    def at_a_step(self) -> bool:
        """Whether this batch is the last one of its step."""
        return bool((self.iteration + 1) % self.budget.accumulate == 0)

    def compute_embeddings(self, data: Tensor) -> Tensor:
        """(B, D); in one pass with one graph, unless the budget says in parts."""
        if self.budget.sub_batch is not None:
            return super().compute_embeddings(data)
        device = torch.device(self.data_device).type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            return at_least_float32(super(GradCache, self).compute_embeddings(data))

    def zero_grad(self) -> None:
        """As pml, before the first batch of a step."""
        if self.iteration % self.budget.accumulate == 0:
            super().zero_grad()

    def clip_gradients(self) -> None:
        """As pml, once a step."""
        if self.at_a_step:
            super().clip_gradients()

    def step_optimizers(self) -> None:
        """As pml, once a step."""
        if self.at_a_step:
            super().step_optimizers()


def scaler_for(budget: Budget, device: torch.device) -> torch.amp.GradScaler:
    """Of gradients that float16 would round to zero; it does nothing for other types."""
    return torch.amp.GradScaler(device.type, enabled=budget.amp == "float16")


def check_parts(trunk: nn.Module, budget: Budget) -> None:
    """Refuse parts of a batch where they would change the result."""
    if budget.sub_batch is None:
        return
    trunk.train()
    norms = [m for m in trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if any(norm.training for norm in norms):
        raise refuse(
            "sub_batch",
            "a trunk without batch norm in training mode, which would see each part by itself",
            f"{type(trunk).__name__} with it",
            "Take features or a backbone with frozen batch norm, or leave it out.",
        )
    if any(isinstance(m, GeneralizedSumPooling) and not m.started for m in trunk.modules()):
        raise refuse(
            "sub_batch",
            "a pooling that is the same in both passes of a part",
            "generalized sum pooling, whose prototypes start while it is trained",
            "Leave it out, or take recipes of another pooling.",
        )
