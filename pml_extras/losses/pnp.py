"""PNP loss: a drop-in for pytorch-metric-learning's, at memory linear in the batch."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_one_of, check_positive, refuse
from pml_extras._pml import (
    LossDict,
    per_element,
    refuse_references,
    required_labels,
)
from pml_extras.functional.ranking import PNP_VARIANTS, pnp, soft_count
from pml_extras.losses._over_positives import RankingLoss


class PNPLoss(RankingLoss):
    r"""Negatives that are ranked before positives, and nothing else of the average precision.

    .. math::
        r_{ij} = \sum_{n \in N_i} \sigma\Big(\frac{s_{in} - s_{ij}}{\tau}\Big), \qquad
        \ell_i = \frac{1}{|P_i|} \sum_{j \in P_i} \ell(r_{ij}), \qquad
        P_i = \{j : y_j = y_i\} \ni i

    Formula and source: :func:`pml_extras.functional.pnp`.

    A drop-in for ``pytorch_metric_learning.losses.PNPLoss``, equal to it in value and gradient
    with its ``MeanReducer``.

    ========= ========= ========== =========
    Distances A tuple   References Reduction
    ========= ========= ========== =========
    cosine    refused   refused    element
    ========= ========= ========== =========

    Args:
        b: > 0, of variant "Ib".
        alpha: > 0, of variant "Dq".
        anneal: :math:`\tau > 0`, temperature of the sigmoids, in units of cosine.
        variant: "O", "Iu", "Ib", "Ds" or "Dq", as the paper names the penalties.
        tile: positives that are held at a time beside all rows; None chooses by size and device.
        **kwargs: pml's ``distance`` (a ``CosineSimilarity``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``; and ``match_fn``,
            a relation in place of equal labels: :class:`pml_extras.losses._pair_loss.PairLoss`.

    Memory: O(B D + tile B + P) for P = sum of squared class sizes, or the positives that
    ``match_fn`` names; with a subclass of ``CosineSimilarity`` O(P B).

    Output: "element", one loss a row that is not alone in its class, with the positions of these;
    a row alone is a negative of others only. With ``match_fn`` a row is among its own positives
    whatever that says.

    Departures from pml 2.9.0: one loss a row, which any reducer may take (pml: their mean, already
    reduced); a float16 batch has a finite gradient; numbers out of their ranges are refused, those
    that the variant does not use among them; a temperature is a number (pml: or a tensor).

    Raises:
        ValueError: an argument out of its range, another distance than the cosine, no labels, a
            miner's tuple, or references.
    """

    VARIANTS = PNP_VARIANTS

    def __init__(
        self,
        b: float = 2,
        alpha: float = 1,
        anneal: float = 0.01,
        variant: str = "O",
        tile: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tile, **kwargs)
        check_positive(b=b, alpha=alpha, anneal=anneal)
        check_one_of(self.VARIANTS, variant=variant)
        self.b = b
        self.alpha = alpha
        self.anneal = anneal
        self.variant = variant
        self.add_to_recordable_attributes(list_of_names=["b", "alpha", "anneal"], is_stat=False)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        if indices_tuple is not None:
            raise refuse("indices_tuple", "None", "a tuple", "PNP ranks the whole batch.")
        refuse_references(embeddings, ref_emb, "PNP ranks the rows of one batch.")
        labels, _ = required_labels(labels, ref_labels)

        penalty = partial(pnp, variant=self.variant, alpha=self.alpha, b=self.b)

        def value(_: Tensor, negatives: Tensor, score: Tensor, row: Tensor) -> Tensor:
            return penalty(soft_count(negatives, score, row))

        means, counts = self.mean_over_positives(
            value,
            embeddings,
            labels,
            temperature=self.anneal,
        )
        if torch.compiler.is_compiling():
            return {"loss": per_element(means, members=counts > 1)}
        (together,) = (counts > 1).nonzero(as_tuple=True)
        if len(together) == 0:
            return self.zero_losses()  # type: ignore[no-any-return]
        return {"loss": {**per_element(means[together]), "indices": together}}
