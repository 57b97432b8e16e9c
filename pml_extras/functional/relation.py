"""Pairs by a comparison of labels that need not be their equality."""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import ranges, refuse
from pml_extras.functional.masked import masked_logsumexp
from pml_extras.functional.tiles import Part, in_parts

MatchFn = Callable[[Tensor, Tensor], Tensor]
"""(labels of some rows, labels of all R references) -> (rows, R), bool or integers.

True or 1 is a positive pair, False or 0 a negative one, -1 neither. Entry (i, j) may depend on
label i and on label j alone; it need not be that of (j, i).
"""


def relation_masks(
    match_fn: MatchFn, labels: Tensor, ref_labels: Tensor, *, start: int | None = None
) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs, as ``match_fn`` compares labels.

    Args:
        match_fn: what compares them.
        labels: (B, ...), one a row.
        ref_labels: (R, ...), one a reference.
        start: where the B rows begin among the references, whatever is said of a row and itself
            being left out; None for references that are others.

    Returns:
        Two (B, R) bool masks that exclude each other; what ``match_fn`` returned is not written to.

    Raises:
        ValueError: ``match_fn`` returns another form, or other numbers than 1, 0 and -1.

    >>> sets = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    >>> relation_masks(lambda a, b: a @ b.T > 0, sets, sets, start=0)[0]
    tensor([[False,  True, False],
            [ True, False,  True],
            [False,  True, False]])
    """
    relation = match_fn(labels, ref_labels)
    _check_relation(relation, (len(labels), len(ref_labels)), labels.device)
    positive, negative = relation == 1, relation == 0
    if start is not None:
        positive.diagonal(start).fill_(False)
        negative.diagonal(start).fill_(False)
    return positive, negative


def _check_relation(relation: Tensor, shape: tuple[int, int], device: torch.device) -> None:
    expected, way_out = f"to return {shape}", "True or 1 is positive, False or 0 negative, -1 none."
    if not torch.is_tensor(relation):
        raise refuse("match_fn", expected, type(relation).__name__, way_out)
    if relation.shape != shape:
        raise refuse("match_fn", expected, tuple(relation.shape), way_out)
    if relation.is_floating_point() or relation.is_complex():
        way_out = "Compare what is soft with thresholds: " + way_out
        raise refuse("match_fn", "to return bool or integers", relation.dtype, way_out)
    if relation.device != device:
        came = f"a tensor on {relation.device}"
        raise refuse("match_fn", f"to return a tensor on {device}, as labels are", came)
    known = relation.dtype == torch.bool or torch.compiler.is_compiling()
    if not known and relation.numel() > 0:
        ((low, high),) = ranges(relation)
        if low < -1 or high > 1:
            raise refuse("match_fn", "to return 1, 0 and -1", f"{low} to {high}", way_out)


MasksOfRows = Callable[[slice], tuple[Tensor, Tensor]]
"""(rows, R) bool positive and negative."""


def masks_of_rows(
    match_fn: MatchFn, labels: Tensor, ref_labels: Tensor, *, own: bool | None
) -> MasksOfRows:
    """Positive and negative pairs for some rows at a time; arguments as :func:`related_pairs`."""
    kept = labels.clone()
    others = kept if ref_labels is labels else ref_labels.clone()

    def masks(rows: slice) -> tuple[Tensor, Tensor]:
        start = None if own is None else rows.start
        positive, negative = relation_masks(match_fn, kept[rows], others, start=start)
        if own:
            positive.diagonal(rows.start).fill_(True)
        return positive, negative

    return masks


class RelatedPairs(NamedTuple):
    """Positive pairs (i, j), sorted by i and then by j; those of row i start at starts[i]."""

    i: Tensor
    j: Tensor
    starts: list[int]
    masks: MasksOfRows

    def negative(self, rows: slice) -> Tensor:
        """(rows, R) bool."""
        return self.masks(rows)[1]


def related_pairs(
    match_fn: MatchFn, labels: Tensor, ref_labels: Tensor, *, own: bool | None, lines: int
) -> RelatedPairs:
    """Positive pairs as ``match_fn`` compares labels, some rows of the (B, R) relation at a time.

    Args:
        match_fn: what compares them; asked again for the negatives of some rows.
        labels: (B, ...), one a row.
        ref_labels: (R, ...), one a reference.
        own: what a row is to itself where the references are the rows, whatever ``match_fn`` says:
            True a positive, False neither; None for references that are others.
        lines: rows at a time.

    Returns:
        i and j, each (P,) int64, and B + 1 starts; memory O(lines R + P) and that of the labels,
        which may be overwritten before a backward pass.

    Raises:
        ValueError: as :func:`relation_masks`.

    >>> pairs = related_pairs(
    ...     torch.gt, torch.tensor([[1], [3]]), torch.tensor([0, 2]), own=None, lines=1
    ... )
    >>> pairs.i, pairs.j, pairs.starts, pairs.negative(slice(0, 1))
    (tensor([0, 1, 1]), tensor([0, 0, 1]), [0, 1, 3], tensor([[False,  True]]))
    """
    masks = masks_of_rows(match_fn, labels, ref_labels, own=own)
    found = []
    for first in range(0, max(1, len(labels)), lines):
        i, j = masks(slice(first, first + lines))[0].nonzero(as_tuple=True)
        found.append((first + i, j))
    i, j = (torch.cat(side) for side in zip(*found, strict=True))
    counts = torch.bincount(i, minlength=len(labels))
    return RelatedPairs(i, j, [0, *counts.cumsum(0).tolist()], masks)


def related_log_negatives(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    masks: MasksOfRows,
    *,
    lines: int,
) -> tuple[Tensor, Tensor]:
    r"""Negatives of each row as one number, and those of each reference.

    .. math::
        a_i = \log \sum_{j: (i, j) \in N} e^{s_{ij}}, \qquad
        b_j = \log \sum_{i: (i, j) \in N} e^{s_{ij}}

    Args:
        score: (rows, D) and (R, D) -> (rows, R) s, by rows; differentiable.
        x: (B, D).
        y: (R, D); x itself has no others, and b is a there.
        masks: of which the second are N.
        lines: rows at a time.

    Returns:
        a, (B,), and b, (R,), ``-inf`` with zero gradient without negatives. Memory:
        O(lines R + B R / lines), the second for references alone.
    """
    same = y is x
    width = 0 if same else len(y)

    def block(rows: Tensor, others: Tensor, part: Part) -> Tensor:
        scores, negative = score(rows, others), masks(part.rows)[1]  # (rows, R)
        of_rows = masked_logsumexp(scores, negative)
        if same:
            return of_rows
        return torch.cat([of_rows, masked_logsumexp(scores.T, negative.T)])

    spans = [slice(first, min(first + lines, len(x))) for first in range(0, len(x), lines)]
    sizes = [rows.stop - rows.start + width for rows in spans]
    stops = accumulate(sizes)
    items = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    sums = in_parts(block, x, y, [Part(*part) for part in zip(spans, items, strict=True)])
    pieces = sums.split(sizes)
    of_x = torch.cat([piece[: len(piece) - width] for piece in pieces])
    if same:
        return of_x, of_x
    of_y = torch.stack([piece[len(piece) - width :] for piece in pieces], dim=1)  # (R, parts)
    return of_x, masked_logsumexp(of_y, ~of_y.isneginf())
