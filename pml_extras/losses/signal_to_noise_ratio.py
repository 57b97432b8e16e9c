"""Contrastive loss of signal-to-noise ratios: pml's, without its (B, B, D) differences."""

from typing import Any

import torch
from pytorch_metric_learning.distances import SNRDistance
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MultipleReducers
from torch import Tensor

from pml_extras._checks import check_finite
from pml_extras._distances import Comparison, comparison, require_distance
from pml_extras._pml import (
    LossDict,
    already_reduced_parts,
    per_pair,
    required_labels,
)
from pml_extras._reduction import StackedReducers
from pml_extras.functional.relation import MasksOfRows
from pml_extras.functional.snr import sum_above_zero
from pml_extras.functional.tiles import Part, in_parts, lines_at_a_time, parts_of_rows
from pml_extras.losses._pair_loss import PairLoss


class SignalToNoiseRatioContrastiveLoss(PairLoss):
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
            ``AvgNonZeroReducer()``), ``embedding_regularizer`` and ``collect_stats``; and
            ``match_fn``, a relation in place of equal labels:
            :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple: (a1, p) are the positive pairs, (a2, n) the negative ones; a pair listed twice
    counts twice. References (``ref_emb``) are the other side of the pairs.

    Memory: O(B D + R D) and some rows of the (B, R) matrix at a time, with the default reducer,
    which averages what is above 0: nothing needs a list of pairs. A tuple, another reducer (or a
    subclass), one that collects statistics and a subclass of ``SNRDistance`` have lists, O(B R).

    Output: the sub-losses ``pos_loss``, "pos_pair", and ``neg_loss``, "neg_pair": one value a pair,
    both orders of each; where there are no lists each is a mean, "already_reduced".

    Departures from pml 2.9.0: an anchor without signal, all of whose coordinates are equal, is at
    ratio 0 with zero gradient (pml: a division by 0); a tuple of one pair is computed (pml: 0); a
    row of NaN makes the loss NaN (pml: its pairs are left out).

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
        compared = comparison(self.distance, embeddings, ref_emb)
        dense = indices_tuple is not None or torch.compiler.is_compiling()
        if compared.by_rows and not dense and self._needs_no_list():
            labels, ref_labels = required_labels(labels, ref_labels)
            masks = self.masks_of_rows(labels, ref_labels, ref_is_batch=same)
            means = self._means_above_zero(compared, masks)
            # What is left where no hinge is above 0: attached, and NaN where a row is.
            nothing = 0 * (embeddings.sum() + ref_emb.sum())
            return already_reduced_parts(
                {name: torch.where(mean > 0, mean, 0.0) + nothing for name, mean in means.items()}
            )
        given = indices_tuple, labels, ref_labels, embeddings.device
        pairs = self.candidates(*given, ref_is_batch=same)
        ratio = compared.matrix(compared.query, compared.ref)  # (B, R)
        loss_dict = {name: self.zero_loss() for name in self._sub_loss_names()}  # without pairs
        if len(pairs.i) > 0:
            pull = (ratio[pairs.i, pairs.j] - self.pos_margin).clamp(min=0)  # (P,)
            loss_dict["pos_loss"] = per_pair(pull, pairs.i, pairs.j, "pos_pair", pairs.positive)
        if len(pairs.k) > 0:
            push = (self.neg_margin - ratio[pairs.k, pairs.l]).clamp(min=0)  # (N,)
            loss_dict["neg_loss"] = per_pair(push, pairs.k, pairs.l, "neg_pair", pairs.negative)
        return loss_dict

    def _needs_no_list(self) -> bool:
        """Whether both sub-losses go to pml's reducer that averages what is above 0, unrecorded."""
        if type(self.reducer) not in (StackedReducers, MultipleReducers):
            return False
        own: dict[str, Any] = dict(self.reducer.reducers.items())
        given = [own.get(name, self.reducer.default_reducer) for name in self._sub_loss_names()]
        return all(type(r) is AvgNonZeroReducer and not r.collect_stats for r in given)

    def _means_above_zero(self, compared: Comparison, masks: MasksOfRows) -> dict[str, Tensor]:
        """0-dim mean of the hinges above 0 by sub-loss, 0 without any."""
        query, ref, matrix, _ = compared
        pos_margin, neg_margin = self.pos_margin, self.neg_margin

        def block(x: Tensor, y: Tensor, part: Part) -> Tensor:
            ratio = matrix(x, y)  # (rows, R)
            positive, negative = masks(part.rows)
            pull, num_pulled = sum_above_zero(ratio - pos_margin, positive)
            push, num_pushed = sum_above_zero(neg_margin - ratio, negative)
            numbers = (count.to(ratio.dtype) for count in (num_pulled, num_pushed))
            return torch.stack([pull, push, *numbers], dim=1).flatten()  # (4 rows,)

        lines = lines_at_a_time(None, len(ref), query.device)
        parts = parts_of_rows(range(0, 4 * len(query) + 1, 4), lines)
        sums = in_parts(block, query, ref, parts).view(len(query), 4).sum(dim=0)
        means = sums[:2] / sums[2:].clamp(min=1)
        return dict(zip(self._sub_loss_names(), means.unbind(), strict=True))

    def get_default_distance(self) -> SNRDistance:
        return SNRDistance()

    def get_default_reducer(self) -> AvgNonZeroReducer:
        return AvgNonZeroReducer()

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]
