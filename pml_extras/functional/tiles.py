"""A statistic of the lines of a pairwise matrix of which only some lines exist at a time."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_count
from pml_extras.functional.precision import no_autocast

TILE_ELEMENTS = {"cpu": 2**19}
"""Elements of a tile by type of device: on a CPU what its caches hold."""

OTHER_TILE_ELEMENTS = 2**25
"""Elements of a tile on an accelerator, which wants few large kernels: 128 MiB of float32."""


class Part(NamedTuple):
    """Rows of x, and the entries of the result that are made from them."""

    rows: slice
    items: slice


Block = Callable[[Tensor, Tensor, Part], Tensor]
"""(x[part.rows], y, part) -> (items,), differentiable; it may hold (rows, R) matrices."""


class SameClass(NamedTuple):
    """Pairs (i, j) of one class, sorted by i and then by j; those of row i start at starts[i].

    ``code[i] == ref_code[j]`` for these pairs alone: for masks of a backward pass, since the labels
    of a batch may be overwritten before it.
    """

    i: Tensor
    j: Tensor
    starts: list[int]
    code: Tensor
    ref_code: Tensor

    def negative(self, rows: slice) -> Tensor:
        """(rows, R) bool, pairs of two classes."""
        return self.code[rows, None] != self.ref_code


def same_class_pairs(labels: Tensor, ref_labels: Tensor, *, without_self: bool) -> SameClass:
    """Positions (i, j) with ``labels[i] == ref_labels[j]``, without a (B, R) mask.

    Args:
        labels: (B,) classes; a NaN is a class of its own.
        ref_labels: (R,) classes, of any type that compares with those.
        without_self: leave out i == j, for labels compared with themselves.

    Returns:
        i and j, each (P,) int64, B + 1 starts, and codes, (B,) and (R,) int64; memory O(B + R + P).

    >>> same_class_pairs(torch.tensor([1, 0]), torch.tensor([0, 1, 1]), without_self=False)[:3]
    (tensor([0, 0, 1]), tensor([1, 2, 0]), [0, 2, 3])
    """
    if without_self or ref_labels is labels:  # one code, also for a NaN, which is no other's equal
        _, code = labels.unique(return_inverse=True)
        ref_code = code
    else:
        _, codes = torch.cat([labels, ref_labels]).unique(return_inverse=True)
        code, ref_code = codes.split([len(labels), len(ref_labels)])
    order = ref_code.argsort(stable=True)
    members = ref_code[order]
    first = torch.searchsorted(members, code)  # (B,)
    count = torch.searchsorted(members, code, right=True) - first
    i = torch.repeat_interleave(count)  # (P,)
    nth = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
    j = order[first[i] + nth]
    if without_self:
        other = i != j
        i, j, count = i[other], j[other], count - 1
    return SameClass(i, j, [0, *count.cumsum(0).tolist()], code, ref_code)


def lines_at_a_time(tile: int | None, size: int, device: torch.device) -> int:
    """``tile``, or where it is None as many lines of ``size`` as suit the device."""
    if tile is not None:
        check_count(1, tile=tile)
        return tile
    elements = TILE_ELEMENTS.get(device.type, OTHER_TILE_ELEMENTS)
    return max(1, elements // max(1, size))


def parts_of_rows(starts: Sequence[int], lines: int) -> list[Part]:
    """So many rows at a time, with all of their items.

    >>> parts_of_rows([0, 2, 3, 7], 2)
    [Part(rows=slice(0, 2, None), items=slice(0, 3, None)), \
Part(rows=slice(2, 3, None), items=slice(3, 7, None))]
    """
    num = len(starts) - 1
    bounds = [*range(0, num, lines), num]
    return [Part(slice(a, b), slice(starts[a], starts[b])) for a, b in pairwise(bounds)]


def parts_of_items(starts: Sequence[int], lines: int) -> list[Part]:
    """So many items at a time, with the rows that they belong to.

    >>> parts_of_items([0, 2, 3, 7], 4)
    [Part(rows=slice(0, 3, None), items=slice(0, 4, None)), \
Part(rows=slice(2, 3, None), items=slice(4, 7, None))]
    """
    bounds = [*range(0, starts[-1], lines), starts[-1]]
    return [
        Part(slice(bisect_right(starts, a) - 1, bisect_right(starts, b - 1)), slice(a, b))
        for a, b in pairwise(bounds)
    ]


def upper_tiles(size: int, lines: int) -> Iterator[tuple[slice, slice]]:
    """Tiles (I, J) of a symmetric matrix, J not before I: each unordered pair in one of them.

    >>> list(upper_tiles(3, 2))
    [(slice(0, 2, None), slice(0, 2, None)), (slice(0, 2, None), slice(2, 3, None)), \
(slice(2, 3, None), slice(2, 3, None))]
    """
    spans = [slice(a, min(a + lines, size)) for a in range(0, size, lines)]
    for first, rows in enumerate(spans):
        for cols in spans[first:]:
            yield rows, cols


def in_parts(block: Block, x: Tensor, y: Tensor, parts: Sequence[Part]) -> Tensor:
    """``block`` over one part after the other, each computed again in the backward pass.

    A single part is left to autograd: nothing is computed twice, and a backward pass inside an
    autocast region rounds its products, where that of parts does not. A gradient that is itself
    differentiated (``create_graph=True``, and any of ``torch.func``) holds all parts.

    Args:
        block: what each part gives; gradients flow to its first two arguments alone. It runs again
            in the backward pass: what else it reads has to be the same then.
        x: (B, D), of which a part sees its rows.
        y: (R, D), which each part sees whole.
        parts: in the order of their items, which they cover without overlap.

    Returns:
        (items,) in the order of the parts, in the dtype of x. Memory: that of the largest part, and
        O(B D + R D).
    """
    if not parts:
        return x[:0].sum(dim=1)
    if len(parts) == 1:
        rows = parts[0].rows
        return block(x if rows == slice(0, len(x)) else x[rows], y, parts[0])
    result: Tensor = _InParts.apply(block, parts, x, y)
    return result


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(block: Block, parts: Sequence[Part], x: Tensor, y: Tensor) -> Tensor:
        result = x.new_empty(parts[-1].items.stop)  # small results kept between large tiles would
        for part in parts:  # leave gaps in the heap that no tile fits into: gigabytes
            result[part.items] = block(x[part.rows], y, part)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.block, ctx.parts, x, y = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        of_x, of_y = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # this gradient is to be differentiated: hold every part
            sides = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]  # x may be y
            wanted = [side for side, of in zip(sides, (of_x, of_y), strict=True) if of]
            with no_autocast(sides[0]):
                value = torch.cat([ctx.block(sides[0][p.rows], sides[1], p) for p in ctx.parts])
                grads = list(torch.autograd.grad(value, wanted, grad, create_graph=True))
            second = grads.pop() if of_y else None
            return None, None, grads.pop() if of_x else None, second
        x, y = (tensor.detach() for tensor in ctx.saved_tensors)
        grad_x, grad_y = (torch.zeros_like(t) if of else None for t, of in ((x, of_x), (y, of_y)))
        y.requires_grad_(of_y)
        for part in ctx.parts:
            rows = x[part.rows].requires_grad_(of_x)
            wanted = [leaf for leaf in (rows, y) if leaf.requires_grad]
            with no_autocast(x):
                with torch.enable_grad():
                    value = ctx.block(rows, y, part)
                grads = list(torch.autograd.grad(value, wanted, grad[part.items]))
            if grad_y is not None:
                grad_y += grads.pop()
            if grad_x is not None:
                grad_x[part.rows] += grads.pop()
        return None, None, grad_x, grad_y
