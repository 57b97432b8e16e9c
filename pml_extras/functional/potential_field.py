"""Energy of labelled points in the potential field of one another."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import (
    check_non_negative,
    check_positive,
    check_rows,
    check_vector,
    refuse,
)
from pml_extras.functional.pairwise import pair_differences, squared_products
from pml_extras.functional.precision import at_least_float32, no_autocast

_PRODUCT_ERROR = 4e-3
"""Bound on the error of a squared distance from products, over the sum of the squared norms:
operands rounded to 10 bits (TF32) are the worst. A wider search only lists more pairs."""

_LARGEST_FORCE = 1e19  # times 1 / the root of the smallest number, it still fits float32


class FieldEnergy(NamedTuple):
    """What a field costs: ``energy`` carries the gradient, its two parts are for reading.

    ``energy = excess + repulsion + constant``, the constant being the weighted number of
    same-class pairs times the depth of the well, :math:`-\\delta^{-\\alpha}`.
    """

    energy: Tensor
    """U0, 0-dim."""
    excess: Tensor
    """Attraction above the bottom of the well, >= 0, 0-dim, detached."""
    repulsion: Tensor
    """Repulsion above its value at ``delta_rep``, >= 0, 0-dim, detached."""


class _Field(NamedTuple):
    """The shape of both potentials."""

    alpha: float
    delta: float
    delta_rep: float
    core_radius: float

    @property
    def force(self) -> float:
        """Factor of r^-(alpha + 1) in the force; the limit of psi / alpha at alpha = 0."""
        return self.alpha if self.alpha > 0 else 1.0

    @property
    def well(self) -> float:
        """Bottom of the attraction."""
        return self.attraction_at(self.delta)

    def attraction_at(self, r: float) -> float:
        return -(r**-self.alpha) if self.alpha > 0 else math.log(r)

    def attraction(self, r: Tensor) -> Tensor:
        """Exactly ``well`` inside ``delta``."""
        outer = r.clamp(min=self.delta)
        value = -(outer**-self.alpha) if self.alpha > 0 else outer.log()
        return value.masked_fill(r < self.delta, self.well)

    def repulsion(self, r: Tensor) -> Tensor:
        """Above its value from ``delta_rep`` outwards, where it is exactly 0."""
        core = self.core_radius
        shell = r.clamp(min=core, max=self.delta_rep)
        value = shell**-self.alpha if self.alpha > 0 else -shell.log()
        value = value + self.attraction_at(self.delta_rep)
        if core > 0:
            slope = self.force * core ** -(self.alpha + 1)
            value = value + slope * (core - r).clamp(min=0)
        return value.masked_fill(r >= self.delta_rep, 0.0)

    def attraction_weight(self, r: Tensor) -> Tensor:
        """Force over r, on the way to the gradient w (x_a - x_b)."""
        outer = r.clamp(min=self.delta)
        return (self.force * outer ** -(self.alpha + 2)).masked_fill(r < self.delta, 0.0)

    def repulsion_weight(self, r: Tensor) -> Tensor:
        """Minus force over r; 0 where points coincide, since no direction exists there."""
        shell = r.clamp(min=self.core_radius)
        smallest = torch.finfo(r.dtype).tiny ** 0.5  # below it, squares have no digits
        weight = -self.force * shell ** -(self.alpha + 1) / r.clamp(min=smallest)
        return weight.masked_fill((r >= self.delta_rep) | (r == 0), 0.0)


def potential_field_energy(
    points: Tensor,
    labels: Tensor,
    sources: Tensor | None = None,
    source_labels: Tensor | None = None,
    *,
    alpha: float,
    delta: float,
    delta_rep: float | None = None,
    core_radius: float = 0.01,
    weight: Tensor | None = None,
) -> FieldEnergy:
    r"""Energy U0 of test points in the field of sources of their own and of other classes.

    .. math::
        U_0 &= \sum_a w_a \Big( \sum_{b: y_b = y_a} \psi_{att}(r_{ab})
             + \sum_{b: y_b \ne y_a} \psi_{rep}(r_{ab}) - \delta_{rep}^{-\alpha} \Big),
             \qquad r_{ab} = \lVert x_a - x_b \rVert_2 \\
        \psi_{att}(r) &= -\max(r, \delta)^{-\alpha} \qquad
        \psi_{rep}(r) = \min(r, \delta_{rep})^{-\alpha}

    and the gradient in closed form, built with the value (an unordered pair inside one set is
    counted in both directions, so its weight is :math:`w_a + w_b`):

    .. math::
        \frac{\partial U_0}{\partial x_a} = \sum_b (w_a + w_b) \, \omega_{ab} (x_a - x_b), \qquad
        \omega_{ab} = \begin{cases}
            \alpha r^{-(\alpha + 2)} & y_a = y_b,\; r \ge \delta \\
            -\alpha r^{-(\alpha + 2)} & y_a \ne y_b,\; r < \delta_{rep} \\
            0 & \text{otherwise} \end{cases}

    Every pair with a force is taken from its difference :math:`x_a - x_b`; products only search for
    pairs of different classes inside ``delta_rep``.

    Args:
        points: (T, D) floating, the test charges; half types are computed in float32. On the unit
            sphere for the loss.
        labels: (T,) their classes.
        sources: (S, D), what makes the field; None: the points themselves, without self terms.
        source_labels: (S,), given with ``sources``.
        alpha: decay exponent >= 0 of the potential; 0 is the limit of :math:`\psi / \alpha`,
            :math:`\psi_{att} = \ln \max(r, \delta)`, :math:`\psi_{rep} = -\ln \min(r, \delta)`.
        delta: radius > 0 inside which points of one class feel nothing, in units of distance.
        delta_rep: radius > 0 outside which points of two classes feel nothing; None is ``delta``.
        core_radius: below it repulsion goes on as its tangent, so that its force is at most
            :math:`\alpha r_c^{-(\alpha + 1)}`; at most ``delta_rep``. 0 is the published singular
            form: infinite where points of two classes coincide.
        weight: (T,) :math:`w_a`, without gradient; None is 1.

    Returns:
        The energy, differentiable once (``dense_potential_field_energy`` for more), and its parts.

    Raises:
        ValueError: a shape that does not fit, or a number out of its range.

    Source: Bhatnagar and Ahuja, Potential Field Based Deep Metric Learning, CVPR 2025, Eq. 1-6,
    https://arxiv.org/abs/2405.18560. Departures, none of which changes the gradient: self terms
    (:math:`-T \delta^{-\alpha}`) and the constant of repulsion beyond ``delta_rep`` are left out.
    Departures that do: the core (none is documented), the limit at ``alpha = 0`` (the literal
    formula has no force there), a zero force between coincident points of two classes.

    >>> points = torch.tensor([[0, 0], [0.5, 0], [0.1, 0], [1, 1]], dtype=torch.float64)
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> energy = potential_field_energy(points, labels, alpha=3.0, delta=0.2).energy
    >>> f"{energy:.9f}"
    '1733.178680501'
    """
    field = _check(points, labels, sources, source_labels, weight, alpha, delta, delta_rep,
                   core_radius)  # fmt: skip
    points = at_least_float32(points)
    sources = None if sources is None else at_least_float32(sources)
    weight = points.new_ones(len(points)) if weight is None else weight.to(points.dtype)
    if not torch.is_grad_enabled():  # inside forward this can no longer be asked
        points, sources = points.detach(), None if sources is None else sources.detach()
    return FieldEnergy(*_FieldEnergy.apply(points, sources, labels, source_labels, weight, field))


def dense_potential_field_energy(
    points: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    delta: float,
    delta_rep: float | None = None,
    core_radius: float = 0.01,
    weight: Tensor | None = None,
) -> Tensor:
    r"""The energy of ``potential_field_energy`` by automatic differentiation of (T, T) matrices.

    For second and higher derivatives, at O(T^2 D) memory. Same arguments; the points are their
    own sources.

    Returns:
        U0, 0-dim.
    """
    field = _check(points, labels, None, None, weight, alpha, delta, delta_rep, core_radius)
    points = at_least_float32(points)
    weight = points.new_ones(len(points)) if weight is None else weight.to(points.dtype)
    squared = (points[:, None] - points).square().sum(dim=2)  # (T, T)
    coincide = squared == 0
    r = squared.masked_fill(coincide, 1.0).sqrt().masked_fill(coincide, 0.0)
    same = labels[:, None] == labels
    energy = torch.where(same, field.attraction(r), field.repulsion(r))
    itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
    return (weight[:, None] * energy.masked_fill(itself, 0.0)).sum()


def _check(
    points: Tensor,
    labels: Tensor,
    sources: Tensor | None,
    source_labels: Tensor | None,
    weight: Tensor | None,
    alpha: float,
    delta: float,
    delta_rep: float | None,
    core_radius: float,
) -> _Field:
    check_rows(points=points)
    check_vector(len(points), labels=labels)
    if (sources is None) != (source_labels is None):
        given = "sources alone" if source_labels is None else "source_labels alone"
        raise refuse("source_labels", "to be given with `sources`", given)
    if sources is not None and source_labels is not None:
        check_rows(sources=sources)
        check_vector(len(sources), source_labels=source_labels)
        if sources.shape[1] != points.shape[1]:
            raise refuse("sources", f"{points.shape[1]} columns", f"{sources.shape[1]} columns")
    if weight is not None:
        check_vector(len(points), weight=weight)
        if weight.requires_grad:
            raise refuse("weight", "no gradient", "requires_grad=True", "Call .detach() on it.")
    return check_field(alpha, delta, delta_rep, core_radius)


def check_field(alpha: float, delta: float, delta_rep: float | None, core_radius: float) -> _Field:
    """Refuse numbers out of their range, by name."""
    check_non_negative(alpha=alpha, core_radius=core_radius)
    check_positive(delta=delta)
    if delta_rep is None:
        delta_rep = delta
    check_positive(delta_rep=delta_rep)
    if core_radius > delta_rep:
        raise refuse("core_radius", f"at most delta_rep = {delta_rep}", repr(core_radius),
                     "The core lies inside the radius of repulsion.")  # fmt: skip
    field = _Field(float(alpha), float(delta), float(delta_rep), float(core_radius))
    strongest = core_radius if core_radius > 0 else min(delta, delta_rep)
    exponent = math.log(field.force) - (alpha + 1) * math.log(strongest)
    if exponent > math.log(_LARGEST_FORCE):
        name = "core_radius" if core_radius > 0 else "delta"
        raise refuse(
            name,
            f"a force of at most {_LARGEST_FORCE:.0e}, which float32 can hold",
            f"{strongest!r} with alpha = {alpha!r}, a force of 1e{exponent / math.log(10):.0f}",
            f"Raise {name} or lower alpha.",
        )
    return field


def _pairs_with_force(
    x: Tensor, labels: Tensor, y: Tensor | None, y_labels: Tensor | None, radius: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Positions (a, b) of all same-class pairs, and of different-class pairs that may be close.

    Inside one set each unordered pair once, a < b.
    """
    same = labels[:, None] == (labels if y_labels is None else y_labels)  # (T, S)
    squared, norms = squared_products(x, y)
    # Not "<": a point that is NaN is close to all, so that the energy says so.
    close = ~(squared >= norms.mul_(_PRODUCT_ERROR).add_(radius**2)) & ~same
    if y is None:
        same, close = same.triu_(1), close.triu_(1)
    first, second = same.nonzero(as_tuple=True), close.nonzero(as_tuple=True)
    return (first[0], first[1]), (second[0], second[1])


class _FieldEnergy(torch.autograd.Function):
    """Value and gradient in one pass over the pairs that have a force."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        labels: Tensor,
        y_labels: Tensor | None,
        weight: Tensor,
        field: _Field,
    ) -> tuple[Tensor, Tensor, Tensor]:
        other = x if y is None else y
        grads = [
            torch.zeros_like(t) if needed and t is not None else None
            for t, needed in zip((x, y), ctx.needs_input_grad, strict=False)
        ]
        grad_x, grad_other = grads[0], grads[0 if y is None else 1]
        with no_autocast(x):
            same, close = _pairs_with_force(x, labels, y, y_labels, field.delta_rep)
        energy, parts = x.new_zeros(()), []
        for (rows, cols), potential, rest, omega in (
            (same, field.attraction, field.well, field.attraction_weight),
            (close, field.repulsion, 0.0, field.repulsion_weight),
        ):
            pair_weight = weight[rows] if y is not None else weight[rows] + weight[cols]
            above_rest = x.new_zeros(())
            for part, difference in pair_differences(x, other, rows, cols):
                r, w = difference.norm(dim=1), pair_weight[part]
                psi = potential(r)
                energy = energy + (w * psi).sum()
                above_rest = above_rest + (w * (psi - rest)).sum()
                if grad_x is None and grad_other is None:
                    continue
                force = (w * omega(r))[:, None] * difference
                if grad_x is not None:
                    grad_x.index_add_(0, rows[part], force)
                if grad_other is not None:
                    grad_other.index_add_(0, cols[part], force, alpha=-1)
            parts.append(above_rest)
        excess, repulsion = parts
        ctx.save_for_backward(x, y, *grads)
        ctx.mark_non_differentiable(excess, repulsion)
        return energy, excess, repulsion

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        points_and_grads = zip(ctx.saved_tensors[:2], ctx.saved_tensors[2:], strict=True)
        grad_x, grad_y = (
            None if g is None else grad * _NoSecondDerivative.apply(g, points)
            for points, g in points_and_grads
        )
        return grad_x, grad_y, None, None, None, None


class _NoSecondDerivative(torch.autograd.Function):
    """A gradient that depends on the points, but not as far as autograd can follow."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, points: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "potential_field_energy is differentiable once: its gradient is a closed form. "
            "Use dense_potential_field_energy for second derivatives."
        )
