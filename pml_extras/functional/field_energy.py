"""Energy of several sets of points in the fields of one another: one pass, one gradient."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras.functional.close_pairs import PairIndices, Search, close_pairs, pairs_of_one_class
from pml_extras.functional.field import Field
from pml_extras.functional.pairwise import CHUNK_ELEMENTS, pair_differences
from pml_extras.functional.precision import at_least_float32, no_autocast

_SHORTEST = 1e-12
"""A shorter row is divided by this, as in ``torch.nn.functional.normalize``."""


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
