"""The scores of all pairs of two classes, a tile of which exists at a time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pml_extras.functional.pairwise import NEAR, robust_centre

_KEPT_ELEMENTS = 2**18
"""Elements of a matrix whose tiles the backward pass does not compute again."""

_LARGEST_EXPONENT = {torch.float32: 40.0, torch.float64: 350.0}
"""Half of what the types hold: sums have many terms, and gradients are divided by them."""


class Side(NamedTuple):
    """Rows of one side, sorted by class."""

    order: Tensor
    code: Tensor
    rows: Tensor
    squares: Tensor
    """(B,) squared norms."""

    @classmethod
    def of(cls, rows: Tensor, code: Tensor, centre: Tensor | None) -> "Side":
        order = code.argsort(stable=True)
        rows = rows[order] if centre is None else rows[order].sub_(centre)
        return cls(order, code[order], rows, rows.square().sum(dim=1))

    def spans(self, lines: int) -> list[tuple[slice, int, int]]:
        """So many rows at a time, with the first and the last class of each."""
        first = self.code[::lines]
        last = torch.cat([self.code[lines - 1 :: lines], self.code[-1:]])[: len(first)]
        ends = torch.stack([first, last], dim=1).tolist()
        return [(slice(i * lines, (i + 1) * lines), *pair) for i, pair in enumerate(ends)]


class Tile(NamedTuple):
    rows: slice
    cols: slice
    mixed: bool
    """Some of its pairs are of one class."""
    both: bool
    """Its columns are served too: it is not on the diagonal of a symmetric matrix."""


class Piece(NamedTuple):
    """Scores of a tile, -inf where there is nothing to sum, or of some of its rows."""

    tile: Tile
    scores: Tensor
    rows: Tensor | None = None
    ends: tuple[Tensor, Tensor] | None = None
    """The given rows and columns, where the scores are from their differences."""


class ScoreTiles:
    """The matrix of scores of two sides, of which a tile exists at a time."""

    def __init__(
        self, x: Tensor, y: Tensor | None, code: Tensor, y_code: Tensor, distances: bool, lines: int
    ) -> None:
        self.distances = distances
        centre = robust_centre(x if y is None else y) if distances else None
        self.x = Side.of(x, code, centre)
        self.y = self.x if y is None else Side.of(y, y_code, centre)
        spans = self.x.spans(lines)
        y_spans = spans if y is None else self.y.spans(lines)
        self.tiles = [
            Tile(rows, cols, first <= y_last and y_first <= last, both=y is not None or j > i)
            for i, (rows, first, last) in enumerate(spans)
            for j, (cols, y_first, y_last) in enumerate(y_spans)
            if y is not None or j >= i
        ]
        self.near: list[bool] | None = None
        self.shift: tuple[Tensor, Tensor] | None = None
        self._kept: list[Piece] | None = None

    def pieces(self, x: Tensor, y: Tensor) -> Iterable[Piece]:
        """All scores. The first time it finds out in which tiles rows of two classes may nearly
        coincide (``near``); then such rows are a piece of their own, made from differences. Those
        of a small matrix are kept, others computed each time."""
        if self._kept is not None:
            return self._kept
        if len(self.x.code) * len(self.y.code) > _KEPT_ELEMENTS:
            return self._computed(x, y)
        known, pieces = self.near is not None, list(self._computed(x, y))
        self._kept = pieces if known or not any(self.near or ()) else None
        return pieces

    def _computed(self, x: Tensor, y: Tensor) -> Iterator[Piece]:
        suspects = []
        for index, tile in enumerate(self.tiles):
            a, b = self.x.rows[tile.rows], self.y.rows[tile.cols]
            if not self.distances:
                yield Piece(tile, self._without_same(a @ b.T, tile, -torch.inf))
                continue
            squared = self._norms(tile).addmm_(a, b.T, alpha=-2)
            squared, rows = self._without_same(squared, tile, torch.inf), None
            if self.near is None:
                suspects.append(self._may_be_near(squared, tile))
            elif self.near[index]:
                rows = self._near_rows(squared, tile)
            scores = squared.clamp_(min=0).sqrt_().neg_()
            if rows is not None and len(rows) > 0:
                # As they came: moving the centre rounds.
                ends = x[self.x.order[tile.rows][rows]], y[self.y.order[tile.cols]]
                exact = -distances_from_differences(*ends)
                yield Piece(tile, self._without_same(exact, tile, -torch.inf, rows), rows, ends)
                scores[rows] = -torch.inf
            yield Piece(tile, scores)
        if self.near is None:  # asking tile by tile would wait for the device each time
            self.near = torch.stack(suspects).tolist() if suspects else []

    def exponentials(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Those for the sums of rows and those for the sums of columns, each below ``shift``."""
        if self.shift is None:
            exponential = piece.scores.exp()
            return exponential, exponential
        of_x, of_y = of_piece(self.shift, piece)
        return (piece.scores - of_x).exp_(), (piece.scores - of_y).exp_()

    def may_leave_range(self) -> bool:
        """Whether the exponential of a score may."""
        norm, y_norm = (side.squares.amax().sqrt() for side in (self.x, self.y))
        reach = norm + y_norm if self.distances else norm * y_norm
        return not bool(reach < _LARGEST_EXPONENT[reach.dtype])

    def numbers(self, value: float = 0.0) -> tuple[Tensor, Tensor]:
        """One a row and one a column, a single tensor where these are the same."""
        of_x = torch.full_like(self.x.squares, value)
        return of_x, of_x if self.y is self.x else torch.full_like(self.y.squares, value)

    def _without_same(
        self, values: Tensor, tile: Tile, fill: float, rows: Tensor | None = None
    ) -> Tensor:
        if not tile.mixed:
            return values
        code = self.x.code[tile.rows] if rows is None else self.x.code[tile.rows][rows]
        return values.masked_fill_(code[:, None] == self.y.code[tile.cols], fill)

    def _may_be_near(self, squared: Tensor, tile: Tile) -> Tensor:
        largest = self.x.squares[tile.rows].amax() + self.y.squares[tile.cols].amax()
        return ~(squared.amin() > NEAR * largest)  # what is no number may be

    def _near_rows(self, squared: Tensor, tile: Tile) -> Tensor:
        return (~(squared > self._norms(tile).mul_(NEAR))).any(dim=1).nonzero()[:, 0]

    def _norms(self, tile: Tile) -> Tensor:
        return self.x.squares[tile.rows, None] + self.y.squares[tile.cols]


def distances_from_differences(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) Euclidean, without a product."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def of_piece(numbers: tuple[Tensor, Tensor], piece: Piece) -> tuple[Tensor, Tensor]:
    """Numbers of its rows, as a column, and of its columns."""
    of_x = numbers[0][piece.tile.rows]
    of_x = of_x if piece.rows is None else of_x[piece.rows]
    return of_x[:, None], numbers[1][piece.tile.cols]
