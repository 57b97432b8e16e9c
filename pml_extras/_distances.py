"""The distances of pytorch-metric-learning: larger or smaller is closer, whole or by rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pytorch_metric_learning.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
    SNRDistance,
)
from torch import Tensor

from pml_extras._checks import refuse
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.rows import without_gradient_at_zero
from pml_extras.functional.snr import snr_distance


class Comparison(NamedTuple):
    """What a distance compares.

    ``matrix(query, ref)`` is the distance of the batch and its references; that of some rows of
    ``query`` is those rows of it if ``by_rows``, which pml's own distances allow.
    """

    query: Tensor
    ref: Tensor
    matrix: Callable[[Tensor, Tensor], Tensor]
    by_rows: bool


def comparison(distance: Any, embeddings: Tensor, ref_emb: Tensor) -> Comparison:
    """The rows as ``distance`` normalises them, and how it compares these.

    The steps are those of ``BaseDistance.forward``, apart from each other.

    Departures: for pml's ``LpDistance(p=2)`` the matrix is ``functional.euclidean_distance``, since
    the gradient of ``torch.cdist`` is wrong where points nearly coincide (0.2 relative error in
    float32 at a distance of 1e-4); for its ``SNRDistance`` it is ``functional.snr_distance``, which
    holds no (B, R, D) differences.
    """
    same = ref_emb is embeddings
    if distance.normalize_embeddings:
        embeddings = without_gradient_at_zero(embeddings)
        ref_emb = embeddings if same else without_gradient_at_zero(ref_emb)
    if type(distance) not in (CosineSimilarity, DotProductSimilarity, LpDistance, SNRDistance):
        return Comparison(
            embeddings, ref_emb, lambda x, y: distance(x, None if y is x else y), by_rows=False
        )
    distance.reset_stats()
    query = distance.maybe_normalize(embeddings)
    ref = query if same else distance.maybe_normalize(ref_emb)
    distance.set_default_stats(embeddings, ref_emb, query, ref)

    def matrix(x: Tensor, y: Tensor) -> Tensor:
        if type(distance) is SNRDistance:
            compared = snr_distance(x, y)
        elif type(distance) is LpDistance and distance.p == 2:
            compared = euclidean_distance(x, None if y is x else y)
        else:
            compared = distance.compute_mat(x, y)
        return compared if distance.power == 1 else compared**distance.power

    return Comparison(query, ref, matrix, by_rows=True)


def distance_matrix(distance: Any, embeddings: Tensor, ref_emb: Tensor) -> Tensor:
    """(B, R) what ``distance(embeddings, ref_emb)`` gives, but for those departures."""
    query, ref, matrix, _ = comparison(distance, embeddings, ref_emb)
    return matrix(query, ref)


def is_euclidean(distance: Any) -> bool:
    """Whether it is the 2-norm of a difference, neither a power of it nor a subclass."""
    return type(distance) is LpDistance and (distance.p, distance.power) == (2, 1)


def is_product(distance: Any) -> bool:
    """Whether it is an inner product of rows, whole or of their directions."""
    inner = type(distance) in (CosineSimilarity, DotProductSimilarity)
    return inner and bool(distance.power == 1)


def require_distance(distance: Any, kind: type) -> None:
    """Refuse a distance that a formula has no meaning for."""
    if not isinstance(distance, kind):
        way_out = "Leave it out: it is the default."
        raise refuse("distance", f"{kind.__name__}", type(distance).__name__, way_out)
