"""Euclidean distances whose value and gradient stay right where points nearly coincide."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_rows, refuse
from pml_extras.functional.precision import at_least_float32, no_autocast

NEAR = 1e-2
"""Squared distance, over the sum of the squared norms, below which a pair leaves the product."""

CHUNK_ELEMENTS = 2**20
"""Elements of the largest array of explicit differences."""


def euclidean_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    r""":math:`D_{ij} = \lVert x_i - y_j \rVert_2`, with sub-gradient 0 where points coincide.

    Most pairs go through one matrix product, :math:`D^2 = |x|^2 + |y|^2 - 2 x \cdot y`. The pairs
    for which this form cancels (``NEAR``) are computed from their differences, in the value
    and in the gradient, where ``torch.cdist`` loses half of its digits at a distance of 1e-4 and
    all of them at 1e-8. A collapsed batch, most pairs of which are close, takes several times
    longer for that. Which pairs are close is read from the device; a compiled graph, which cannot
    wait for that, takes all of them from their differences, which inductor makes and sums in one
    kernel (another backend holds (B, R, D)).

    Args:
        x: (B, D) floating; half types are computed in float32.
        y: (R, D) in the dtype of ``x``; None compares ``x`` with itself, its diagonal exactly 0.

    Returns:
        (B, R), float32 at least. Differentiable any number of times away from coincident points.
        Memory: (B, R) matrices; nothing of size (B, R, D).

    Raises:
        ValueError: an argument is no (rows, size) tensor, or the sizes differ.

    >>> euclidean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])
    """
    check_rows(x=x, **({} if y is None else {"y": y}))
    if y is not None and y.shape[1] != x.shape[1]:
        raise refuse("y", f"{x.shape[1]} columns, as `x`", f"{y.shape[1]} columns")
    if x.numel() == 0 or (y is not None and y.numel() == 0):
        return x @ (x if y is None else y).T
    y = None if y is None else at_least_float32(y)
    if torch.compiler.is_compiling():
        x = at_least_float32(x)
        return distances_of_pairs(x[:, None], x if y is None else y)
    distance: Tensor = _EuclideanDistance.apply(at_least_float32(x), y)
    return distance


def robust_centre(rows: Tensor) -> Tensor:
    """(D,) mean of the rows, weighted by 1 / norm: no long row moves it away from all others."""
    inverse = 1 / rows.norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    centre: Tensor = (inverse / inverse.sum()) @ rows
    return centre


def squared_products(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Squared distances by one matrix product, and the sums of both squared norms, each (B, R).

    The error of a squared distance grows with that sum; it may leave one below 0.
    """
    of_x = x.square().sum(dim=1)
    norms = of_x[:, None] + (of_x if y is None else y.square().sum(dim=1))
    return norms.addmm(x, (x if y is None else y).T, alpha=-2), norms


def pair_differences(
    x: Tensor, y: Tensor, rows: Tensor, cols: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``(part, x[rows[part]] - y[cols[part]])`` in parts that fit ``CHUNK_ELEMENTS``."""
    step = max(1, CHUNK_ELEMENTS // max(1, x.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield part, x.index_select(0, rows[part]) - y.index_select(0, cols[part])


def distances_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """(P,) Euclidean distance of each row of ``a`` and that of ``b``; no gradient at distance 0."""
    squared = (a - b).square().sum(dim=-1)
    coincide = squared == 0
    return squared.masked_fill(coincide, 1.0).sqrt().masked_fill(coincide, 0.0)


class _EuclideanDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None) -> Tensor:
        other = x if y is None else y
        with no_autocast(x):
            # D does not see a translation. Differences are taken before it: it rounds.
            ctx.centre = robust_centre(other)
            squared, norms = squared_products(
                x - ctx.centre, None if y is None else y - ctx.centre
            )  # (B, R)
            near = squared <= norms.mul_(NEAR)
            del norms
            if y is None:
                near.fill_diagonal_(False)
            rows, cols = near.nonzero(as_tuple=True)
            distance = squared.clamp_(min=0).sqrt_()
            if y is None:
                distance.fill_diagonal_(0)
            for part, difference in pair_differences(x, other, rows, cols):
                distance[rows[part], cols[part]] = difference.norm(dim=1)
        ctx.save_for_backward(x, y, rows, cols, distance)
        return distance

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, y, rows, cols, distance = ctx.saved_tensors
        other = x if y is None else y
        with no_autocast(x):
            a = x - ctx.centre
            b = a if y is None else y - ctx.centre
            # dD_ij/dx_i = (x_i - y_j) / D_ij, so each pair needs its weight grad_ij / D_ij.
            coincide = distance == 0  # there grad may be NaN, as that of a root of D is
            weight = grad / distance.masked_fill(coincide, 1.0)  # (B, R)
            weight = weight.masked_fill(coincide, 0.0)
            near_weight = weight[rows, cols][:, None]
            if len(rows) > 0:
                weight = weight.index_put((rows, cols), weight.new_zeros(()))
            if y is None:
                weight = weight + weight.T
            grad_a = weight.sum(dim=1, keepdim=True) * a - weight @ b
            grad_b = None
            if y is not None:
                grad_b = weight.sum(dim=0)[:, None] * b - weight.T @ a
            for part, difference in pair_differences(x, other, rows, cols):
                pull = near_weight[part] * difference
                grad_a = grad_a.index_add(0, rows[part], pull)
                if grad_b is None:
                    grad_a = grad_a.index_add(0, cols[part], -pull)
                else:
                    grad_b = grad_b.index_add(0, cols[part], -pull)
        return grad_a, grad_b
