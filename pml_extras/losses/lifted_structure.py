"""Lifted structure losses: drop-ins for pytorch-metric-learning's, at O(B^2)."""

from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_finite
from pml_extras._distances import distance_matrix
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    label_masks,
    listed_pairs,
    pair_masks,
    per_anchor,
    per_pair,
    required_labels,
)
from pml_extras.functional.lifted_structure import generalized_lifted_structure, lifted_structure
from pml_extras.functional.masked import masked_logsumexp, segment_logsumexp


class _TwoMargins(FullPrecisionLoss):
    """The constructor that both losses share."""

    def __init__(self, neg_margin: float = 1, pos_margin: float = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_finite(neg_margin=neg_margin, pos_margin=pos_margin)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        self.add_to_recordable_attributes(list_of_names=["neg_margin", "pos_margin"], is_stat=False)


class LiftedStructureLoss(_TwoMargins):
    r"""Each positive pair against all negatives of both of its ends, at O(B^2) time and memory.

    Formula and source: :func:`pml_extras.functional.lifted_structure`.

    A drop-in for ``pytorch_metric_learning.losses.LiftedStructureLoss``: equal to it in value and
    gradient without references and where pairs have negatives, with any pml distance and miner and
    any reducer that takes positive pairs. The paper's loss is
    ``distance=LpDistance(normalize_embeddings=False)``; on unit vectors, pml's default, distances
    are at most 2 and the hinge hardly ever closes.

    Args:
        neg_margin: distance (similarity) from which negatives are pushed, :math:`\alpha`, finite.
        pos_margin: distance (similarity) to which positives are pulled, :math:`\beta`, finite.
        **kwargs: pml's ``distance`` (default ``LpDistance()``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``.

    A miner's tuple: (a1, p) are the positive pairs; (a2, n) is a negative of its anchor a2 alone;
    a pair listed twice counts twice, so all triplets of a batch are not all of its pairs.

    References (``ref_emb``): negatives of query i are references of another class, those of
    reference j are queries of another class (row i and column j of one matrix). With references
    equal to the queries that is the paper's loss; all pairs of equal labels are positives, since a
    reference is not known to be a copy of a query.

    Output: "pos_pair", one loss a positive pair, shape (P,); both orders of a pair are listed.

    Departures from pml 2.9.0: a pair without any negative costs 0, the formula (pml: half its
    squared distance); a tuple of one pair is computed (pml: 0); losses are a vector, where pml's
    column breaks ``ClassWeightedReducer`` and ``PerAnchorReducer``; with references pml reads
    position p as the number of a query; gradients of nearly coincident points are right.

    Raises:
        ValueError: a margin is not finite, or the batch has neither labels nor a tuple.
    """

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        ref_is_batch = ref_emb is embeddings
        matrix = distance_matrix(self.distance, embeddings, ref_emb)  # (B, R)
        if indices_tuple is None:
            labels, ref_labels = required_labels(labels, ref_labels)
            positive, negative = label_masks(labels, ref_labels, ref_is_batch=ref_is_batch)
            i, j = positive.nonzero(as_tuple=True)  # (P,)
            push = self.distance.margin(self.neg_margin, matrix)
            of_query = masked_logsumexp(push, negative)  # (B,)
            of_ref = of_query if ref_is_batch else masked_logsumexp(push.T, negative.T)  # (R,)
        else:
            i, j, k, l = listed_pairs(indices_tuple, embeddings.device)  # noqa: E741
            push = self.distance.margin(self.neg_margin, matrix[k, l])  # (N,)
            of_query = segment_logsumexp(push, k, len(embeddings))
            of_ref = of_query if ref_is_batch else segment_logsumexp(push, l, len(ref_emb))
        if len(i) == 0:
            return self.zero_losses()  # type: ignore[no-any-return]
        second = of_ref[j]
        if ref_is_batch:  # a row paired with itself has one set of negatives, not two
            second = second.masked_fill(i == j, -torch.inf)
        pull = self.distance.margin(matrix[i, j], self.pos_margin)  # (P,)
        losses = lifted_structure(pull, of_query[i], second)  # (P,)
        return {"loss": per_pair(losses, i, j, "pos_pair")}


class GeneralizedLiftedStructureLoss(_TwoMargins):
    r"""All positives of an anchor against all of its negatives.

    Formula and source: :func:`pml_extras.functional.generalized_lifted_structure`.

    A drop-in for ``pytorch_metric_learning.losses.GeneralizedLiftedStructureLoss``.

    Args:
        neg_margin: distance (similarity) from which negatives are pushed, :math:`\alpha`, finite.
        pos_margin: distance (similarity) to which positives are pulled, :math:`\beta`, finite.
        **kwargs: pml's ``distance`` (default ``LpDistance()``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``.

    A miner's tuple says which pairs there are; how often one is listed does not matter, as in pml.
    References (``ref_emb``) are the other side of the pairs.

    Output: "element", one loss a row of the batch, shape (B,).

    Departures from pml 2.9.0: an anchor without positives or without negatives costs 0, the formula
    (pml takes the missing logarithm as 0), and still counts in the mean; a tuple of one pair is
    computed (pml: 0); losses are a vector; a pair listed as positive and as negative is refused
    with a ValueError; gradients of nearly coincident points are right.

    Raises:
        ValueError: a margin is not finite, the batch has neither labels nor a tuple, or a tuple
            contradicts itself.
    """

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        matrix = distance_matrix(self.distance, embeddings, ref_emb)  # (B, R)
        positive, negative = pair_masks(
            indices_tuple,
            labels,
            ref_labels,
            (matrix.shape[0], matrix.shape[1]),
            matrix.device,
            ref_is_batch=ref_emb is embeddings,
        )
        pull = self.distance.margin(matrix, self.pos_margin)
        push = self.distance.margin(self.neg_margin, matrix)
        return per_anchor(
            generalized_lifted_structure(
                masked_logsumexp(pull, positive), masked_logsumexp(push, negative)
            )
        )
