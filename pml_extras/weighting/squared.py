"""The paper's own parametrisation of learned weights: squares and a penalty on their sum."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pml_extras._checks import check_non_negative, check_positive
from pml_extras.weighting.base import LossWeighting, Weighted
from pml_extras.weighting.floor import excess_of, floor_of


class SquaredWeights(LossWeighting):
    r"""Eq. 11 as published, for replication; else :class:`~pml_extras.weighting.LearnedSimplex`.

    .. math::
        w_j = c_j^2 + \alpha, \qquad
        L = \sum_j w_j l_j + \eta \Big(\sum_j w_j - 1\Big)^2, \qquad
        \frac{\partial L}{\partial c_k} = 2 c_k \Big(l_k + 2 \eta \Big(\sum_j w_j - 1\Big)\Big)

    Favours the smallest loss, hence with scaled losses the one that improved **most**. For constant
    losses the sum of the weights ends at 1 - min l / (2 eta).

    Args:
        prior: positive numbers, in the order of the losses or by name; the start weights are their
            shares of the sum, each above ``floor``. None is uniform.
        floor: alpha in [0, 1/m), without unit; None is the paper's 1 / (4m).
        penalty: eta > 0, in units of the losses.

    Attributes:
        roots: Parameter (m,), c, positive at the start; its sign has no meaning. Give it to the
            optimizer **without weight decay**, which would pull it to 0, where its gradient
            vanishes. The penalty is stiff: under Adam the sum wobbles by about 3 times the rate,
            and plain SGD diverges at rates above 1 / (4 eta), 2.5e-5.

    The extra term is ``weight_sum_penalty``, 0 at the start.

    Source: Zabihzadeh et al., Ensemble of loss functions to improve generalizability of deep metric
    learning methods, 2021, Eq. 11, https://arxiv.org/abs/2107.01130; alpha and eta as in the
    authors' code. Departures: a prior that starts a weight exactly on the floor, where it could
    never learn, is refused, and so is weight decay of c (by this page), which that code has.

    Raises:
        ValueError: ``floor`` or ``penalty`` out of its range; when bound, a ``prior`` with a share
            at or below the floor, or with other names or another number of entries than losses.
    """

    extra_name = "weight_sum_penalty"

    def __init__(
        self,
        prior: Mapping[str, float] | Sequence[float] | None = None,
        floor: float | None = None,
        penalty: float = 1e4,
    ) -> None:
        super().__init__()
        if floor is not None:
            check_non_negative(floor=floor)
        check_positive(penalty=penalty)
        self.prior = prior
        self.floor = floor
        self.penalty = penalty

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        weights = self._weights(losses.dtype)
        return Weighted(weights * losses, self.penalty * (weights.sum() - 1).square())

    def weights(self) -> Tensor:
        return self._weights(self.roots.dtype).detach()

    def _weights(self, dtype: torch.dtype) -> Tensor:
        return self.roots.to(dtype).square() + floor_of(self.floor, len(self.names))

    def _build(self, num_losses: int) -> None:
        floor = floor_of(self.floor, num_losses)
        prior = [1.0] * num_losses if self.prior is None else self._in_order("prior", self.prior)
        start = [math.sqrt(excess) for excess in excess_of(prior, floor)]
        self.roots = nn.Parameter(torch.tensor(start, dtype=torch.float32))
