"""The conventions of pytorch-metric-learning; those of its distances are in ``_distances``.

Index tuples, loss dictionaries, references that are the batch itself unless given.
"""

from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MultipleReducers
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from pml_extras._checks import check_indices_tuple, check_rows, ranges, refuse
from pml_extras._reduction import LossDict as LossDict
from pml_extras._reduction import StackedReducers, of_fixed_size
from pml_extras.functional.precision import at_least_float32, no_autocast


class FullPrecisionLoss(BaseMetricLossFunction):
    """Base of our losses: pml's, computed in float32 at least and with a value for every batch.

    Departures from ``BaseMetricLossFunction.forward`` of pml 2.9.0: half inputs and autocast
    regions are computed in float32, so the loss is float32 and parameters keep their dtype (pml
    casts proxies in place, its ``MultipleReducers`` casts losses down); an empty batch gives an
    attached 0 (pml: NaN in 11 losses); a zero row gets zero gradient from a distance that
    normalises, since it has no direction (pml: 1e12 times the gradient); an ``indices_tuple`` is
    checked.
    """

    reducer: Any

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
            labels: (B,) one class a row.
            indices_tuple: what a miner returned: (a, p, n) or (a1, p, a2, n), each (N,) int64.
            ref_emb: (R, D) references; None is the batch itself, without self comparisons.
            ref_labels: (R,) their classes.

        Returns:
            What the reducer makes of it, by default a 0-dim tensor.

        Raises:
            ValueError: an argument has another form.
        """
        check_rows(embeddings=embeddings)
        if ref_emb is embeddings and ref_labels is labels:
            ref_emb = ref_labels = None
        if ref_emb is None and ref_labels is not None:
            raise refuse("ref_emb", "to be given with `ref_labels`", "None")
        if ref_emb is not None:
            check_rows(ref_emb=ref_emb)
            if ref_emb.shape[1] != embeddings.shape[1]:
                expected = f"{embeddings.shape[1]} columns, as `embeddings`"
                raise refuse("ref_emb", expected, f"{ref_emb.shape[1]} columns")
        self.check_labels(embeddings, labels=labels)
        if indices_tuple is not None:
            check_indices_tuple(
                indices_tuple, len(embeddings), len(embeddings if ref_emb is None else ref_emb)
            )
        with no_autocast(embeddings):
            if ref_emb is embeddings:  # under labels of their own these are references
                ref_emb = ref_emb.view_as(ref_emb)
            embeddings = at_least_float32(embeddings)
            ref_emb = None if ref_emb is None else at_least_float32(ref_emb)
            if len(embeddings) == 0:
                return self._of_empty_batch(embeddings, labels)
            return self._of_batch(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def _of_batch(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> Any:
        """The steps of pml's forward, and one more for a compiled graph."""
        self.reset_stats()
        labels = None if labels is None else c_f.to_device(labels, embeddings)
        if ref_emb is None:
            ref_emb, ref_labels = embeddings, labels
        elif ref_labels is not None:
            ref_labels = c_f.to_device(ref_labels, ref_emb)
            self.check_labels(ref_emb, ref_labels=ref_labels)
        loss_dict = self.compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        self.add_embedding_regularization_to_loss_dict(loss_dict, embeddings)
        if torch.compiler.is_compiling():
            loss_dict = of_fixed_size(loss_dict, self.reducer)
        return self.reducer(loss_dict, embeddings, labels)

    def check_labels(self, rows: Tensor, **labels: Tensor | None) -> None:
        """Refuse what is not one class a row."""
        for name, given in labels.items():
            if given is not None and not torch.is_tensor(given):
                raise refuse(name, "a tensor of shape (rows,)", type(given).__name__)
            c_f.check_shapes(rows, given)

    def set_reducer(self, reducer: Any) -> None:
        super().set_reducer(reducer)
        if type(self.reducer) is MultipleReducers and reducer is not self.reducer:
            self.reducer = StackedReducers(dict(self.reducer.reducers))

    def _of_empty_batch(self, embeddings: Tensor, labels: Tensor | None) -> Any:
        self.reset_stats()
        loss = self.reducer(self.zero_losses(), embeddings, labels)
        if not torch.is_tensor(loss):
            return loss
        return loss + sum(0.0 * parameter.sum() for parameter in self.parameters())


class Pairs(NamedTuple):
    """Positive pairs (i, j) and negative pairs (k, l); second positions are of references."""

    i: Tensor
    j: Tensor
    k: Tensor
    l: Tensor  # noqa: E741


def listed_pairs(indices_tuple: tuple[Tensor, ...], device: torch.device) -> Pairs:
    """The pairs of a miner's tuple; a triplet (a, p, n) is the pairs (a, p) and (a, n)."""
    listed = [x.to(device=device, dtype=torch.int64) for x in indices_tuple]
    return Pairs(*listed) if len(listed) == 4 else Pairs(listed[0], listed[1], listed[0], listed[2])


def all_pairs(num: int, num_ref: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (i, j) of all entries of a (B, R) matrix, row by row."""
    pair = torch.arange(num * num_ref, device=device)
    return pair // num_ref, pair % num_ref


def label_masks(
    labels: Tensor, ref_labels: Tensor, *, ref_is_batch: bool, start: int = 0
) -> tuple[Tensor, Tensor]:
    """(B, R) bool positive and negative by equality of labels.

    Without self comparisons, if the B rows are those of the batch from ``start`` on.
    """
    positive = labels[:, None] == ref_labels
    negative = ~positive
    if ref_is_batch:
        positive.diagonal(start).fill_(False)
    return positive, negative


def required_labels(labels: Tensor | None, ref_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Refuse a batch that says nothing of its classes."""
    if labels is None:
        raise refuse("labels", "a (B,) tensor", "None", "Give labels or an indices_tuple.")
    if ref_labels is None:
        raise refuse("ref_labels", "an (R,) tensor", "None", "Give one label a reference.")
    return labels, ref_labels


def check_columns(embedding_size: int, **rows: Tensor) -> None:
    """Refuse rows of another width than the loss was constructed for."""
    for name, x in rows.items():
        if x.shape[1] != embedding_size:
            raise refuse(
                name,
                f"embedding_size = {embedding_size} columns",
                f"{x.shape[1]} columns",
                "Construct the loss with the size of the embeddings.",
            )


def refuse_references(embeddings: Tensor, ref_emb: Tensor, why: str) -> None:
    """Refuse references to a loss that compares its rows with none."""
    if ref_emb is not embeddings:
        raise refuse("ref_emb", "None", f"a tensor {tuple(ref_emb.shape)}", why)


def class_indices(name: str, labels: Tensor | None, num_classes: int) -> Tensor:
    """Labels that index parameters: int64 in [0, num_classes)."""
    if labels is None:
        raise refuse(name, "a (B,) tensor", "None", "Pass the class of each row.")
    if labels.is_floating_point():
        raise refuse(name, "integers", str(labels.dtype), "Call .long() on them.")
    labels = labels.long()
    if len(labels) > 0 and not torch.compiler.is_compiling():
        ((low, high),) = ranges(labels)
        if low < 0 or high >= num_classes:
            raise refuse(
                name,
                f"classes in [0, num_classes) = [0, {num_classes})",
                f"values from {low} to {high}",
                "Number the training classes from 0.",
            )
    return labels


def anchor_weights(
    indices_tuple: tuple[Tensor, ...] | None, labels: Tensor, dtype: torch.dtype, *, has_ref: bool
) -> Tensor:
    """(B,) how often each row occurs in a miner's tuple over the largest count; 1 without one.

    With references only anchors are counted, since the other entries are positions of references.
    """
    weights = torch.zeros(len(labels), dtype=dtype, device=labels.device)
    if indices_tuple is None or all(len(x) == 0 for x in indices_tuple):
        return weights + 1
    entries = indices_tuple[:: 2 if len(indices_tuple) == 4 else 3] if has_ref else indices_tuple
    for x in entries:
        index = x.to(device=labels.device, dtype=torch.int64)
        weights = weights.index_add(0, index, weights.new_ones(len(index)))
    return weights / weights.max()


def per_element(losses: Tensor, members: Tensor | None = None) -> dict[str, Any]:
    """(B,) losses as pml's "element" reduction type: the entry of one sub-loss.

    A ``DivisorReducer`` divides by B. ``members``, (B,) bool, are those that there are: for a
    compiled graph alone, as in :func:`per_pair`.
    """
    entry = {
        "losses": losses,
        "indices": torch.arange(len(losses), device=losses.device),
        "reduction_type": "element",
        "divisor": len(losses),
    }
    return entry if members is None else {**entry, "members": members}


def per_anchor(losses: Tensor) -> LossDict:
    """(B,) losses as the only sub-loss."""
    return {"loss": per_element(losses)}


def per_pair(
    losses: Tensor, i: Tensor, j: Tensor, reduction_type: str, members: Tensor | None = None
) -> dict[str, Any]:
    """(P,) losses as pml's "pos_pair" or "neg_pair" reduction type: the entry of one sub-loss.

    ``members``, (P,) bool, are the pairs that there are, None all; the others are left out by
    ``_reduction.of_fixed_size``, which runs in a compiled graph alone.
    """
    entry = {"losses": losses, "indices": (i, j), "reduction_type": reduction_type}
    return entry if members is None else {**entry, "members": members}


def already_reduced(loss: Tensor) -> LossDict:
    """A 0-dim loss as pml's "already_reduced" reduction type."""
    return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}


def already_reduced_parts(losses: dict[str, Tensor]) -> LossDict:
    """0-dim sub-losses by name."""
    return {name: already_reduced(loss)["loss"] for name, loss in losses.items()}
