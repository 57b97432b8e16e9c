"""Rows of a batch and their directions."""

import torch
from torch import Tensor


def without_gradient_at_zero(rows: Tensor) -> Tensor:
    """(..., D) ``rows``, zero gradient for rows of zeros: they have no direction to turn from."""
    return rows.masked_fill((rows == 0).all(dim=-1, keepdim=True), 0.0)


def unit_rows(rows: Tensor) -> Tensor:
    """(..., D) rows of Euclidean norm 1; a row of zeros stays, with zero gradient."""
    return torch.nn.functional.normalize(without_gradient_at_zero(rows), dim=-1)
