"""Contrastive loss of signal-to-noise ratios: pml's, without its (B, B, D) differences."""

from typing import Any

from pytorch_metric_learning.distances import SNRDistance
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch import Tensor

from pml_extras._checks import check_finite
from pml_extras._distances import distance_matrix, require_distance
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    pairs_of,
    per_pair,
)


class SignalToNoiseRatioContrastiveLoss(FullPrecisionLoss):
    r"""Positive pairs below a noise-to-signal ratio, negative pairs above one, by hinges.

    .. math::
        \ell_{ip} = \max(0, d_{ip} - m^+), \qquad \ell_{in} = \max(0, m^- - d_{in})

    Distance and source: :func:`pml_extras.functional.snr_distance`; it is not symmetric.

    A drop-in for ``pytorch_metric_learning.losses.SignalToNoiseRatioContrastiveLoss``, equal to it
    in value and gradient.

    =========== ================ ========== ==================
    Distances   A tuple          References Reduction
    =========== ================ ========== ==================
    SNRDistance lists its pairs  accepted   pos_pair, neg_pair
    =========== ================ ========== ==================

    Args:
        pos_margin: :math:`m^+`, finite, a ratio from which positives are pulled.
        neg_margin: :math:`m^-`, finite, a ratio to which negatives are pushed.
        **kwargs: pml's ``distance`` (an ``SNRDistance``), ``reducer`` (default
            ``AvgNonZeroReducer()``), ``embedding_regularizer`` and ``collect_stats``.

    A miner's tuple: (a1, p) are the positive pairs, (a2, n) the negative ones; a pair listed twice
    counts twice. References (``ref_emb``) are the other side of the pairs.

    Memory: O(B R) for the list of pairs that a reducer is given; nothing of size B R D.

    Output: the sub-losses ``pos_loss``, "pos_pair", and ``neg_loss``, "neg_pair": one value a pair,
    both orders of each.

    Departures from pml 2.9.0: an anchor without signal, all of whose coordinates are equal, is at
    ratio 0 with zero gradient (pml: a division by 0); a tuple of one pair is computed (pml: 0).

    Raises:
        ValueError: a margin is not finite, another distance than the ratio, or the batch has
            neither labels nor a tuple.
    """

    def __init__(self, pos_margin: float = 0, neg_margin: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_distance(self.distance, SNRDistance)
        check_finite(pos_margin=pos_margin, neg_margin=neg_margin)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.add_to_recordable_attributes(list_of_names=["pos_margin", "neg_margin"], is_stat=False)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        same = ref_emb is embeddings
        pairs = pairs_of(indices_tuple, labels, ref_labels, embeddings.device, ref_is_batch=same)
        ratio = distance_matrix(self.distance, embeddings, ref_emb)  # (B, R)
        loss_dict = self.zero_losses()  # of a kind without pairs
        if len(pairs.i) > 0:
            pull = (ratio[pairs.i, pairs.j] - self.pos_margin).clamp(min=0)  # (P,)
            loss_dict["pos_loss"] = per_pair(pull, pairs.i, pairs.j, "pos_pair")
        if len(pairs.k) > 0:
            push = (self.neg_margin - ratio[pairs.k, pairs.l]).clamp(min=0)  # (N,)
            loss_dict["neg_loss"] = per_pair(push, pairs.k, pairs.l, "neg_pair")
        return loss_dict  # type: ignore[no-any-return]

    def get_default_distance(self) -> SNRDistance:
        return SNRDistance()

    def get_default_reducer(self) -> AvgNonZeroReducer:
        return AvgNonZeroReducer()

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]
