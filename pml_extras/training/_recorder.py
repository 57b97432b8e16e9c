"""Statistics of the batches that a loss is called with, kept on the loss as pml keeps its own."""

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor, nn

from pml_extras.training._statistics import (
    effective_rank,
    mean_cosine,
    share_never_anchor,
    share_of_zeros,
    share_without_positive,
)

STATISTICS = ("share_without_positive", "share_of_zero_losses", "mean_cosine", "effective_rank")


class Recorder:
    """Stands in for ``compute_loss`` of one loss, whose arguments and losses pass it as they are.

    That is where pml has them all in one place, keywords resolved and the loss not yet reduced.
    (Hooks of modules would do, but for pml's record keeper: it fails on the dictionaries that torch
    keeps them in.) Copies of the loss have a copy of it.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss
        self.compute_loss = loss.compute_loss
        self.regularizers = set(loss.all_regularization_loss_names())
        self.num_columns = 0
        self.num_classes = 0  # in the batch whose rank was measured
        self.rank = torch.tensor(torch.nan)
        self.start_window()
        c_f.add_to_recordable_attributes(loss, list_of_names=list(STATISTICS), is_stat=True)
        loss.compute_loss = self

    def start_window(self) -> None:
        self.calls: list[Tensor] = []  # (4,) each: by labels, by tuple, zero losses, cosine

    def __call__(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Any, ref_labels: Any
    ) -> Any:
        losses = self.compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        seen = self.loss.training and torch.is_grad_enabled()
        if seen and not torch.compiler.is_compiling():
            same = ref_emb is None or ref_emb is embeddings
            terms = [x["losses"] for name, x in losses.items() if name not in self.regularizers]
            references = labels if same else ref_labels
            self._record(embeddings.detach(), labels, indices_tuple, references, same, terms)
        return losses

    def _record(
        self,
        rows: Tensor,
        labels: Any,
        indices_tuple: Any,
        ref_labels: Any,
        same: bool,
        terms: list[Any],
    ) -> None:
        by_labels = by_tuple = rows.new_full((), torch.nan, dtype=torch.float32)
        if _are_classes(labels) and _are_classes(ref_labels):
            by_labels = share_without_positive(labels, None if same else ref_labels)
        if indices_tuple is not None:
            by_tuple = share_never_anchor(indices_tuple[0], len(rows), rows.device)
        zeros, cosine = share_of_zeros(terms, rows.device), mean_cosine(rows)
        if not self.calls:
            self.rank = effective_rank(rows)
            self.num_columns = rows.shape[1]
            self.num_classes = len(labels.unique()) if _are_classes(labels) else len(rows)
        self.calls.append(torch.stack([by_labels, by_tuple, zeros, cosine.float()]))
        shown = by_labels if indices_tuple is None else by_tuple
        for name, value in zip(STATISTICS, (shown, zeros, cosine, self.rank), strict=True):
            setattr(self.loss, name, value)

    def read(self) -> Tensor:
        """(calls, 4) of the window, on the CPU."""
        return torch.stack([call.to(self.calls[-1].device) for call in self.calls]).cpu()


def _are_classes(labels: Any) -> bool:
    return torch.is_tensor(labels) and labels.ndim == 1


def innermost_losses(module: nn.Module) -> list[nn.Module]:
    """Losses on pml's base in ``module``, but for ensembles of others."""
    losses = [m for m in module.modules() if isinstance(m, BaseMetricLossFunction)]
    return [x for x in losses if not any(x is not m for m in x.modules() if m in losses)]
