"""Rows of a batch and their directions."""

import torch
from torch import Tensor


def without_gradient_at_zero(rows: Tensor) -> Tensor:
    """(..., D) ``rows``, zero gradient for rows of zeros: they have no direction to turn from."""
    return rows.masked_fill((rows == 0).all(dim=-1, keepdim=True), 0.0)


def unit_rows(rows: Tensor) -> Tensor:
    """(..., D) rows of Euclidean norm 1, whatever their norms; a row of zeros stays, and has zero
    gradient. The largest coordinate is divided out first: its square may not fit the type."""
    rows = without_gradient_at_zero(rows)
    with torch.no_grad():
        largest = rows.abs().amax(dim=-1, keepdim=True) if rows.shape[-1] > 0 else rows
        largest = largest.masked_fill(largest == 0, 1.0)
    return torch.nn.functional.normalize(rows / largest, dim=-1)
