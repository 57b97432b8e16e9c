"""Log-sum-exp of each row over all rows of other classes, a tile of the pairs at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_rows, check_vector, refuse
from pml_extras.functional.masked import masked_logsumexp
from pml_extras.functional.pairwise import NEAR, euclidean_distance, robust_centre
from pml_extras.functional.precision import no_autocast

TILE_LINES = {"cpu": 256}
"""Rows, and columns, of a tile by type of device."""

OTHER_TILE_LINES = 4096
"""The same on an accelerator, which wants few large kernels: 64 MiB of float32."""

_LARGEST_EXPONENT = {torch.float32: 80.0, torch.float64: 700.0}


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
    coincide with a row of another class (``pairwise.NEAR``) are computed from differences. Where
    an exponential might leave the range of its type, the largest score of each row is looked for
    first.

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


class _Side(NamedTuple):
    """Rows of one side, sorted by class."""

    order: Tensor
    code: Tensor
    rows: Tensor
    squares: Tensor
    """(B,) squared norms."""

    @classmethod
    def of(cls, rows: Tensor, code: Tensor, centre: Tensor | None) -> "_Side":
        order = code.argsort(stable=True)
        rows = rows[order] if centre is None else rows[order].sub_(centre)
        return cls(order, code[order], rows, rows.square().sum(dim=1))

    def spans(self, lines: int) -> list[tuple[slice, int, int]]:
        """So many rows at a time, with the first and the last class of each."""
        first = self.code[::lines]
        last = torch.cat([self.code[lines - 1 :: lines], self.code[-1:]])[: len(first)]
        ends = torch.stack([first, last], dim=1).tolist()
        return [(slice(i * lines, (i + 1) * lines), *pair) for i, pair in enumerate(ends)]


class _Tile(NamedTuple):
    rows: slice
    cols: slice
    mixed: bool
    """Some of its pairs are of one class."""
    both: bool
    """Its columns are served too: it is not on the diagonal of a symmetric matrix."""


class _Piece(NamedTuple):
    """Scores of a tile, -inf where there is nothing to sum, or of some of its rows."""

    tile: _Tile
    scores: Tensor
    rows: Tensor | None = None
    ends: tuple[Tensor, Tensor] | None = None
    """The given rows and columns, where the scores are from their differences."""


class _Scores:
    """The matrix of scores of two sides, of which a tile exists at a time."""

    def __init__(
        self, x: Tensor, y: Tensor | None, code: Tensor, y_code: Tensor, distances: bool, lines: int
    ) -> None:
        self.distances = distances
        centre = robust_centre(x if y is None else y) if distances else None
        self.x = _Side.of(x, code, centre)
        self.y = self.x if y is None else _Side.of(y, y_code, centre)
        self.tiles = [
            _Tile(rows, cols, first <= y_last and y_first <= last, both=y is not None or j > i)
            for i, (rows, first, last) in enumerate(self.x.spans(lines))
            for j, (cols, y_first, y_last) in enumerate(self.y.spans(lines))
            if y is not None or j >= i
        ]
        self.near: list[bool] | None = None
        self.shift = self._largest() if self._may_leave_range() else None

    def pieces(self, x: Tensor, y: Tensor) -> Iterator[_Piece]:
        """All scores. The first time it finds out in which tiles rows of two classes may nearly
        coincide (``near``); then such rows are a piece of their own, made from differences."""
        suspects = []
        for index, tile in enumerate(self.tiles):
            scores, squared = self._of(tile)
            if squared is not None and self.near is None:
                suspects.append(self._may_be_near(squared, tile))
            elif squared is not None and self.near is not None and self.near[index]:
                rows = self._near_rows(squared, tile)
                # As they came: moving the centre rounds.
                ends = x[self.x.order[tile.rows][rows]], y[self.y.order[tile.cols]]
                exact = self._without_same(-_distances(*ends), tile, -torch.inf, rows)
                yield _Piece(tile, exact, rows, ends)
                scores[rows] = -torch.inf
            yield _Piece(tile, scores)
        if self.near is None:  # asking tile by tile would wait for the device each time
            self.near = torch.stack(suspects).tolist() if suspects else []

    def exponentials(self, piece: _Piece) -> tuple[Tensor, Tensor]:
        """Those for the sums of rows, and those for the sums of columns."""
        if self.shift is None:
            exponential = piece.scores.exp()
            return exponential, exponential
        of_x, of_y = _of_piece(self.shift, piece)
        return (piece.scores - of_x).exp_(), (piece.scores - of_y).exp_()

    def numbers(self, value: float = 0.0) -> tuple[Tensor, Tensor]:
        """One a row and one a column, a single tensor where these are the same."""
        of_x = torch.full_like(self.x.squares, value)
        return of_x, of_x if self.y is self.x else torch.full_like(self.y.squares, value)

    def _of(self, tile: _Tile) -> tuple[Tensor, Tensor | None]:
        """Scores; for distances also the squared ones, inf inside a class, in which those of rows
        that nearly coincide have few digits or none."""
        a, b = self.x.rows[tile.rows], self.y.rows[tile.cols]
        if not self.distances:
            return self._without_same(a @ b.T, tile, -torch.inf), None
        squared = self._norms(tile).addmm_(a, b.T, alpha=-2)
        squared = self._without_same(squared, tile, torch.inf)
        return squared.clamp(min=0).sqrt_().neg_(), squared

    def _without_same(
        self, values: Tensor, tile: _Tile, fill: float, rows: Tensor | None = None
    ) -> Tensor:
        if not tile.mixed:
            return values
        code = self.x.code[tile.rows] if rows is None else self.x.code[tile.rows][rows]
        return values.masked_fill_(code[:, None] == self.y.code[tile.cols], fill)

    def _may_be_near(self, squared: Tensor, tile: _Tile) -> Tensor:
        largest = self.x.squares[tile.rows].amax() + self.y.squares[tile.cols].amax()
        return ~(squared.amin() > NEAR * largest)  # what is no number may be

    def _near_rows(self, squared: Tensor, tile: _Tile) -> Tensor:
        return (~(squared > self._norms(tile).mul_(NEAR))).any(dim=1).nonzero()[:, 0]

    def _norms(self, tile: _Tile) -> Tensor:
        return self.x.squares[tile.rows, None] + self.y.squares[tile.cols]

    def _may_leave_range(self) -> bool:
        norm, y_norm = (side.squares.amax().sqrt() for side in (self.x, self.y))
        reach = norm + y_norm if self.distances else norm * y_norm
        return not bool(reach < _LARGEST_EXPONENT[reach.dtype])

    def _largest(self) -> tuple[Tensor, Tensor]:
        """Score of each row and of each column, 0 where there is none."""
        of_x, of_y = self.numbers(-torch.inf)
        for tile in self.tiles:
            scores, _ = self._of(tile)
            of_x[tile.rows] = of_x[tile.rows].maximum(scores.amax(dim=1))
            if tile.both:
                of_y[tile.cols] = of_y[tile.cols].maximum(scores.amax(dim=0))
        return of_x.masked_fill(of_x.isneginf(), 0.0), of_y.masked_fill(of_y.isneginf(), 0.0)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _of_piece(numbers: tuple[Tensor, Tensor], piece: _Piece) -> tuple[Tensor, Tensor]:
    """Numbers of its rows, as a column, and of its columns."""
    of_x = numbers[0][piece.tile.rows]
    of_x = of_x if piece.rows is None else of_x[piece.rows]
    return of_x[:, None], numbers[1][piece.tile.cols]


def _sums(scores: _Scores, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_y = scores.numbers()
    for piece in scores.pieces(x, y):
        rows, cols = scores.exponentials(piece)
        some = of_x[piece.tile.rows]
        if piece.rows is None:
            some += rows.sum(dim=1)
        else:
            some.index_add_(0, piece.rows, rows.sum(dim=1))
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
            scores = _Scores(x, y, code, y_code, distances, lines)
            sums = _sums(scores, x, other)
            if any(scores.near or ()):
                sums = _sums(scores, x, other)
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
    scores: _Scores, sums: tuple[Tensor, Tensor], x: Tensor, y: Tensor, grads: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    sides, symmetric = (scores.x, scores.y), scores.y is scores.x
    if symmetric:  # both sums are one
        grads = (grads[0] + grads[1],) * 2
    share = [
        (r[side.order] / total).masked_fill_(total == 0, 0.0)
        for side, total, r in zip(sides, sums, grads, strict=True)
    ]
    of_x = torch.zeros_like(scores.x.rows)
    of_y = of_x if symmetric else torch.zeros_like(scores.y.rows)
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
            weight = weight.div_(-piece.scores)
            of_x[tile.rows] -= weight.sum(dim=1)[:, None] * a
            if tile.both:
                of_y[tile.cols] -= weight.sum(dim=0)[:, None] * b
        of_x[tile.rows].addmm_(weight, b)
        if tile.both:
            of_y[tile.cols].addmm_(weight.T, a)
    results = [
        torch.empty_like(of).index_copy_(0, side.order, of)
        for side, of in zip(sides, (of_x, of_y), strict=True)
    ]
    return results[0], results[1]


def _weights(scores: _Scores, piece: _Piece, share: tuple[Tensor, Tensor]) -> Tensor:
    """Derivative by each score of the piece, whichever of both sums it is part of."""
    of_rows, of_cols = scores.exponentials(piece)
    share_x, share_y = _of_piece(share, piece)
    if of_rows is of_cols:
        return (share_x + share_y).mul_(of_rows)
    return of_rows.mul_(share_x).add_(of_cols.mul_(share_y))


def _gradient_of_differences(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        distance = _distances(a, b)
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
