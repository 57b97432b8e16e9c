"""From losses of pairs or rows to one number, by reducers of pytorch-metric-learning."""

from typing import Any

import torch
from pytorch_metric_learning.reducers import (
    AvgNonZeroReducer,
    BaseReducer,
    MeanReducer,
    MultipleReducers,
    SumReducer,
    ThresholdReducer,
)
from torch import Tensor

from pml_extras.reducers.batch_size import BatchSizeReducer

LossDict = dict[str, dict[str, Any]]


class StackedReducers(MultipleReducers):
    """Sum of sub-losses, each by a reducer of its own.

    Departure from pml 2.9.0, which writes each into a vector of zeros in the dtype of the rows:
    no write in place, which costs the backward pass a copy each, and no cast. A sub-loss that comes
    reduced is its own value, unless its reducer counts it or reduces such losses in its own way.
    """

    default_reducer: Any

    def forward(self, loss_dict: LossDict, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        self.reset_stats()
        own = dict(self.reducers.items())
        reduced = []
        for name, entry in loss_dict.items():
            value, reducer = entry["losses"], own.get(name, self.default_reducer)
            comes_reduced = entry["reduction_type"] == "already_reduced" and torch.is_tensor(value)
            if not (comes_reduced and _passes_on(reducer)):
                value = reducer({name: entry}, embeddings, labels)
            reduced.append(value.reshape(()))  # pml allows one element for a number
        total: Tensor = self.sub_loss_reduction(torch.stack(reduced), embeddings, labels)
        return total


def _passes_on(reducer: Any) -> bool:
    """Whether it returns what comes reduced and records nothing."""
    own = getattr(type(reducer), "already_reduced_reduction", None)
    return own is BaseReducer.already_reduced_reduction and not reducer.collect_stats


def of_fixed_size(loss_dict: LossDict, reducer: Any) -> LossDict:
    """For a compiled graph: entries without ``members``, and none whose reducer reads its values.

    Of ``MeanReducer``, ``SumReducer``, ``BatchSizeReducer``, ``ThresholdReducer`` and
    ``AvgNonZeroReducer`` the same numbers come from a mask. For others the losses of members are
    listed: their number depends on the labels, which breaks the graph.
    """
    own: Any = {}
    if isinstance(reducer, MultipleReducers):
        own, reducer = dict(reducer.reducers.items()), reducer.default_reducer
    return {
        name: _entry_of_fixed_size(entry, own.get(name, reducer))
        for name, entry in loss_dict.items()
    }


def _entry_of_fixed_size(entry: dict[str, Any], reducer: Any) -> dict[str, Any]:
    entry = dict(entry)
    members = entry.pop("members", None)
    losses, kind = entry["losses"], type(reducer)
    if not torch.is_tensor(losses) or entry["reduction_type"] == "already_reduced":
        return entry
    records = reducer.collect_stats
    if kind in (ThresholdReducer, AvgNonZeroReducer) and not records:
        kept = torch.ones_like(losses, dtype=torch.bool) if members is None else members
        if reducer.low is not None:
            kept = kept & (losses > reducer.low)
        if reducer.high is not None:
            kept = kept & (losses < reducer.high)
        return _reduced(_mean(losses, kept))
    if members is None:
        return entry
    if kind is MeanReducer and not records:
        return _reduced(_mean(losses, members))
    if kind in (SumReducer, BatchSizeReducer) and not records:
        return {**entry, "losses": losses.masked_fill(~members, 0.0)}
    return _listed(entry, members)


def _mean(losses: Tensor, members: Tensor) -> Tensor:
    """0 without members."""
    return losses.masked_fill(~members, 0.0).sum() / members.sum().clamp(min=1)


def _reduced(loss: Tensor) -> dict[str, Any]:
    return {"losses": loss, "indices": None, "reduction_type": "already_reduced"}


def _listed(entry: dict[str, Any], members: Tensor) -> dict[str, Any]:
    """Members alone; 0, as losses have it, without any."""
    (kept,) = members.nonzero(as_tuple=True)
    if len(kept) == 0:
        return {"losses": 0, "indices": None, "reduction_type": "already_reduced"}
    indices = entry["indices"]
    indices = indices[kept] if torch.is_tensor(indices) else tuple(x[kept] for x in indices)
    listed = {**entry, "losses": entry["losses"][kept], "indices": indices}
    if "divisor" in entry:
        listed["divisor"] = len(kept)
    return listed
