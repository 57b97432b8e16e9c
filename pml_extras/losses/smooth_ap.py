"""Smooth-AP loss: pml's by name, the equation by value, at memory linear in the batch."""

from typing import Any

from torch import Tensor

from pml_extras._checks import check_positive
from pml_extras._pml import (
    LossDict,
    anchor_weights,
    per_anchor,
    refuse_references,
    required_labels,
)
from pml_extras.functional.ranking import smooth_precision
from pml_extras.losses._over_positives import RankingLoss


class SmoothAPLoss(RankingLoss):
    r"""One minus the average precision of the batch, ranked about each of its rows.

    .. math:: \ell_i = 1 - AP_i, \qquad P_i = \{j : y_j = y_i\} \ni i

    Formula and source: :func:`pml_extras.functional.smooth_precision`.

    ========= ===================================== ========== =========
    Distances A tuple                               References Reduction
    ========= ===================================== ========== =========
    cosine    weighs rows by how often it has them  refused    element
    ========= ===================================== ========== =========

    Args:
        temperature: :math:`\tau > 0` of the sigmoids, in units of cosine.
        tile: positives that are held at a time beside all rows; None chooses by size and device.
        **kwargs: pml's ``distance`` (a ``CosineSimilarity``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``; and ``match_fn``,
            a relation in place of equal labels: :class:`pml_extras.losses._pair_loss.PairLoss`.

    Classes of any sizes in any order; a row alone in its class costs 0 and counts in the mean.
    With ``match_fn`` a row is among its own positives whatever that says.

    A miner's tuple: row i is weighed by how often it occurs, over the largest count, as in pml.

    Memory: O(B D + tile B + P) for P = sum of squared class sizes, or the positives that
    ``match_fn`` names; with a subclass of ``CosineSimilarity`` O(P B).

    Output: "element", one loss a row of the batch, shape (B,), as the sub-loss ``loss``.

    Departures from pml 2.9.0, which is this equation only where the batch is sorted by class and
    has as many classes as rows a class (it swaps the two numbers): other batches have other
    values, 8 sorted classes of 4 for instance; unequal class sizes are computed (pml: ValueError);
    float64 stays float64 (pml: float32). The sub-loss is ``loss`` (pml: ``ap_loss``, which its own
    ``MultipleReducers`` does not find). A temperature is a number (pml: or a tensor). Departure
    from the paper, that of its released code and of pml: a row is among its own positives.

    Raises:
        ValueError: an argument out of its range, another distance than the cosine, no labels, or
            references.
    """

    def __init__(self, temperature: float = 0.01, tile: int | None = None, **kwargs: Any) -> None:
        super().__init__(tile, **kwargs)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        refuse_references(embeddings, ref_emb, "Smooth-AP ranks the rows of one batch.")
        labels, _ = required_labels(labels, ref_labels)
        precision, _ = self.mean_over_positives(
            smooth_precision,
            embeddings,
            labels,
            temperature=self.temperature,
        )
        weights = anchor_weights(indices_tuple, labels, precision.dtype, has_ref=False)
        return per_anchor((1 - precision) * weights)
