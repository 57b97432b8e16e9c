"""Pairs of one class, and pairs of two classes that are close, without a matrix of all pairs."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pml_extras.functional.pairwise import pair_differences
from pml_extras.functional.tiles import (
    OTHER_TILE_ELEMENTS,
    TILE_ELEMENTS,
    same_class_pairs,
    upper_tiles,
)

PairIndices = tuple[Tensor, Tensor]
"""Positions (a, b), each (P,) int64."""

Search = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, float], Iterator[PairIndices]]
"""What ``close_pairs`` is: points, labels, sources, source labels, radius."""

_PRODUCT_ERROR = 4e-3
"""Bound on the error of a squared distance from products, over the sum of the squared norms:
operands rounded to 10 bits (TF32) are the worst. A wider search only lists more pairs."""

_PAIRS_AT_A_TIME = 2**20
"""Pairs of one class that are listed at a time: 16 MiB, and what makes them."""


def pairs_of_one_class(labels: Tensor, y_labels: Tensor | None) -> Iterator[PairIndices]:
    """All same-class pairs, a bounded number at a time; inside one set each once, a < b."""
    others = labels if y_labels is None else y_labels
    if len(labels) == 0 or len(others) == 0:
        return
    largest = int(others.unique(return_counts=True)[1].max())
    step = max(1, _PAIRS_AT_A_TIME // largest)
    for start in range(0, len(labels), step):
        found = same_class_pairs(labels[start : start + step], others, without_self=False)
        rows, cols = found.i + start, found.j
        if y_labels is None:
            once = rows < cols
            rows, cols = rows[once], cols[once]
        yield rows, cols


def close_pairs(
    x: Tensor, labels: Tensor, y: Tensor | None, y_labels: Tensor | None, radius: float
) -> Iterator[PairIndices]:
    """All pairs of two classes nearer than ``radius``, and some that are a little farther.

    Products of tiles search: a tile whose largest product is below what any of its pairs would need
    is left after that one reduction. A point that is NaN is close to all. The host asks each tile
    whether it is empty: on an accelerator a wait per 2^25 products, ten at 22,736 points. The way
    around it, all maxima first, computes the products of tiles with close pairs twice.

    Args:
        x: (T, D) points.
        labels: (T,) their classes.
        y: (S, D) sources; None: the points themselves, each unordered pair once, a < b.
        y_labels: (S,) their classes.
        radius: a distance.

    Yields:
        What one tile has. Memory: O(T + S + tile), however many pairs are close.
    """
    return pairs_nearer_than(lambda: radius, x, labels, y, y_labels)


def pairs_nearer_than(
    radius: Callable[[], float],
    x: Tensor,
    labels: Tensor,
    y: Tensor | None = None,
    y_labels: Tensor | None = None,
) -> Iterator[PairIndices]:
    """``close_pairs`` with a radius that may change from tile to tile."""
    other = x if y is None else y
    other_labels = labels if y_labels is None else y_labels
    # (1 - e) (|x|^2 + |y|^2) - 2 x.y < radius^2, as a bound that the product x.y has to pass.
    of_x = _half_squares(x)
    of_y = of_x if y is None else _half_squares(other)
    for rows, cols in _tiles(len(x), None if y is None else len(other), x.device):
        products = _products(x[rows], other[cols])
        itself = y is None and rows == cols
        if itself:
            products.fill_diagonal_(-torch.inf)
        least = 0.5 * radius() ** 2
        # Not ">": what is NaN is close.
        if bool(products.max() <= of_x[rows].min() + of_y[cols].min() - least):
            continue
        close = ~(products <= of_x[rows, None] + (of_y[cols] - least))
        close &= labels[rows, None] != other_labels[cols]
        if itself:
            close.triu_(1)
        first, second = close.nonzero(as_tuple=True)
        yield first + rows.start, second + cols.start


def distances_of(pairs: PairIndices, x: Tensor) -> Tensor:
    """(P,) distances inside one set, each from its difference."""
    rows, cols = pairs
    result = x.new_empty(len(rows))
    for part, difference in pair_differences(x, x, rows, cols):
        result[part] = difference.norm(dim=1)
    return result


def _half_squares(x: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1)
    return lengths.square() * (0.5 - 0.5 * _PRODUCT_ERROR)


def _products(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.T


def _tiles(num: int, num_y: int | None, device: torch.device) -> Iterator[tuple[slice, slice]]:
    elements = TILE_ELEMENTS.get(device.type, OTHER_TILE_ELEMENTS)
    side = math.isqrt(elements)
    if num_y is None:
        yield from upper_tiles(num, side)
        return
    side = max(1, min(side, num))
    width = elements // side
    for a in range(0, num, side):
        for b in range(0, num_y, width):
            yield slice(a, min(a + side, num)), slice(b, min(b + width, num_y))
