"""Lifted structure losses: drop-ins for pytorch-metric-learning's, for large batches."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_finite
from pml_extras._distances import (
    Comparison,
    comparison,
    distance_matrix,
    is_euclidean,
    is_product,
)
from pml_extras._pml import (
    LossDict,
    all_pairs,
    listed_pairs,
    per_anchor,
    per_pair,
    required_labels,
)
from pml_extras.functional.lifted_structure import generalized_lifted_structure, lifted_structure
from pml_extras.functional.log_negatives import log_negatives
from pml_extras.functional.masked import masked_logsumexp, segment_logsumexp
from pml_extras.functional.pairwise import CHUNK_ELEMENTS, distances_of_pairs
from pml_extras.functional.relation import RelatedPairs, related_log_negatives
from pml_extras.functional.tiles import Part, in_parts, lines_at_a_time, parts_of_items
from pml_extras.losses._pair_loss import PairLoss

_MANY_ELEMENTS = 256**2
"""Elements of the pairwise matrix from which tiles are faster than the whole, and smaller."""


class _Pairs(NamedTuple):
    """Positive pairs of a batch, and the negatives of each row as one number."""

    i: Tensor
    j: Tensor
    pull: Tensor
    """(P,) distance beyond ``pos_margin``."""
    of_query: Tensor
    """(B,) log-sum-exp of the distances below ``neg_margin``."""
    of_ref: Tensor
    """(R,) the same of each reference over the rows."""
    members: Tensor | None = None
    """(P,) bool of a compiled graph, which has all pairs of the batch: which are positive."""


class _TwoMargins(PairLoss):
    """The constructor that both losses share, and what they see of a batch with labels."""

    def __init__(
        self,
        neg_margin: float = 1,
        pos_margin: float = 0,
        tile: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_finite(neg_margin=neg_margin, pos_margin=pos_margin)
        if tile is not None:
            check_count(1, tile=tile)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        self.tile = tile
        self.add_to_recordable_attributes(list_of_names=["neg_margin", "pos_margin"], is_stat=False)

    def _of_labels(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> _Pairs:
        labels, ref_labels = required_labels(labels, ref_labels)
        compared = comparison(self.distance, embeddings, ref_emb)
        compiling = torch.compiler.is_compiling()
        if not compiling and self._in_tiles(len(embeddings) * len(ref_emb)):
            return self._of_tiles(compared, labels, ref_labels)
        ref_is_batch = ref_emb is embeddings
        matrix = compared.matrix(compared.query, compared.ref)  # (B, R)
        positive, negative = self.label_masks(labels, ref_labels, ref_is_batch=ref_is_batch)
        push = self.distance.margin(self.neg_margin, matrix)
        of_query = masked_logsumexp(push, negative)
        of_ref = of_query if ref_is_batch else masked_logsumexp(push.T, negative.T)
        if compiling:
            i, j = all_pairs(len(embeddings), len(ref_emb), matrix.device)
            pull = self.distance.margin(matrix, self.pos_margin).flatten()
            return _Pairs(i, j, pull, of_query, of_ref, positive.flatten())
        i, j = positive.nonzero(as_tuple=True)  # (P,)
        return _Pairs(i, j, self.distance.margin(matrix[i, j], self.pos_margin), of_query, of_ref)

    def _in_tiles(self, elements: int) -> bool:
        if not (is_euclidean(self.distance) or is_product(self.distance)):
            return False
        return elements > 0 and (self.tile is not None or elements >= _MANY_ELEMENTS)

    def _of_tiles(self, compared: Comparison, labels: Tensor, ref_labels: Tensor) -> _Pairs:
        query, ref = compared.query, None if compared.ref is compared.query else compared.ref
        own = False if ref is None else None
        pairs = self.positive_pairs(labels, ref_labels, own=own, tile=self.tile)
        i, j, starts = pairs.i, pairs.j, pairs.starts
        distances = is_euclidean(self.distance)

        def block(x: Tensor, y: Tensor, part: Part) -> Tensor:
            a = x.index_select(0, i[part.items] - part.rows.start)
            b = y.index_select(0, j[part.items])
            return distances_of_pairs(a, b) if distances else (a * b).sum(dim=1)

        parts = parts_of_items(starts, max(1, CHUNK_ELEMENTS // query.shape[1]))
        positives = in_parts(block, query, compared.ref, parts)  # (P,)
        pull = self.distance.margin(positives, self.pos_margin)
        if isinstance(pairs, RelatedPairs):
            margin, neg_margin = self.distance.margin, self.neg_margin

            def push(x: Tensor, y: Tensor) -> Tensor:
                scores: Tensor = margin(neg_margin, compared.matrix(x, y))
                return scores

            lines = lines_at_a_time(self.tile, len(compared.ref), query.device)
            sums = related_log_negatives(push, query, compared.ref, pairs.masks, lines=lines)
            return _Pairs(i, j, pull, *sums)
        of_query, of_ref = log_negatives(
            query,
            labels,
            ref,
            None if ref is None else ref_labels,
            distances=distances,
            tile=self.tile,
        )
        margin = self.neg_margin if distances else -self.neg_margin
        return _Pairs(i, j, pull, of_query + margin, of_ref + margin)


class LiftedStructureLoss(_TwoMargins):
    r"""Each positive pair against all negatives of both of its ends, in memory linear in the batch.

    Formula and source: :func:`pml_extras.functional.lifted_structure`; how the negatives are summed
    in tiles: :func:`pml_extras.functional.log_negatives`.

    A drop-in for ``pytorch_metric_learning.losses.LiftedStructureLoss``: equal to it in value and
    gradient without references and where pairs have negatives, with any pml distance and miner and
    any reducer that takes positive pairs. The paper's loss is
    ``distance=LpDistance(normalize_embeddings=False)``; on unit vectors, pml's default, distances
    are at most 2 and the hinge hardly ever closes.

    Args:
        neg_margin: distance (similarity) from which negatives are pushed, :math:`\alpha`, finite.
        pos_margin: distance (similarity) to which positives are pulled, :math:`\beta`, finite.
        tile: rows and columns of the pairwise matrix that are held at a time; None chooses by size
            and device.
        **kwargs: pml's ``distance`` (default ``LpDistance()``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``; and ``match_fn``,
            a relation in place of equal labels: :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple: (a1, p) are the positive pairs; (a2, n) is a negative of its anchor a2 alone;
    a pair listed twice counts twice, so all triplets of a batch are not all of its pairs.

    References (``ref_emb``): negatives of query i are references of another class, those of
    reference j are queries of another class (row i and column j of one matrix). With references
    equal to the queries that is the paper's loss; all pairs of equal labels are positives, since a
    reference is not known to be a copy of a query. A ``match_fn`` that is not symmetric is read
    likewise: row j says what are negatives of row j, and column j those of reference j.

    Memory: O(B D + R D + tile^2 + P) for P positive pairs. The whole (B, R) matrix is held with a
    tuple, with another distance than ``LpDistance(p=2)``, ``CosineSimilarity`` and
    ``DotProductSimilarity`` of power 1, and where it has less than 65,536 elements, unless
    ``tile`` is given. With ``match_fn``, which knows no classes to sort by, ``tile`` rows of the
    matrix are held at a time: O(B D + R D + tile R + P), and B R / tile with references.

    Output: "pos_pair", one loss a positive pair, shape (P,); both orders of a pair are listed.

    Departures from pml 2.9.0: a pair without any negative costs 0, the formula (pml: half its
    squared distance); a tuple of one pair is computed (pml: 0); losses are a vector, where pml's
    column breaks ``ClassWeightedReducer`` and ``PerAnchorReducer``; with references pml reads
    position p as the number of a query; gradients of nearly coincident points are right.

    Raises:
        ValueError: an argument out of its range, or the batch has neither labels nor a tuple.
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
        if indices_tuple is None:
            pairs = self._of_labels(embeddings, labels, ref_emb, ref_labels)
        else:
            pairs = self._of_list(embeddings, indices_tuple, ref_emb)
        i, j, pull, of_query, of_ref, members = pairs
        if len(i) == 0:
            return self.zero_losses()  # type: ignore[no-any-return]
        second = of_ref.index_select(0, j)
        if ref_is_batch:  # a row paired with itself has one set of negatives, not two
            second = second.masked_fill(i == j, -torch.inf)
        losses = lifted_structure(pull, of_query.index_select(0, i), second)  # (P,)
        return {"loss": per_pair(losses, i, j, "pos_pair", members)}

    def _of_list(
        self, embeddings: Tensor, indices_tuple: tuple[Tensor, ...], ref_emb: Tensor
    ) -> _Pairs:
        matrix = distance_matrix(self.distance, embeddings, ref_emb)  # (B, R)
        i, j, k, l = listed_pairs(indices_tuple, embeddings.device)  # noqa: E741
        push = self.distance.margin(self.neg_margin, matrix[k, l])  # (N,)
        of_query = of_ref = segment_logsumexp(push, k, len(embeddings))
        if ref_emb is not embeddings:
            of_ref = segment_logsumexp(push, l, len(ref_emb))
        return _Pairs(i, j, self.distance.margin(matrix[i, j], self.pos_margin), of_query, of_ref)


class GeneralizedLiftedStructureLoss(_TwoMargins):
    r"""All positives of an anchor against all of its negatives, in memory linear in the batch.

    Formula and source: :func:`pml_extras.functional.generalized_lifted_structure`; how the
    negatives are summed in tiles: :func:`pml_extras.functional.log_negatives`.

    A drop-in for ``pytorch_metric_learning.losses.GeneralizedLiftedStructureLoss``.

    Args:
        neg_margin: distance (similarity) from which negatives are pushed, :math:`\alpha`, finite.
        pos_margin: distance (similarity) to which positives are pulled, :math:`\beta`, finite.
        tile: rows and columns of the pairwise matrix that are held at a time; None chooses by size
            and device.
        **kwargs: pml's ``distance`` (default ``LpDistance()``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``; and ``match_fn``,
            a relation in place of equal labels: :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple says which pairs there are; how often one is listed does not matter, as in pml.
    References (``ref_emb``) are the other side of the pairs.

    Memory: O(B D + R D + tile^2 + P) for P positive pairs. The whole (B, R) matrix is held with a
    tuple, with another distance than ``LpDistance(p=2)``, ``CosineSimilarity`` and
    ``DotProductSimilarity`` of power 1, and where it has less than 65,536 elements, unless
    ``tile`` is given. With ``match_fn``, which knows no classes to sort by, ``tile`` rows of the
    matrix are held at a time: O(B D + R D + tile R + P), and B R / tile with references.

    Output: "element", one loss a row of the batch, shape (B,).

    Departures from pml 2.9.0: an anchor without positives or without negatives costs 0, the formula
    (pml takes the missing logarithm as 0), and still counts in the mean; a tuple of one pair is
    computed (pml: 0); losses are a vector; a pair listed as positive and as negative is refused
    with a ValueError; gradients of nearly coincident points are right.

    Raises:
        ValueError: an argument out of its range, the batch has neither labels nor a tuple, or a
            tuple contradicts itself.
    """

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        if indices_tuple is None:
            pairs = self._of_labels(embeddings, labels, ref_emb, ref_labels)
            pull = pairs.pull
            if pairs.members is not None:
                pull = pull.masked_fill(~pairs.members, -torch.inf)
            log_positives = segment_logsumexp(pull, pairs.i, len(embeddings))
            return per_anchor(generalized_lifted_structure(log_positives, pairs.of_query))
        matrix = distance_matrix(self.distance, embeddings, ref_emb)  # (B, R)
        positive, negative = self.pair_masks(
            indices_tuple, labels, ref_labels, matrix, ref_is_batch=ref_emb is embeddings
        )
        pull = self.distance.margin(matrix, self.pos_margin)
        push = self.distance.margin(self.neg_margin, matrix)
        return per_anchor(
            generalized_lifted_structure(
                masked_logsumexp(pull, positive), masked_logsumexp(push, negative)
            )
        )
