"""Weights from how much each loss changed over the last two epochs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pml_extras._checks import check_positive, refuse
from pml_extras.weighting.base import LossWeighting, Weighted


class DynamicWeightAverage(LossWeighting):
    r"""Weights by the ratio of the mean losses of the last two epochs.

    .. math::
        w_j(t) = m \, \mathrm{softmax}(r / T)_j, \qquad
        r_j = \frac{\bar l_j(t - 1)}{\bar l_j(t - 2)}

    and 1 in the first two epochs. Favours the loss that improved **least**.

    Call :meth:`step_epoch` at the end of each epoch; with pml's trainers in
    ``end_of_epoch_hook``. Without it the weights stay 1.

    Args:
        temperature: T > 0, without unit; large ones make the weights equal.

    Attributes:
        epoch_mean: buffer (m,), mean of the raw losses over this epoch's training batches.
        num_batches: buffer (), how many these were.
        previous_mean: buffer (m,), that of the epoch before, 0 in the first.
        current: buffer (m,), the weights of this epoch. They sum to m.

    It has no parameters. The means are those of one process.

    Source: Liu, Johns and Davison, End-to-end multi-task learning with attention, CVPR 2019,
    https://arxiv.org/abs/1803.10704. Departure: the ratio over a mean of 0 is 1.

    Raises:
        ValueError: ``temperature`` out of its range; ``step_epoch`` without a batch since the last.
    """

    epoch_mean: Tensor
    num_batches: Tensor
    previous_mean: Tensor
    current: Tensor

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        if self.training:
            self._accumulate(raw)
        return Weighted(self.current.to(losses.dtype, copy=True) * losses)

    def weights(self) -> Tensor:
        return self.current.clone()

    @torch.no_grad()
    def step_epoch(self) -> None:
        """End an epoch: the weights of the next one follow from the means of the last two.

        Raises:
            ValueError: no batch was weighed in training mode since the last call.
        """
        if not self.names or (self.num_batches == 0).all():
            raise refuse("step_epoch", "a batch in training mode since the last call", "none")
        last, before = self.epoch_mean, self.previous_mean
        largest = torch.finfo(last.dtype).max  # over a tiny mean the ratio may overflow
        ratio = torch.where(before == 0, 1.0, (last / before).clamp(-largest, largest))  # (m,)
        self.current.copy_(len(self.names) * (ratio / self.temperature).softmax(dim=0))
        self.previous_mean.copy_(last)
        self.epoch_mean.zero_()
        self.num_batches.zero_()

    @torch.no_grad()
    def _accumulate(self, raw: Tensor) -> None:
        counts = raw.isfinite()
        self.num_batches += counts
        value = raw.to(self.epoch_mean.dtype)
        step = (value - self.epoch_mean) / self.num_batches.clamp(min=1)
        self.epoch_mean += torch.where(counts, step, 0.0)

    def _build(self, num_losses: int) -> None:
        self.register_buffer("epoch_mean", torch.zeros(num_losses, dtype=torch.float32))
        self.register_buffer("num_batches", torch.zeros(num_losses, dtype=torch.int64))
        self.register_buffer("previous_mean", torch.zeros(num_losses, dtype=torch.float32))
        self.register_buffer("current", torch.ones(num_losses, dtype=torch.float32))
