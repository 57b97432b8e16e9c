"""Weights on the simplex above a floor, learned by gradient descent."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pml_extras._checks import check_non_negative
from pml_extras.weighting.base import LossWeighting, Weighted
from pml_extras.weighting.floor import excess_of, floor_of


class LearnedSimplex(LossWeighting):
    r"""Weights that sum to 1 and never fall below a floor, trained with the network.

    .. math::
        w_j = \alpha + (1 - m \alpha) \, \mathrm{softmax}(a)_j, \qquad
        \frac{\partial L}{\partial a_k} = (1 - m \alpha) \, p_k \Big(l_k - \sum_j p_j l_j\Big),
        \quad p = \mathrm{softmax}(a)

    Favours the smallest loss: with losses scaled by their running means, the one that improved
    **most** relative to its own history. That is the opposite of what GradNorm or dynamic weight
    average do. For constant losses it ends with the floor everywhere but on the smallest, which
    gets 1 - (m - 1) alpha, by default (3m + 1) / (4m). In short runs the prior decides, in long
    ones the floor.

    Args:
        prior: positive numbers, in the order of the losses or by name; the start weights are their
            shares of the sum, each above ``floor``. None is uniform.
        floor: alpha in [0, 1/m), without unit; None is 1 / (4m).

    Attributes:
        logits: Parameter (m,), a. Give it to the optimizer **without weight decay**, which would
            pull the weights towards uniform. The rate decides how far they drift (1e-4 in the
            paper, with Adam).

    Scaled losses are needed for the weights to compare progress and not units.

    Source: the constraint set of Zabihzadeh et al., Ensemble of loss functions to improve
    generalizability of deep metric learning methods, 2021, Eq. 11, https://arxiv.org/abs/2107.01130.
    Departure: softmax instead of :math:`c^2` and a penalty
    (:class:`~pml_extras.weighting.SquaredWeights`), so the sum is exact and no weight has a dead
    gradient at the floor.

    Raises:
        ValueError: ``floor`` out of its range; when bound, a ``prior`` with a share at or below the
            floor, or with other names or another number of entries than there are losses.

    >>> weighting = LearnedSimplex(prior={"triplet": 1, "proxy": 3})
    >>> weighting.bind(["triplet", "proxy"])
    >>> weighting.weights()
    tensor([0.2500, 0.7500])
    """

    def __init__(
        self,
        prior: Mapping[str, float] | Sequence[float] | None = None,
        floor: float | None = None,
    ) -> None:
        super().__init__()
        if floor is not None:
            check_non_negative(floor=floor)
        self.prior = prior
        self.floor = floor

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        return Weighted(self._weights(losses.dtype) * losses)

    def weights(self) -> Tensor:
        return self._weights(self.logits.dtype).detach()

    def _weights(self, dtype: torch.dtype) -> Tensor:
        num_losses = len(self.names)
        floor = floor_of(self.floor, num_losses)
        return floor + (1 - num_losses * floor) * self.logits.to(dtype).softmax(dim=0)

    def _build(self, num_losses: int) -> None:
        floor = floor_of(self.floor, num_losses)
        prior = [1.0] * num_losses if self.prior is None else self._in_order("prior", self.prior)
        free = 1 - num_losses * floor
        start = [math.log(excess / free) for excess in excess_of(prior, floor)]
        self.logits = nn.Parameter(torch.tensor(start, dtype=torch.float32))
