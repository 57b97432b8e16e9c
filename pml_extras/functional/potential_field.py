"""Energy of labelled points in the potential field of one another."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_rows, check_vector, refuse
from pml_extras.functional.close_pairs import PairIndices, Search, close_pairs, pairs_of_one_class
from pml_extras.functional.field import Field, check_field
from pml_extras.functional.pairwise import CHUNK_ELEMENTS, pair_differences
from pml_extras.functional.precision import at_least_float32, no_autocast
from pml_extras.functional.rows import without_gradient_at_zero

_SHORTEST = 1e-12
"""A shorter row is divided by this, as in ``torch.nn.functional.normalize``."""


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
    sets, term = [Points(points, labels)], Term(0, None, weight)
    if sources is not None and source_labels is not None:
        sets, term = [*sets, Points(sources, source_labels)], Term(0, 1, weight)
    energy, excess, repulsion = field_energy(sets, [term], field)
    return FieldEnergy(energy, excess[0], repulsion[0])


class Points(NamedTuple):
    """A set of points and their classes."""

    rows: Tensor
    """(T, D) floating."""
    labels: Tensor
    """(T,)"""


class Term(NamedTuple):
    """Part of an energy: test points in the field of sources, as positions in a list of sets."""

    points: int
    sources: int | None
    """None: the points themselves."""
    weight: Tensor | None = None
    """(T,) without gradient; None is 1."""
    search: Search = close_pairs
    """Where pairs of two classes inside the radius of repulsion come from."""


def field_energy(
    sets: Sequence[Points], terms: Sequence[Term], field: Field, *, unit: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of several terms over the same sets, whose gradient is built once for all of them.

    Args:
        sets: of one width and type.
        terms: see :class:`Term`.
        field: from ``check_field``.
        unit: take the directions of the rows, as ``torch.nn.functional.normalize`` does; a row of
            zeros stays and has zero gradient.

    Returns:
        The energy, differentiable once, and the excess and the repulsion of each term, detached.
        Memory: directions and gradient of the sets, and a tile.
    """
    rows = [at_least_float32(points.rows) for points in sets]
    if not torch.is_grad_enabled():  # inside forward this can no longer be asked
        rows = [x.detach() for x in rows]
    labels = [points.labels for points in sets]
    energy, excess, repulsion = _FieldEnergy.apply(field, unit, labels, terms, *rows)
    return energy, excess, repulsion


def dense_field_energy(
    sets: Sequence[Points], terms: Sequence[Term], field: Field, *, unit: bool = False
) -> Tensor:
    """The energy of ``field_energy`` by automatic differentiation of (T, S) matrices.

    Nothing in it depends on values, so it compiles into one graph.
    """
    rows = [at_least_float32(points.rows) for points in sets]
    if unit:
        rows = [torch.nn.functional.normalize(without_gradient_at_zero(x)) for x in rows]
    energy = rows[0].new_zeros(())
    for term in terms:
        at = term.points if term.sources is None else term.sources
        squared = (rows[term.points][:, None] - rows[at]).square().sum(dim=2)  # (T, S)
        coincide = squared == 0
        r = squared.masked_fill(coincide, 1.0).sqrt().masked_fill(coincide, 0.0)
        same = sets[term.points].labels[:, None] == sets[at].labels
        psi = torch.where(same, field.attraction(r), field.repulsion(r))
        if term.sources is None:
            itself = torch.eye(len(psi), dtype=torch.bool, device=psi.device)
            psi = psi.masked_fill(itself, 0.0)
        if term.weight is not None:
            psi = term.weight.to(psi.dtype)[:, None] * psi
        energy = energy + psi.sum()
    return energy


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
    return dense_field_energy([Points(points, labels)], [Term(0, None, weight)], field)


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
) -> Field:
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


class _FieldEnergy(torch.autograd.Function):
    """Value and gradient in one pass over the pairs that have a force."""

    @staticmethod
    def forward(
        ctx: Any,
        field: Field,
        unit: bool,
        labels: list[Tensor],
        terms: Sequence[Term],
        *rows: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grads = [
            torch.zeros_like(x) if needed else None
            for x, needed in zip(rows, ctx.needs_input_grad[4:], strict=True)
        ]
        with no_autocast(rows[0]):
            points = [_directions(x) for x in rows] if unit else rows
            results = [_of_term(term, points, labels, grads, field) for term in terms]
            if unit:
                for x, direction, grad in zip(rows, points, grads, strict=True):
                    if grad is not None:
                        _through_directions_(grad, x, direction)
        ctx.save_for_backward(*rows, *grads)
        energy, excess, repulsion = torch.stack([torch.stack(result) for result in results]).T
        ctx.mark_non_differentiable(excess, repulsion)
        return energy.sum(), excess, repulsion

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        return (
            None,
            None,
            None,
            None,
            *(
                None if g is None else grad * _NoSecondDerivative.apply(g, x)
                for x, g in zip(ctx.saved_tensors[:half], ctx.saved_tensors[half:], strict=True)
            ),
        )


def _of_term(
    term: Term,
    points: Sequence[Tensor],
    labels: list[Tensor],
    grads: list[Tensor | None],
    field: Field,
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, excess and repulsion; what it adds to the gradients is added in place."""
    inside = term.sources is None
    at = term.points if term.sources is None else term.sources
    x, x_labels = points[term.points], labels[term.points]
    y, y_labels = (None, None) if inside else (points[at], labels[at])
    weight = x.new_ones(len(x)) if term.weight is None else term.weight.to(x.dtype)

    def total(
        found: Iterator[PairIndices],
        potential: Callable[[Tensor], Tensor],
        rest: float,
        omega: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        energy = above_rest = x.new_zeros(())
        for rows, cols in found:
            pair_weight = weight[rows] + weight[cols] if inside else weight[rows]
            for part, difference in pair_differences(x, points[at], rows, cols):
                r, w = difference.norm(dim=1), pair_weight[part]
                psi = potential(r)
                energy = energy + (w * psi).sum()
                above_rest = above_rest + (w * (psi - rest)).sum()
                force = difference.mul_((w * omega(r))[:, None]) if needs_grad else difference
                if (grad := grads[term.points]) is not None:
                    grad.index_add_(0, rows[part], force)
                if (grad := grads[at]) is not None:
                    grad.index_add_(0, cols[part], force, alpha=-1)
        return energy, above_rest

    needs_grad = grads[term.points] is not None or grads[at] is not None
    same = pairs_of_one_class(x_labels, y_labels)
    attraction, excess = total(same, field.attraction, field.well, field.attraction_weight)
    close = term.search(x, x_labels, y, y_labels, field.delta_rep)
    _, repulsion = total(close, field.repulsion, 0.0, field.repulsion_weight)
    return attraction + repulsion, excess, repulsion


def _directions(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # (T, 1)
    directions: Tensor = rows / lengths.clamp(min=_SHORTEST)
    return directions


def _through_directions_(grad: Tensor, rows: Tensor, directions: Tensor) -> None:
    """Gradient at ``directions`` -> gradient at ``rows``, in place: (g - (g.z) z) / |v|."""
    step = max(1, CHUNK_ELEMENTS // max(1, rows.shape[1]))
    for g, v, z in zip(*(t.split(step) for t in (grad, rows, directions)), strict=True):
        length = v.norm(dim=1, keepdim=True)
        radial = (g * z).sum(dim=1, keepdim=True).masked_fill(length < _SHORTEST, 0.0)
        g.addcmul_(radial, z, value=-1).div_(length.clamp(min=_SHORTEST))
        g.masked_fill_((v == 0).all(dim=1, keepdim=True), 0.0)


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
