"""Weights from a learned noise level of each loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_extras._checks import check_finite, check_one_of, refuse
from pml_extras.weighting.base import LossWeighting, Weighted

_LIMIT = 10.0  # of |s|: weights between 2e-5 and 2e4
_FACTOR = {"regression": 0.5, "classification": 1.0}


class _LogVariances(LossWeighting):
    """m learned numbers s_j = log of a variance, kept within the limit."""

    extra_name = "uncertainty_regularizer"

    def __init__(self, initial: float) -> None:
        super().__init__()
        check_finite(initial=initial)
        if abs(initial) > _LIMIT:
            raise refuse("initial", f"a number in [-{_LIMIT:g}, {_LIMIT:g}]", repr(initial))
        self.initial = initial

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        self._refuse_negative(losses)
        s = _ClampInward.apply(self.log_variances.to(losses.dtype))
        return Weighted(self._factors(s) * losses, self._regularizer(s))

    def weights(self) -> Tensor:
        return self._factors(self.log_variances.detach().clamp(-_LIMIT, _LIMIT))

    def _build(self, num_losses: int) -> None:
        start = torch.full((num_losses,), float(self.initial), dtype=torch.float32)
        self.log_variances = nn.Parameter(start)

    def _factors(self, s: Tensor) -> Tensor:
        """(m,) what multiplies the losses."""
        raise NotImplementedError

    def _regularizer(self, s: Tensor) -> Tensor:
        """() what keeps s from growing."""
        raise NotImplementedError


class HomoscedasticUncertainty(_LogVariances):
    r"""Each loss is a negative log-likelihood with a learned variance :math:`e^{s_j}`.

    .. math::
        L = \sum_j f_j e^{-s_j} l_j + \tfrac{1}{2} s_j, \qquad
        f_j = \tfrac{1}{2} \text{ (regression)} \quad\text{or}\quad 1 \text{ (classification)}

    with s clamped to [-10, 10]. Favours no loss: it only equalises magnitudes. s rests where
    :math:`e^{s_j} = 2 f_j l_j`; there every term is 1/2, and the sum is the mean of the
    log-losses up to scale and a constant, so the unit of a loss has no influence.

    Args:
        kind: "regression" (first form of the paper), "classification" (second), or one of these
            for each loss, in their order or by name.
        initial: every s_j at the start, in [-10, 10], log of the unit of the losses; LibMTL's.

    Attributes:
        log_variances: Parameter (m,), s. Give it to the optimizer **without weight decay**, which
            would pull the variances towards 1 and so bring the units back. At a limit only the
            gradient that leads outwards is dropped, so s returns as soon as the loss asks for it.

    The extra term, ``uncertainty_regularizer``, is the sum of s_j / 2; it may be negative.

    Source: Kendall, Gal and Cipolla, Multi-task learning using uncertainty to weigh losses, CVPR
    2018, https://arxiv.org/abs/1705.07115. Departures: metric losses are no likelihoods; the clamp,
    without which a loss of 0 sends s to minus infinity.

    Raises:
        ValueError: ``kind`` or ``initial`` out of its range; when bound, not one ``kind`` a loss;
            when called, a loss below 0, by name (the check reads the values back from the device).
    """

    factors: Tensor

    def __init__(
        self,
        kind: str | Mapping[str, str] | Sequence[str] = "regression",
        initial: float = -0.5,
    ) -> None:
        super().__init__(initial)
        if isinstance(kind, str):
            check_one_of(tuple(_FACTOR), kind=kind)
        self.kind = kind

    def _build(self, num_losses: int) -> None:
        one = isinstance(self.kind, str)
        kinds = [self.kind] * num_losses if one else self._in_order("kind", self.kind)
        for kind in kinds:
            check_one_of(tuple(_FACTOR), kind=kind)
        super()._build(num_losses)
        factors = torch.tensor([_FACTOR[str(kind)] for kind in kinds], dtype=torch.float32)
        self.register_buffer("factors", factors, persistent=False)

    def _factors(self, s: Tensor) -> Tensor:
        return self.factors.to(s.dtype) * (-s).exp()

    def _regularizer(self, s: Tensor) -> Tensor:
        return 0.5 * s.sum()


class NonNegativeUncertainty(_LogVariances):
    r"""Uncertainty weights whose regulariser is never negative.

    .. math::
        L = \sum_j \tfrac{1}{2} e^{-s_j} l_j + \log(1 + e^{s_j})

    with s clamped to [-10, 10]. Favours no loss: it equalises magnitudes, up to a pull to small
    variances. s rests where :math:`2 e^{2 s_j} = l_j (1 + e^{s_j})`, which for large losses is
    :math:`e^{s_j} = l_j / 2`.

    Args:
        initial: every s_j at the start, in [-10, 10], log of the unit of the losses; LibMTL's.

    Attributes:
        log_variances: Parameter (m,), s. Give it to the optimizer **without weight decay**, which
            would pull the variances towards 1. At a limit only the gradient that leads outwards is
            dropped.

    The extra term, ``uncertainty_regularizer``, is the sum of log(1 + e^s), so the total is >= 0.

    Source: Liebel and Koerner, Auxiliary tasks in multi-task learning, 2018,
    https://arxiv.org/abs/1805.06334. Departure: the clamp.

    Raises:
        ValueError: ``initial`` out of its range; when called, a loss below 0, by name (the check
            reads the values back from the device).
    """

    def __init__(self, initial: float = -0.5) -> None:
        super().__init__(initial)

    def _factors(self, s: Tensor) -> Tensor:
        return 0.5 * (-s).exp()

    def _regularizer(self, s: Tensor) -> Tensor:
        return F.softplus(s).sum()


class _ClampInward(torch.autograd.Function):
    """Clamp to the limit; outside, a gradient passes if a step against it leads back inside."""

    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return s.clamp(-_LIMIT, _LIMIT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        outwards = ((s >= _LIMIT) & (grad < 0)) | ((s <= -_LIMIT) & (grad > 0))
        return grad.masked_fill(outwards, 0.0)
