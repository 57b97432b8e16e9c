"""Log-sum-exp of each row over all rows of other classes, a tile of the pairs at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_rows, check_vector, refuse
from pml_extras.functional.masked import masked_logsumexp
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.precision import no_autocast
from pml_extras.functional.score_tiles import (
    Piece,
    ScoreTiles,
    distances_from_differences,
    of_piece,
)

TILE_LINES = {"cpu": 256}
"""Rows, and columns, of a tile by type of device."""

OTHER_TILE_LINES = 4096
"""The same on an accelerator, which wants few large kernels: 64 MiB of float32."""

_OfBoth = Callable[[ScoreTiles, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A number for each row and one for each column."""


def log_negatives(
    x: Tensor,
    labels: Tensor,
    y: Tensor | None = None,
    y_labels: Tensor | None = None,
    *,
    distances: bool,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Both log-sum-exps, of rows and of columns, of the scores of all pairs of two classes.

    .. math::
        L_i = \log \sum_{k: y_k \ne y_i} e^{s_{ik}}, \qquad
        L'_k = \log \sum_{i: y_i \ne y_k} e^{s_{ik}}, \qquad
        s_{ik} = -\lVert x_i - y_k \rVert_2 \;\text{or}\; x_i \cdot y_k

    Rows are sorted by class, so that few tiles need a mask; with y = x a tile serves its rows and
    its columns, and half of the tiles are never computed. The gradient needs each tile again: with
    :math:`q = r e^{-L}` for an incoming r,

    .. math::
        S_{ik} = (q_i + q'_k) \, e^{s_{ik}} / D_{ik}, \qquad
        \frac{\partial}{\partial x_i} = \sum_k S_{ik} (y_k - x_i)

    for distances; for products without the division, :math:`\sum_k S_{ik} y_k`. Rows that nearly
    coincide with a row of another class (``pairwise.NEAR``) are computed from differences; a batch
    that has collapsed takes ten to twenty times longer for that. Where an exponential might leave
    the range of its type, the largest score of each row is looked for first.

    Args:
        x: (B, D) float32 or float64.
        labels: (B,) classes.
        y: (R, D) in the dtype of ``x``; None is ``x`` itself.
        y_labels: (R,) classes, given with ``y``.
        distances: scores are Euclidean distances, negative; otherwise inner products.
        tile: rows and columns of a tile; None chooses by device.

    Returns:
        L (B,) and L' (R,), one tensor where y is None; ``-inf`` with zero gradient for a row
        without negatives. Memory: O(B D + R D + tile^2). A gradient that is itself differentiated
        (``create_graph=True``) holds the (B, R) matrix.

    Raises:
        ValueError: a shape that does not fit, or a tile of no rows.

    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> log_negatives(x, torch.tensor([0, 1, 1]), distances=True, tile=2)[0]
    tensor([-0.8731, -1.0000, -3.0000])
    """
    check_rows(x=x)
    check_vector(len(x), labels=labels)
    lines = TILE_LINES.get(x.device.type, OTHER_TILE_LINES) if tile is None else tile
    check_count(1, tile=lines)
    if (y is None) != (y_labels is None):
        given = "y alone" if y_labels is None else "y_labels alone"
        raise refuse("y_labels", "to be given with `y`", given)
    if y is None or y_labels is None:
        _, code = labels.unique(return_inverse=True)
        of_x, _ = _LogNegatives.apply(x, None, code, code, distances, lines)
        return of_x, of_x
    check_rows(y=y)
    check_vector(len(y), y_labels=y_labels)
    _, codes = torch.cat([labels, y_labels]).unique(return_inverse=True)
    of_x, of_y = _LogNegatives.apply(x, y, codes[: len(x)], codes[len(x) :], distances, lines)
    return of_x, of_y


def _settled(of: _OfBoth, scores: ScoreTiles, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What ``of`` gives with near rows from differences: again, if they were found by the way."""
    known = scores.near is not None
    numbers = of(scores, x, y)
    return numbers if known or not any(scores.near or ()) else of(scores, x, y)


def _largest(scores: ScoreTiles, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Score of each row and of each column, 0 where there is none."""
    of_x, of_y = scores.numbers(-torch.inf)
    for tile, some, rows, _ in scores.pieces(x, y):
        of_rows = of_x[tile.rows]
        which = slice(None) if rows is None else rows
        of_rows[which] = of_rows[which].maximum(some.amax(dim=1))
        if tile.both:
            of_y[tile.cols] = of_y[tile.cols].maximum(some.amax(dim=0))
    return of_x.masked_fill(of_x.isneginf(), 0.0), of_y.masked_fill(of_y.isneginf(), 0.0)


def _sums(scores: ScoreTiles, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_y = scores.numbers()
    for piece in scores.pieces(x, y):
        rows, cols = scores.exponentials(piece)
        if piece.rows is None:
            of_x[piece.tile.rows] += rows.sum(dim=1)
        else:
            of_x[piece.tile.rows].index_add_(0, piece.rows, rows.sum(dim=1))
        if piece.tile.both:
            of_y[piece.tile.cols] += cols.sum(dim=0)
    return of_x, of_y


class _LogNegatives(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        code: Tensor,
        y_code: Tensor,
        distances: bool,
        lines: int,
    ) -> tuple[Tensor, Tensor]:
        other = x if y is None else y
        with no_autocast(x):
            scores = ScoreTiles(x, y, code, y_code, distances, lines)
            if scores.may_leave_range():
                scores.shift = _settled(_largest, scores, x, other)
            sums = _settled(_sums, scores, x, other)
        ctx.scores, ctx.sums = scores, sums
        ctx.save_for_backward(x, y, code, y_code)
        results = []
        shifts = scores.shift or (torch.zeros_like(sums[0]), torch.zeros_like(sums[1]))
        for side, total, shift in zip((scores.x, scores.y), sums, shifts, strict=True):
            results.append(torch.empty_like(total).index_copy_(0, side.order, total.log() + shift))
        return results[0], results[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, code, y_code = ctx.saved_tensors
        if torch.is_grad_enabled():
            of_x, of_y = _by_autograd(x, y, code[:, None] != y_code, ctx.scores.distances, grads)
        else:
            with no_autocast(x):
                of_x, of_y = _gradient(ctx.scores, ctx.sums, x, x if y is None else y, grads)
        return of_x, None if y is None else of_y, None, None, None, None


def _gradient(
    scores: ScoreTiles, sums: tuple[Tensor, Tensor], x: Tensor, y: Tensor, grads: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    sides, symmetric = (scores.x, scores.y), scores.y is scores.x
    if symmetric:  # the second sums are the first and were not handed out
        grads = (grads[0], grads[0])
    share = [
        (r[side.order] / total).masked_fill_(total == 0, 0.0)
        for side, total, r in zip(sides, sums, grads, strict=True)
    ]
    of_x = torch.zeros_like(scores.x.rows)
    of_y = of_x if symmetric else torch.zeros_like(scores.y.rows)
    totals, sign = scores.numbers(), -1 if scores.distances else 1
    for piece in scores.pieces(x, y):
        tile = piece.tile
        weight = _weights(scores, piece, (share[0], share[1]))
        if piece.rows is not None and piece.ends is not None:
            pull = _gradient_of_differences(*piece.ends, weight)
            of_x[tile.rows].index_add_(0, piece.rows, pull[0])
            if tile.both:
                of_y[tile.cols] += pull[1]
            continue
        a, b = scores.x.rows[tile.rows], scores.y.rows[tile.cols]
        if scores.distances:
            weight = weight.div_(piece.scores)
            totals[0][tile.rows] += weight.sum(dim=1)
            if tile.both:
                totals[1][tile.cols] += weight.sum(dim=0)
        of_x[tile.rows].addmm_(weight, b, alpha=sign)
        if tile.both:
            of_y[tile.cols].addmm_(weight.T, a, alpha=sign)
    if scores.distances:
        for side, of, total in zip(sides, (of_x, of_y), totals, strict=True):
            of.addcmul_(total[:, None], side.rows)
            if symmetric:
                break
    results = [
        torch.empty_like(of).index_copy_(0, side.order, of)
        for side, of in zip(sides, (of_x, of_y), strict=True)
    ]
    return results[0], results[1]


def _weights(scores: ScoreTiles, piece: Piece, share: tuple[Tensor, Tensor]) -> Tensor:
    """Derivative by each score of the piece, whichever of both sums it is part of."""
    of_rows, of_cols = scores.exponentials(piece)
    share_x, share_y = of_piece(share, piece)
    if of_rows is of_cols:
        return (share_x + share_y).mul_(of_rows)
    return of_rows.mul_(share_x).add_(of_cols.mul_(share_y))


def _gradient_of_differences(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        distance = distances_from_differences(a, b)
    of_a, of_b = torch.autograd.grad(distance, (a, b), -weight)
    return of_a, of_b


def _by_autograd(
    x: Tensor, y: Tensor | None, negative: Tensor, distances: bool, grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient as a graph of its own, which holds the matrix."""
    x, y = x.view_as(x), y if y is None else y.view_as(y)
    scores = -euclidean_distance(x, y) if distances else x @ (x if y is None else y).T
    sums = [masked_logsumexp(scores, negative), masked_logsumexp(scores.T, negative.T)]
    wanted = [side for side in (x, y) if side is not None and side.requires_grad]
    found = iter(torch.autograd.grad(sums, wanted, grads, create_graph=True))
    of_x, of_y = (
        next(found) if side is not None and side.requires_grad else None for side in (x, y)
    )
    return of_x, of_y
