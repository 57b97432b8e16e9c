"""Weights that stay as they were given."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pml_extras._checks import check_non_negative, refuse
from pml_extras.weighting.base import LossWeighting, Weighted


class FixedWeights(LossWeighting):
    r"""The baseline: :math:`L = \sum_j w_j l_j` with constant :math:`w_j`.

    The form of pml's ``MultipleLosses``, to the bit. It favours whichever loss is largest, in value
    or in gradient, unless the ensemble scales them.

    Args:
        weights: finite numbers >= 0, not all 0, in the order of the losses or by name; they are
            taken as they are, so their sum is the scale of the total. None is 1/m each.

    The weights are plain numbers, as in pml, and neither parameters nor in the state dict: a buffer
    of float32 would round 0.1 where the losses are float64, and one of float64 could not move to
    every device.

    Raises:
        ValueError: when bound, a weight out of its range, all 0, or not one a loss.
    """

    def __init__(self, weights: Mapping[str, float] | Sequence[float] | None = None) -> None:
        super().__init__()
        self.given = weights
        self.factors: tuple[float, ...] = ()

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        terms = zip(self.factors, self._vector(losses), strict=True)
        return Weighted(torch.stack([factor * loss for factor, loss in terms]))

    def weights(self) -> Tensor:
        """(m,) float64, on the CPU."""
        return torch.tensor(self.factors, dtype=torch.float64, device="cpu")

    def _build(self, num_losses: int) -> None:
        if self.given is None:
            self.factors = (1 / num_losses,) * num_losses
            return
        factors = self._in_order("weights", self.given)
        for value in factors:
            check_non_negative(weights=value)
        if not any(factors):
            raise refuse("weights", "one above 0", "0 for every loss")
        self.factors = tuple(float(value) for value in factors)
