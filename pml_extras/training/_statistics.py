"""What a batch says of a training: positives, losses of zero, collapse. Without gradient."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pml_extras.functional.precision import at_least_float32, no_autocast
from pml_extras.functional.rows import unit_rows


@torch.no_grad()
def share_without_positive(labels: Tensor, ref_labels: Tensor | None = None) -> Tensor:
    """Share of rows whose class no other row has, or no reference if there are any.

    Args:
        labels: (B,) one class a row.
        ref_labels: (R,) classes of references; None: the other rows of the batch.

    Returns:
        0-dim float32 in [0, 1]; nan for B = 0. O((B + R) log R), nothing is read by the host.
    """
    if ref_labels is None:
        ordered = labels.sort().values
        alike = ordered[1:] == ordered[:-1]
        ends = alike.new_zeros(1)
        found = torch.cat([ends, alike]) | torch.cat([alike, ends])
    elif len(ref_labels) == 0:
        found = torch.zeros_like(labels, dtype=torch.bool)
    else:
        dtype = torch.promote_types(labels.dtype, ref_labels.dtype)
        dtype = torch.promote_types(dtype, torch.uint8)  # there is no search among bool
        wanted, ordered = labels.to(dtype), ref_labels.to(labels.device, dtype).sort().values
        place = torch.searchsorted(ordered, wanted).clamp(max=len(ordered) - 1)
        found = ordered[place] == wanted
    return 1 - found.float().mean()


@torch.no_grad()
def share_never_anchor(anchors: Tensor, num: int, device: torch.device) -> Tensor:
    """Share of ``num`` rows that are the anchor of no positive pair of a miner's tuple.

    Args:
        anchors: (N,) rows that have a positive, in any order, with repeats.
        num: B.
        device: where the share is wanted.

    Returns:
        0-dim float32 in [0, 1]; nan for B = 0.
    """
    without = torch.ones(num, device=device)
    without[anchors.to(device=device, dtype=torch.int64)] = 0.0
    return without.mean()


@torch.no_grad()
def share_of_zeros(losses: Iterable[Any], device: torch.device) -> Tensor:
    """Share of zeros among all elements of ``losses``, tensors of any shape.

    pml writes the number 0 for a sub-loss that found nothing to compare: it has no elements.

    Returns:
        0-dim float32 in [0, 1]; 1 without elements: there was nothing to learn from.
    """
    found = [x for x in losses if torch.is_tensor(x)]
    total = sum(x.numel() for x in found)
    if total == 0:
        return torch.ones((), device=device)
    nonzero = torch.stack([x.count_nonzero() for x in found]).sum()
    return 1 - nonzero / total


@torch.no_grad()
def mean_cosine(rows: Tensor) -> Tensor:
    r"""Mean cosine of two different rows.

    .. math::
        \frac{1}{B (B - 1)} \sum_{i \ne j} u_i^T u_j
        = \frac{\lVert \sum_i u_i \rVert^2 - \sum_i \lVert u_i \rVert^2}{B (B - 1)},
        \qquad u_i = x_i / \lVert x_i \rVert

    Args:
        rows: (B, D) floating; a row whose norm is 0 in its type has cosine 0 with all others.

    Returns:
        0-dim in the type of ``rows``, float32 at least, in
        [-1 / (B - 1), 1]; nan for B < 2. O(B D).
    """
    if len(rows) < 2:
        return at_least_float32(rows).new_full((), torch.nan)
    with no_autocast(rows):
        rows = at_least_float32(rows)
        norm = torch.linalg.vector_norm(rows, dim=1)  # (B,)
        inverse = norm.reciprocal().masked_fill(norm == 0, 0.0)
        total: Tensor = inverse @ rows  # (D,) the sum of unit rows, without a copy of all
        own = (inverse * norm).square().sum()
        cosines: Tensor = (total.square().sum() - own) / (len(rows) * (len(rows) - 1))
    return cosines


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    r"""Effective rank of the matrix of normalised rows.

    .. math::
        \exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \sigma_k / \sum_l \sigma_l

    with its singular values :math:`\sigma`. k orthogonal directions of as many rows each have k,
    rows of one direction, or of it and its opposite, have 1.

    Args:
        rows: (B, D) floating.

    Returns:
        0-dim float64 on the CPU in [1, min(B, D)]; 0 where all rows are zero, nan where an entry is
        not finite. O(B D m + m^3) for m = min(B, D).

    Singular values are roots of the eigenvalues of the smaller Gram matrix, and a root has half of
    the digits: in float64 those below 1e-7 of the largest would be rounding, and are left out.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO
    2007. Departure: rows are normalised first, as most losses do, so that their norms
    do not matter.
    """
    unit = unit_rows(rows.to("cpu", torch.float64))
    if unit.numel() == 0 or not unit.isfinite().all():
        return unit.new_tensor(0.0 if unit.numel() == 0 else torch.nan)
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    values: Tensor = torch.linalg.eigvalsh(gram)
    sigma = values.masked_fill(values < 1e-14 * values[-1], 0.0).clamp(min=0).sqrt()
    if sigma.sum() == 0:
        return sigma.sum()
    entropy: Tensor = torch.special.entr(sigma / sigma.sum()).sum()
    return entropy.exp()
