"""What losses of one positive pair against all negatives of its anchor share."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_extras._checks import check_count
from pml_extras._distances import Comparison, comparison
from pml_extras._pml import (
    LossDict,
    all_pairs,
    listed_pairs,
    per_pair,
    required_labels,
)
from pml_extras.functional.masked import masked_logsumexp, segment_logsumexp
from pml_extras.functional.tiles import (
    Part,
    in_parts,
    lines_at_a_time,
    parts_of_rows,
)
from pml_extras.losses._pair_loss import PairLoss


class Formulas(NamedTuple):
    """What a loss makes of similarities or distances, by the numbers that it held when asked.

    ``negative_score(compared)`` is the exponent of a negative pair, and
    ``pair_losses(compared, log_negatives)`` are (P,) losses of positive pairs, from what is
    compared and the log-sum-exp of each one's anchor.
    """

    negative_score: Callable[[Tensor], Tensor]
    pair_losses: Callable[[Tensor, Tensor], Tensor]


class AgainstNegatives(PairLoss):
    """A loss that sees of the negatives of an anchor their log-sum-exp alone.

    Without a tuple some rows of the pairwise matrix are held at a time, with one the whole.
    """

    def __init__(self, tile: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tile is not None:
            check_count(1, tile=tile)
        self.tile = tile

    @abstractmethod
    def formulas(self) -> Formulas:
        """Those of this call, to which a backward pass comes back after attributes may change."""

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        compared = comparison(self.distance, embeddings, ref_emb)
        if indices_tuple is not None:
            i, j, losses = self._of_list(compared, indices_tuple)
        else:
            labels, ref_labels = required_labels(labels, ref_labels)
            if torch.compiler.is_compiling():
                return {"loss": self._of_all_pairs(compared, labels, ref_labels)}
            i, j, losses = self._of_labels(compared, labels, ref_labels)
        if len(i) == 0:
            return self.zero_losses()  # type: ignore[no-any-return]
        return {"loss": per_pair(losses, i, j, "pos_pair")}

    def _of_list(
        self, compared: Comparison, indices_tuple: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, ref, matrix, _ = compared
        i, j, k, l = listed_pairs(indices_tuple, query.device)  # noqa: E741
        formulas = self.formulas()
        whole = matrix(query, ref)  # (B, R)
        score = formulas.negative_score(whole[k, l])  # (N,)
        log_negatives = segment_logsumexp(score, k, len(query))  # (B,)
        return i, j, formulas.pair_losses(whole[i, j], log_negatives[i])

    def _of_labels(
        self, compared: Comparison, labels: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, ref, matrix, by_rows = compared
        formulas = self.formulas()
        own = False if ref is query else None
        pairs = self.positive_pairs(labels, ref_labels, own=own, tile=self.tile)
        # Parts have gradients of rows alone.
        by_rows = by_rows and not any(learned.requires_grad for learned in self.parameters())
        lines = lines_at_a_time(self.tile, len(ref), query.device) if by_rows else len(query)

        def block(x: Tensor, y: Tensor, part: Part) -> Tensor:
            some = matrix(x, y)  # (rows, R)
            score = formulas.negative_score(some)
            log_negatives = masked_logsumexp(score, pairs.negative(part.rows))  # (rows,)
            row = pairs.i[part.items] - part.rows.start
            return formulas.pair_losses(some[row, pairs.j[part.items]], log_negatives[row])

        losses = in_parts(block, query, ref, parts_of_rows(pairs.starts, lines))
        return pairs.i, pairs.j, losses

    def _of_all_pairs(
        self, compared: Comparison, labels: Tensor, ref_labels: Tensor
    ) -> dict[str, Any]:
        """Of a compiled graph, which holds no lists whose length depends on the labels."""
        query, ref, matrix, _ = compared
        positive, negative = self.label_masks(labels, ref_labels, ref_is_batch=ref is query)
        whole = matrix(query, ref)  # (B, R)
        formulas = self.formulas()
        log_negatives = masked_logsumexp(formulas.negative_score(whole), negative)  # (B,)
        i, j = all_pairs(len(query), len(ref), whole.device)
        losses = formulas.pair_losses(whole.flatten(), log_negatives[i])  # (B R,)
        return per_pair(losses, i, j, "pos_pair", members=positive.flatten())

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()
