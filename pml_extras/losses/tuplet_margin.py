"""Tuplet margin loss: a drop-in for pytorch-metric-learning's, at memory linear in the batch."""

import math
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_extras._checks import check_finite, check_positive
from pml_extras._distances import distance_matrix, require_distance
from pml_extras._pml import LossDict
from pml_extras.functional.tuplet_margin import tuplet_margin
from pml_extras.losses._against_negatives import AgainstNegatives, Formulas


class TupletMarginLoss(AgainstNegatives):
    r"""Each positive pair, its angle made smaller by a margin, against all negatives of its anchor.

    Formula and source: :func:`pml_extras.functional.tuplet_margin`.

    A drop-in for ``pytorch_metric_learning.losses.TupletMarginLoss``, equal to it in value and
    gradient.

    ========= ================ ========== =========
    Distances A tuple          References Reduction
    ========= ================ ========== =========
    cosine    lists its pairs  accepted   pos_pair
    ========= ================ ========== =========

    Args:
        margin: :math:`\beta` in degrees, finite.
        scale: s > 0.
        tile: rows of the pairwise matrix that are held at a time; None chooses by size and device.
        **kwargs: pml's ``distance`` (a ``CosineSimilarity``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``: the mean angles of
            positive and negative pairs in degrees, ``avg_pos_angle`` and ``avg_neg_angle``; and
            ``match_fn``, a relation in place of equal labels:
            :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple: (a1, p) are the positive pairs, (a2, n) negatives of the anchor a2; a pair
    listed twice counts twice. References (``ref_emb``) are the other side of the pairs.

    Memory: O(B D + tile R + P) for P positive pairs. With a tuple, with a subclass of
    ``CosineSimilarity`` and with ``collect_stats`` the whole (B, R) matrix is held.

    Output: "pos_pair", one loss a positive pair, shape (P,); both orders of a pair are listed.

    Departures from pml 2.9.0: losses are a vector (pml's column breaks ``ClassWeightedReducer`` and
    ``PerAnchorReducer``); a positive pair of cosine 1 to rounding has a finite gradient (pml:
    infinite or NaN); a tuple of one pair is computed (pml: 0); the attribute ``margin`` holds
    degrees, as given (pml: radians); ``scale`` is a number (pml: or a tensor).

    A cosine in float32 has lost a part of a small angle: the gradient of a positive pair is wrong
    by 2 % at 1e-3 radians, as in pml, and by 20 % at 3e-4.

    Raises:
        ValueError: an argument out of its range, another distance than the cosine, or the batch
            has neither labels nor a tuple.
    """

    def __init__(
        self, margin: float = 5.73, scale: float = 64, tile: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(tile, **kwargs)
        require_distance(self.distance, CosineSimilarity)
        check_finite(margin=margin)
        check_positive(scale=scale)
        self.margin = margin
        self.scale = scale
        self.add_to_recordable_attributes(list_of_names=["margin", "scale"], is_stat=False)
        self.add_to_recordable_attributes(
            list_of_names=["avg_pos_angle", "avg_neg_angle"], is_stat=True
        )

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        if self.collect_stats:
            self._record_angles(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def formulas(self) -> Formulas:
        margin, scale = math.radians(self.margin), self.scale
        return Formulas(
            lambda compared: scale * compared,
            partial(tuplet_margin, margin=margin, scale=scale),
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _record_angles(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> None:
        angle = distance_matrix(self.distance, embeddings, ref_emb).clamp(-1, 1).acos().rad2deg()
        same = ref_emb is embeddings
        given = indices_tuple, labels, ref_labels, angle.device
        pairs = self.candidates(*given, ref_is_batch=same)
        of_positives, of_negatives = angle[pairs.i, pairs.j], angle[pairs.k, pairs.l]
        if len(of_positives) > 0 and len(of_negatives) > 0:
            self.avg_pos_angle = of_positives.mean().item()
            self.avg_neg_angle = of_negatives.mean().item()
