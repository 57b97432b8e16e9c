"""Weights of the shortest vector between the gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pml_extras._checks import check_one_of
from pml_extras.functional.loss_weighting import minimum_norm_weights
from pml_extras.weighting.base import LossWeighting, Weighted, gradients


class MultipleGradientDescent(LossWeighting):
    r"""Weights of the direction against which all losses fall, as far as there is one.

    .. math::
        w = \arg\min_{w \ge 0,\, \sum_j w_j = 1} \Big\lVert \sum_j w_j g_j \Big\rVert_2^2,
        \qquad g_j = \frac{\partial l_j}{\partial x}

    at the shared embeddings x, solved by :func:`pml_extras.functional.minimum_norm_weights`,
    to the accuracy that it states. The network is trained on
    :math:`\sum_j w_j l_j` with w held constant. A loss without gradient in this batch, such as a
    triplet loss whose miner found nothing, weighs 0: in the minimum it would weigh 1 and stop all
    others.

    Favours small gradients, often those of the loss that is learned best.

    Args:
        normalize: what g_j is divided by before solving: None, "l2" (its norm), "loss" (l_j) or
            "loss+" (l_j times its norm); a divisor of 0 divides nothing. The weights then
            multiply the losses as they are.

    Attributes:
        current: buffer (m,), the last weights, 1/m before the first. In eval mode, and where no
            gradient can be taken or one is not finite, they stay. They sum to 1.

    It has no parameters. The solution is found on the CPU in float64, so each training batch waits
    for the device once.

    Source: Sener and Koltun, Multi-task learning as multi-objective optimization, NeurIPS 2018,
    https://arxiv.org/abs/1810.04650: its upper bound, with gradients at the shared representation.
    Departure: the weight of a loss without gradient.

    Raises:
        ValueError: ``normalize`` is none of these; in training, a loss below 0, by name, with
            "loss" or "loss+", since dividing would turn its gradient round.
    """

    takes_gradients = True
    current: Tensor

    def __init__(self, normalize: str | None = None) -> None:
        super().__init__()
        if normalize is not None:
            check_one_of(("l2", "loss", "loss+"), normalize=normalize)
        self.normalize = normalize

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        weights = self.current.to(losses.dtype, copy=True)
        rows = gradients(losses, shared) if self.training else None
        if rows is not None and rows.isfinite().all() and losses.isfinite().all():
            weights = self._solve(rows.double(), losses.detach().double()).to(losses.dtype)
            with torch.no_grad():
                self.current.copy_(weights)
        return Weighted(weights * losses)

    def weights(self) -> Tensor:
        return self.current.clone()

    def _solve(self, rows: Tensor, losses: Tensor) -> Tensor:
        divisor = torch.ones_like(losses)  # (m,)
        if self.normalize in ("loss", "loss+"):
            self._refuse_negative(losses)
            divisor = divisor * losses
        if self.normalize in ("l2", "loss+"):
            divisor = divisor * rows.norm(dim=1)
        rows = rows / torch.where(divisor == 0, 1.0, divisor)[:, None]
        pulling = rows.any(dim=1)  # (m,)
        if not pulling.any():
            return torch.full_like(losses, 1 / len(losses))
        weights = torch.zeros_like(losses)
        weights[pulling] = minimum_norm_weights(rows[pulling] @ rows[pulling].T)
        return weights

    def _build(self, num_losses: int) -> None:
        uniform = torch.full((num_losses,), 1 / num_losses, dtype=torch.float32)
        self.register_buffer("current", uniform)
