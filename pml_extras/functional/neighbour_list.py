"""Neighbour lists with a skin: points that move little are not searched again."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pml_extras.functional.close_pairs import (
    PairIndices,
    close_pairs,
    distances_of,
    pairs_nearer_than,
)
from pml_extras.functional.pairwise import CHUNK_ELEMENTS, squared_products

_PAIRS_A_POINT = 2
"""Length of a list at most: its pairs then cost little beside the search that they save."""

_SAMPLE = 1024
"""Points whose distances say how far the list may reach."""

_LONGEST_PAUSE = 64
"""Searches without a list at most, where lists have not held until the next call."""

_PAUSE = 10
"""Searches without a try at a list after one that would have been too long."""


class NeighbourList:
    """``close_pairs`` inside one set that changes little from call to call, with the same result.

    A list holds all pairs of two classes nearer than ``reach``, and the points as they were then.
    While ``radius`` and the two largest displacements together stay below ``reach``, no pair that
    is not listed can be nearer than ``radius``, since a distance shrinks by no more than its
    two ends move; else the list is built again. Displacements are measured, so it does not matter
    who moves the points, or how far; each call waits once for the device to compare them.

    The one rule for the reach: the widest for which the list has at most two pairs a point, as a
    sample of 1024 points tells, and shrunk during the search where it tells wrong. Spread
    points so get a wide skin, crowded ones a thin one; a crowd with more than two pairs a point
    inside ``radius`` itself is searched plainly, and ten times more before the next try.
    Where a list did not hold for a single call, as of points that jump, the next one is tried after
    a pause that doubles each time.

    Every call must give the same labels. The points of a build are held, not copied: leave them as
    they are. Copies of a list, pickled ones too, start empty.
    """

    def __init__(self) -> None:
        self._points: Tensor | None = None
        self._pairs: PairIndices | None = None
        self._reach = 0.0
        self._pause = 0
        self._served = 0  # calls that the last list was for, but for the one that built it
        self._unserved = 0  # lists in a row that served none

    def __reduce__(self) -> tuple[Any, ...]:
        return NeighbourList, ()

    def __call__(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor | None,
        y_labels: Tensor | None,
        radius: float,
    ) -> Iterator[PairIndices]:
        """As ``close_pairs``; sources other than the points are searched plainly."""
        if y is None and self._holds(x, radius):
            self._served += 1
        elif y is None:
            if self._points is not None:
                self._unserved = 0 if self._served > 0 else self._unserved + 1
                self._pause = min(2 ** max(0, self._unserved - 1) - 1, _LONGEST_PAUSE)
            self._build(x, labels, radius)
        if y is not None or self._pairs is None:
            yield from close_pairs(x, labels, y, y_labels, radius)
            return
        rows, cols = self._pairs
        near = distances_of(self._pairs, x) < radius
        yield rows[near], cols[near]

    def _holds(self, x: Tensor, radius: float) -> bool:
        """Whether no pair inside ``radius`` can be missing."""
        at = self._points
        if at is None or (at.shape, at.dtype, at.device) != (x.shape, x.dtype, x.device):
            return False
        step = max(1, CHUNK_ELEMENTS // max(1, x.shape[1]))
        parts = zip(x.split(step), at.split(step), strict=True)
        moved = torch.cat([(now - then).norm(dim=1) for now, then in parts])
        largest_two = moved.topk(min(2, len(moved))).values.sum().item()
        return _with_margin(radius + largest_two, x) <= self._reach  # False if NaN

    def _build(self, x: Tensor, labels: Tensor, radius: float) -> None:
        self._points = self._pairs = None
        if self._pause > 0:
            self._pause -= 1
            return
        if not bool(x.norm(dim=1).sum().isfinite()):  # what is no number has no neighbours to list
            return
        limit = _PAIRS_A_POINT * len(x)
        least = _with_margin(radius, x)
        self._reach = max(least, _reach_of(limit // 2, x, labels))
        kept = torch.empty(2, limit, dtype=torch.int64, device=x.device)  # small results kept
        num = 0  # between large tiles would leave gaps in the heap that no tile fits into
        for pairs in pairs_nearer_than(lambda: self._reach, x, labels):
            found = torch.stack(pairs)
            if num + found.shape[1] > limit:
                found, num = torch.cat([kept[:, :num], found], dim=1), 0
                r = distances_of((found[0], found[1]), x)
                shrunk = r.kthvalue(limit // 2).values
                found = found[:, r < shrunk]
                self._reach = shrunk.item() / _with_margin(1.0, x)
                if self._reach < least:
                    self._pause = _PAUSE
                    return
            kept[:, num : num + found.shape[1]] = found
            num += found.shape[1]
        self._points, self._pairs = x, (kept[0, :num], kept[1, :num])
        self._served = 0


def _with_margin(length: float, x: Tensor) -> float:
    """Larger by what the rounding of distances in as many coordinates may hide."""
    return length * (1 + 4 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps)


def _reach_of(num: int, x: Tensor, labels: Tensor) -> float:
    """Distance inside which about ``num`` pairs of two classes lie; infinite where fewer exist."""
    some = slice(None, None, -(-len(x) // _SAMPLE) or None)
    x_some, labels_some = x[some], labels[some]
    share = (len(x_some) / max(1, len(x))) ** 2
    wanted = max(1, round(share * num))
    squared, _ = squared_products(x_some)
    of_two = (labels_some[:, None] != labels_some).triu_(1)
    ordered = squared[of_two]
    if len(ordered) < wanted:
        return torch.inf
    return float(ordered.kthvalue(wanted).values.clamp(min=0).sqrt())
