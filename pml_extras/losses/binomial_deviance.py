"""Binomial deviance loss, by anchors or by pairs."""

from typing import Any

from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_extras._checks import check_finite, check_flag, check_positive
from pml_extras._distances import distance_matrix
from pml_extras._pml import (
    LossDict,
    per_element,
    per_pair,
)
from pml_extras.functional.binomial_deviance import binomial_deviance, mean_binomial_deviance
from pml_extras.losses._pair_loss import PairLoss


class BinomialDevianceLoss(PairLoss):
    r"""Positive pairs above a similarity, negative pairs below it, by a logistic penalty.

    .. math::
        L = \frac{1}{B} \sum_i \Big(
            \frac{1}{|P_i|} \sum_{p \in P_i} \log\big(1 + e^{-\gamma^+ (s_{ip} - \beta)}\big)
          + \frac{1}{|N_i|} \sum_{n \in N_i} \log\big(1 + e^{\gamma^- (s_{in} - \beta)}\big) \Big)

    Formulas and sources: :func:`pml_extras.functional.mean_binomial_deviance`, the form of
    Zabihzadeh et al. and the default; :func:`pml_extras.functional.binomial_deviance`, that of Yi
    et al. with ``per_anchor=False``:

    .. math::
        L = \frac{1}{|P|} \sum_{(i, p) \in P} \log\big(1 + e^{-\gamma^+ (s_{ip} - \beta)}\big)
          + \frac{1}{|N|} \sum_{(i, n) \in N} \log\big(1 + e^{\gamma^- (s_{in} - \beta)}\big)

    over all positive and all negative pairs of the batch; there :math:`\gamma^+ = \alpha` and
    :math:`\gamma^- = C \alpha`, with the paper's one scale :math:`\alpha` and its cost C of
    negative pairs: ``BinomialDevianceLoss(scale_pos=2, scale_neg=2 * 25, per_anchor=False)``.
    Classes of one size make both forms equal.

    Args:
        scale_pos: :math:`\gamma^+ > 0` of positive pairs, in 1 / unit of the distance.
        scale_neg: :math:`\gamma^- > 0` of negative pairs.
        threshold: :math:`\beta`, finite, a similarity (or distance) between both kinds.
        per_anchor: mean over each anchor's pairs first, so that rows of all classes count alike;
            False: over pairs, so that a class counts by the square of its rows.
        **kwargs: pml's ``distance`` (default ``CosineSimilarity()``; a distance where smaller is
            closer changes the sign of every excess), ``reducer``, ``embedding_regularizer`` and
            ``collect_stats``; and ``match_fn``, a relation in place of equal labels:
            :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple says which pairs there are: with ``per_anchor`` how often one is listed does not
    matter, without it a pair listed twice counts twice. References (``ref_emb``) are the other side
    of the pairs. Without them a row is not compared with itself; an equal row is.

    Output: the sub-losses ``pos_loss`` and ``neg_loss``, "element" of shape (B,), with 0 for a row
    without such pairs, so that the default ``MeanReducer`` gives the formula; ``AvgNonZeroReducer``
    leaves those rows out. Without ``per_anchor`` "pos_pair" and "neg_pair", one value a pair (both
    orders of one are listed), whose mean is again the formula.

    Departure: the released code of Zabihzadeh et al. leaves out pairs of similarity 1, which
    drops equal rows with the row itself; here the row itself is left out by its position.

    Raises:
        ValueError: an argument out of its range, the batch has neither labels nor a tuple, or a
            tuple lists one pair as positive and as negative.
    """

    def __init__(
        self,
        scale_pos: float = 2.0,
        scale_neg: float = 25.0,
        threshold: float = 0.5,
        per_anchor: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(scale_pos=scale_pos, scale_neg=scale_neg)
        check_finite(threshold=threshold)
        check_flag(per_anchor=per_anchor)
        self.scale_pos = scale_pos
        self.scale_neg = scale_neg
        self.threshold = threshold
        self.per_anchor = per_anchor
        names = ["scale_pos", "scale_neg", "threshold"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

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
        pull = self.distance.margin(matrix, self.threshold)
        push = self.distance.margin(self.threshold, matrix)
        if self.per_anchor:
            positive, negative = self.pair_masks(
                indices_tuple, labels, ref_labels, matrix, ref_is_batch=ref_is_batch
            )
            pos = mean_binomial_deviance(pull, positive, scale=self.scale_pos)
            neg = mean_binomial_deviance(push, negative, scale=self.scale_neg)
            return {"pos_loss": per_element(pos), "neg_loss": per_element(neg)}
        pairs = self.candidates(
            indices_tuple, labels, ref_labels, matrix.device, ref_is_batch=ref_is_batch
        )
        loss_dict = {name: self.zero_loss() for name in self._sub_loss_names()}  # without pairs
        if len(pairs.i) > 0:
            pos = binomial_deviance(pull[pairs.i, pairs.j], scale=self.scale_pos)  # (P,)
            loss_dict["pos_loss"] = per_pair(pos, pairs.i, pairs.j, "pos_pair", pairs.positive)
        if len(pairs.k) > 0:
            neg = binomial_deviance(push[pairs.k, pairs.l], scale=self.scale_neg)  # (N,)
            loss_dict["neg_loss"] = per_pair(neg, pairs.k, pairs.l, "neg_pair", pairs.negative)
        return loss_dict

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]
