"""All pairs of a relation other than equality of classes, as a tuple for any loss."""

from typing import Any

import torch
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor

from pml_extras._checks import check_one_a_row, check_rows, refuse
from pml_extras.functional.relation import MatchFn, relation_masks


class RelationMiner(BaseMiner):
    """All positive and all negative pairs, as a comparison of labels has them.

    For losses that take a miner's tuple, those of pml too: with several labels a row, with
    hierarchies, with pairs that are neither. For ``wrappers.CrossBatchMemory`` it is the ``miner``.
    Losses of ours take the comparison themselves and need no list of pairs.

    Args:
        match_fn: a callable ``(labels (B, ...), labels of references (R, ...)) -> (B, R)``: True or
            1 is a positive pair, False or 0 a negative one, -1 neither. A ready relation is given
            in place of labels: ``RelationMiner(lambda relation, _: relation)(rows, relation)``.
        **kwargs: ``collect_stats``: ``num_pos_pairs`` and ``num_neg_pairs``.

    ``forward(embeddings, labels, ref_emb=None, ref_labels=None)`` returns (a1, p, a2, n), row by
    row. The rows matter by their number alone. Without references a row and itself are no pair.
    In a memory each row has a copy of itself among the references; it is no positive there, and is
    a negative where ``match_fn`` says so, of a row without any label for instance: let it say 1 or
    -1 of a label and itself. The memory holds labels of one dimension: positions in a table, as
    :class:`pml_extras.losses._pair_loss.PairLoss` says.

    Memory: 16 bytes a pair, and the (B, R) relation.

    Raises:
        ValueError: ``match_fn`` is no callable, or returns another form; rows, labels or references
            are not as many as each other.

    >>> tags = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    >>> RelationMiner(lambda a, b: a @ b.T > 0)(torch.eye(3), tags)
    (tensor([0, 1]), tensor([1, 0]), tensor([0, 1, 2, 2]), tensor([2, 2, 0, 1]))
    """

    def __init__(self, match_fn: MatchFn, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not callable(match_fn):
            expected = "a callable (labels, ref_labels) -> (B, R)"
            raise refuse("match_fn", expected, type(match_fn).__name__)
        self.match_fn = match_fn

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Mine, with labels of any number of dimensions, which pml's refuses."""
        self.reset_stats()
        if ref_emb is None or (ref_emb is embeddings and ref_labels is labels):
            ref_emb, ref_labels = embeddings, labels
        check_rows(embeddings=embeddings, ref_emb=ref_emb)
        check_one_a_row(len(embeddings), labels=labels)
        check_one_a_row(len(ref_emb), ref_labels=ref_labels)
        with torch.no_grad():
            found = self.mine(embeddings, labels, ref_emb, ref_labels)
        self.output_assertion(found)
        return found

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Any
    ) -> tuple[Tensor, ...]:
        own = 0 if ref_emb is embeddings and ref_labels is labels else None
        of_rows, of_references = labels.to(embeddings.device), ref_labels.to(embeddings.device)
        positive, negative = relation_masks(self.match_fn, of_rows, of_references, start=own)
        return (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))
