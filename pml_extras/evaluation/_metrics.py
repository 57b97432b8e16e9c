"""Metrics of single queries, from which of their neighbours are of their class.

Formulas: :class:`pml_extras.evaluation.RetrievalAccuracyCalculator`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor


class Found(NamedTuple):
    """What the search tells of some queries.

    Args:
        same: (Q, K) bool, whether the k-th nearest reference is of the query's class.
        relevant: (Q, 1) int64, R: references of the query's class, without the query itself.
        k: neighbours that the calculator's ``k`` lets pml's metrics see.
    """

    same: Tensor
    relevant: Tensor
    k: int


class Metric(NamedTuple):
    """A formula, found -> (Q,) float64, anything where R = 0; and how many neighbours it needs, by
    ``k`` and the largest R."""

    of: Callable[[Found], Tensor]
    depth: Callable[[int, int], int]


def recall(at: int) -> Metric:
    """Whether one of the ``at`` nearest is relevant."""
    return Metric(partial(_is_found, at), lambda k, r: at)


def _is_found(at: int, found: Found) -> Tensor:
    return found.same[:, :at].any(dim=1).double()


def _r_precision(found: Found) -> Tensor:
    same, nearest = _nearest_r(found)
    return same.sum(dim=1) / nearest.sum(dim=1).double()


def _average_precision_at_r(found: Found) -> Tensor:
    return _sum_of_precisions(_nearest_r(found)[0]) / found.relevant[:, 0]


def _average_precision(found: Found) -> Tensor:
    return _sum_of_precisions(found.same[:, : found.k]) / found.relevant[:, 0]


def _reciprocal_rank(found: Found) -> Tensor:
    same = found.same[:, : found.k]
    before = (same.cumsum(dim=1) == 0).sum(dim=1)
    return same.any(dim=1) / (1.0 + before.double())


def _nearest_r(found: Found) -> tuple[Tensor, Tensor]:
    """(Q, k) relevant and among the R nearest; among the R nearest."""
    same = found.same[:, : found.k]
    nearest = _ranks(same) <= found.relevant
    return same & nearest, nearest


def _sum_of_precisions(same: Tensor) -> Tensor:
    return (same.cumsum(dim=1) * same / _ranks(same)).sum(dim=1)


def _ranks(same: Tensor) -> Tensor:
    return torch.arange(1, same.shape[1] + 1, dtype=torch.float64, device=same.device)


METRICS = {
    "precision_at_1": recall(1),
    "r_precision": Metric(_r_precision, lambda k, r: min(k, r)),
    "mean_average_precision_at_r": Metric(_average_precision_at_r, lambda k, r: min(k, r)),
    "mean_average_precision": Metric(_average_precision, lambda k, r: k),
    "mean_reciprocal_rank": Metric(_reciprocal_rank, lambda k, r: k),
}
