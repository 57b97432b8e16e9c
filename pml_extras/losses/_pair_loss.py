"""What losses share that see of labels nothing but which pairs are positive and which negative."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_one_a_row, refuse
from pml_extras._pml import (
    FullPrecisionLoss,
    all_pairs,
    label_masks,
    listed_pairs,
    required_labels,
)
from pml_extras.functional.relation import (
    MasksOfRows,
    MatchFn,
    RelatedPairs,
    masks_of_rows,
    related_pairs,
    relation_masks,
)
from pml_extras.functional.tiles import SameClass, lines_at_a_time, same_class_pairs


class Candidates(NamedTuple):
    """Pairs (i, j) of which ``positive`` are positive, (k, l) of which ``negative`` are; None: all.

    A compiled graph has all pairs of the batch and these two, (B R,) bool: lists whose length
    depends on the labels would break it.
    """

    i: Tensor
    j: Tensor
    k: Tensor
    l: Tensor  # noqa: E741
    positive: Tensor | None = None
    negative: Tensor | None = None


class PairLoss(FullPrecisionLoss):
    """A loss of positive and negative pairs, by equality of labels or another relation.

    Args:
        match_fn: a callable ``(labels of some rows, labels of all R references) -> (rows, R)``, on
            their device: True or 1 is a positive pair, False or 0 a negative one, -1 neither; None
            is equality. It need be neither symmetric nor transitive. A row and itself are no pair
            where there are no references, whatever it says.
        **kwargs: those of pml's.

    Several labels a row, of which one in common makes a pair, are rows of zeros and ones::

        def overlap(a, b):  # (rows, L), (R, L)
            return a.float() @ b.float().T > 0

        loss = NTXentLoss(match_fn=overlap)
        loss(embeddings, targets)  # targets: (B, L)

    A ready (B, R) relation is given in place of labels, its columns in place of ``ref_labels``::

        loss = NTXentLoss(match_fn=lambda relation, _: relation)
        loss(embeddings, relation)  # (B, B)
        loss(embeddings, relation, ref_emb=references, ref_labels=relation.T)

    Labels of one dimension may be the positions of the rows in a table, of targets or of a relation
    of the whole data set: ``lambda i, j: table[i][:, j]``. So they pass where 2-D labels do not:
    through ``wrappers.DistributedLossWrapper``, ensembles, and reducers that read classes.

    The callable is asked for some rows at a time, and for the same ones again in the backward pass:
    entry (i, j) may depend on label i and label j alone. Labels are copied until then.

    A miner's tuple says which pairs there are as well: beside ``match_fn`` it is refused, and so
    are ``wrappers.CrossBatchMemory`` and ``wrappers.DistributedLossWrapper(efficient=True)``, which
    give one. There a :class:`pml_extras.miners.RelationMiner` finds the pairs for a loss without
    ``match_fn``, as it does for losses of pml.

    Raises:
        ValueError: ``match_fn`` is no callable; in a call, it returns another form, or a tuple is
            given beside it.
    """

    def __init__(self, match_fn: MatchFn | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if match_fn is not None and not callable(match_fn):
            expected = "None or a callable (labels, ref_labels) -> (rows, R)"
            raise refuse("match_fn", expected, type(match_fn).__name__)
        self.match_fn = match_fn

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """Compute the loss.

        Args:
            embeddings: (B, D) floating.
            labels: (B,) one class a row; (B, ...), what ``match_fn`` compares, if there is one.
            indices_tuple: what a miner returned: (a, p, n) or (a1, p, a2, n), each (N,) int64.
            ref_emb: (R, D) references; None is the batch itself, without self comparisons.
            ref_labels: (R,) their classes; (R, ...) with ``match_fn``.

        Returns:
            What the reducer makes of it, by default a 0-dim tensor.

        Raises:
            ValueError: an argument has another form.
        """
        if self.match_fn is not None and indices_tuple is not None:
            way_out = "Both say which pairs there are: leave one out."
            raise refuse("indices_tuple", "None beside `match_fn`", "a tuple", way_out)
        return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def check_labels(self, rows: Tensor, **labels: Tensor | None) -> None:
        if self.match_fn is None:
            super().check_labels(rows, **labels)
            return
        for name, given in labels.items():
            if given is not None:
                check_one_a_row(len(rows), **{name: given})

    def label_masks(
        self, labels: Tensor, ref_labels: Tensor, *, ref_is_batch: bool
    ) -> tuple[Tensor, Tensor]:
        """(B, R) bool positive and negative, without self comparisons."""
        if self.match_fn is None:
            return label_masks(labels, ref_labels, ref_is_batch=ref_is_batch)
        own = 0 if ref_is_batch else None
        return relation_masks(self.match_fn, labels, ref_labels, start=own)

    def masks_of_rows(
        self, labels: Tensor, ref_labels: Tensor, *, ref_is_batch: bool
    ) -> MasksOfRows:
        """The same for some rows at a time; labels may be overwritten before a backward pass."""
        if self.match_fn is not None:
            own = False if ref_is_batch else None
            return masks_of_rows(self.match_fn, labels, ref_labels, own=own)
        labels, ref_labels = labels.clone(), ref_labels.clone()

        def masks(rows: slice) -> tuple[Tensor, Tensor]:
            start = rows.start
            return label_masks(labels[rows], ref_labels, ref_is_batch=ref_is_batch, start=start)

        return masks

    def pair_masks(
        self,
        indices_tuple: tuple[Tensor, ...] | None,
        labels: Tensor | None,
        ref_labels: Tensor | None,
        matrix: Tensor,
        *,
        ref_is_batch: bool,
    ) -> tuple[Tensor, Tensor]:
        """(B, R) bool, from a miner's tuple if there is one, else from labels; as ``matrix`` is."""
        if indices_tuple is None:
            labels, ref_labels = required_labels(labels, ref_labels)
            return self.label_masks(labels, ref_labels, ref_is_batch=ref_is_batch)
        pairs = listed_pairs(indices_tuple, matrix.device)
        shape, device = (2, *matrix.shape), matrix.device
        positive, negative = torch.zeros(shape, dtype=torch.bool, device=device).unbind()
        positive[pairs.i, pairs.j] = True
        negative[pairs.k, pairs.l] = True
        if not torch.compiler.is_compiling() and (positive & negative).any():
            expected = "each pair to be positive or negative"
            raise refuse("indices_tuple", expected, "a pair that is both")
        return positive, negative

    def candidates(
        self,
        indices_tuple: tuple[Tensor, ...] | None,
        labels: Tensor | None,
        ref_labels: Tensor | None,
        device: torch.device,
        *,
        ref_is_batch: bool,
    ) -> Candidates:
        """Those that a tuple lists, or without one all of the labels."""
        if indices_tuple is not None:
            return Candidates(*listed_pairs(indices_tuple, device))
        labels, ref_labels = required_labels(labels, ref_labels)
        positive, negative = self.label_masks(labels, ref_labels, ref_is_batch=ref_is_batch)
        if torch.compiler.is_compiling():
            i, j = all_pairs(len(labels), len(ref_labels), device)
            return Candidates(i, j, i, j, positive.flatten(), negative.flatten())
        return Candidates(*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))

    def positive_pairs(
        self, labels: Tensor, ref_labels: Tensor, *, own: bool | None, tile: int | None
    ) -> SameClass | RelatedPairs:
        """Listed, ``tile`` rows of the relation at a time; and negatives for some rows at a time.

        ``own`` is what a row is to itself where the references are the rows: True a positive, False
        neither; None for references that are others.
        """
        if self.match_fn is None:
            return same_class_pairs(labels, ref_labels, without_self=own is False)
        lines = lines_at_a_time(tile, len(ref_labels), labels.device)
        return related_pairs(self.match_fn, labels, ref_labels, own=own, lines=lines)
