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
_ARGUMENTS = ("embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels")


class Recorder:
    """Hooks on one loss of pml: they read what it is called with and what it gives its reducer.

    A call in evaluation mode, without gradients or in a compiled graph is not seen. Nothing refers
    to the loss, which can be copied and pickled with its hooks.
    """

    def __init__(self, loss: Any) -> None:
        self.regularizers = set(loss.all_regularization_loss_names())
        self.num_columns = 0
        self.num_classes = 0  # in the batch whose rank was measured
        self.rank = torch.tensor(torch.nan)
        self.zero_losses: Tensor | None = None
        self.start_window()
        c_f.add_to_recordable_attributes(loss, list_of_names=list(STATISTICS), is_stat=True)
        loss.reducer.register_forward_pre_hook(self.before_reduction)
        loss.register_forward_hook(self.after_forward, with_kwargs=True)

    def start_window(self) -> None:
        self.calls: list[Tensor] = []  # (4,) each: by labels, by tuple, zero losses, cosine

    def before_reduction(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        losses, embeddings = arguments[0], arguments[1]
        terms = [x["losses"] for name, x in losses.items() if name not in self.regularizers]
        self.zero_losses = share_of_zeros(terms, embeddings.device)

    def after_forward(
        self, loss: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], _: Any
    ) -> None:
        if torch.compiler.is_compiling() or not (loss.training and torch.is_grad_enabled()):
            return
        given = {**dict(zip(_ARGUMENTS, positional, strict=False)), **named}
        rows, labels = given["embeddings"].detach(), given.get("labels")
        device, unknown = rows.device, rows.new_full((), torch.nan, dtype=torch.float32)
        by_labels = by_tuple = unknown
        if torch.is_tensor(labels) and labels.shape == rows.shape[:1]:
            references = given.get("ref_labels")
            if references is labels and given.get("ref_emb") is given["embeddings"]:
                references = None  # which is how pml says so
            by_labels = share_without_positive(labels.to(device), references)
        if given.get("indices_tuple") is not None:
            by_tuple = share_never_anchor(given["indices_tuple"][0], len(rows), device)
        zeros = unknown if self.zero_losses is None else self.zero_losses
        cosine = mean_cosine(rows)
        if not self.calls:
            self.rank = effective_rank(rows)
            self.num_columns = rows.shape[1]
            self.num_classes = len(labels.unique()) if torch.is_tensor(labels) else len(rows)
        self.calls.append(torch.stack([by_labels, by_tuple, zeros.to(device), cosine.float()]))
        self.zero_losses = None
        shown = by_labels if given.get("indices_tuple") is None else by_tuple
        for name, value in zip(STATISTICS, (shown, zeros, cosine, self.rank), strict=True):
            setattr(loss, name, value)

    def read(self) -> Tensor:
        """(calls, 4) of the window, on the CPU."""
        return torch.stack([call.to(self.calls[-1].device) for call in self.calls]).cpu()


def innermost_losses(module: nn.Module) -> list[nn.Module]:
    """Losses on pml's base in ``module``, but for ensembles of others."""
    losses = [m for m in module.modules() if isinstance(m, BaseMetricLossFunction)]
    return [x for x in losses if not any(x is not m for m in x.modules() if m in losses)]
