"""A loss in parts, the rows of one process against all: which losses are the sum of their parts."""

import copy
from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import (
    AvgNonZeroReducer,
    DivisorReducer,
    MeanReducer,
    MultipleReducers,
)
from torch import Tensor, distributed

from pml_extras._checks import refuse
from pml_extras._pml import LossDict, label_masks
from pml_extras.reducers import BatchSizeReducer
from pml_extras.wrappers._joined import world_size

_SPLIT = (MeanReducer, AvgNonZeroReducer, DivisorReducer, BatchSizeReducer)


def all_pairs(labels: Tensor, ref_labels: Tensor, start: int) -> tuple[Tensor, ...]:
    """Of local rows and all rows, of which ``start`` is the first local one."""
    positive, negative = label_masks(labels, ref_labels, ref_is_batch=False)
    row = torch.arange(len(labels), device=labels.device)
    positive[row, start + row] = False
    return (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))


def weigh(reducer: Any, args: tuple[LossDict, Tensor, Tensor | None]) -> tuple[Any, ...]:
    """Before a reducer: multiply each sub-loss by W times this rank's share of its terms."""
    sub_losses, embeddings, labels = args
    counts = [
        _num_terms(_reducer_of(name, reducer), entry, len(embeddings))
        for name, entry in sub_losses.items()
    ]
    own = torch.tensor(counts, dtype=torch.float64, device=embeddings.device)
    total = own.clone()
    distributed.all_reduce(total)
    factors = (world_size() * own / total.clamp(min=1)).tolist()
    weighed = {}
    for (name, entry), factor in zip(sub_losses.items(), factors, strict=True):
        nothing = {"losses": 0, "indices": None, "reduction_type": "already_reduced"}
        weighed[name] = {**entry, "losses": entry["losses"] * factor} if factor > 0 else nothing
    return weighed, embeddings, labels


def _reducer_of(name: str, reducer: Any) -> Any:
    if not isinstance(reducer, MultipleReducers):
        return reducer
    return dict(reducer.reducers.items()).get(name, reducer.default_reducer)


def _num_terms(reducer: Any, entry: dict[str, Any], num_rows: int) -> float:
    """What the reducer divides by."""
    losses, kind = entry["losses"], type(reducer)
    if kind not in _SPLIT:
        expected = "one of " + ", ".join(k.__name__ for k in _SPLIT) + " with `efficient`"
        raise refuse("reducer", expected, kind.__name__, "Use the joined batch: efficient=False.")
    if kind is BatchSizeReducer:
        return num_rows
    if not torch.is_tensor(losses):  # pml's 0: nothing to compare
        return 0
    if kind is DivisorReducer:
        return float(entry["divisor"])
    return len(losses) if kind is MeanReducer else int((losses > 0).sum())


def refuse_what_cannot_be_split(loss: BaseMetricLossFunction, num_columns: int) -> None:
    """Compare the terms of 8 rows with those of 5 and of 3 of them against all.

    The same rows on every rank, so that all refuse together.
    """
    loss = copy.deepcopy(loss).cpu().double()
    name_of_loss = type(loss).__name__
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, num_columns, generator=generator, dtype=torch.float64)
    labels = torch.arange(8) // 2 % 3
    pairs = all_pairs(labels, labels, 0)
    if not torch.allclose(loss(x, labels), loss(x, labels, pairs)):
        expected = f"False for {name_of_loss}, whose value is another with a tuple of all pairs"
        raise refuse("efficient", expected, "True")
    whole = _terms(loss, x, labels, pairs)
    split = []
    for part in (slice(0, 5), slice(5, 8)):
        pairs = all_pairs(labels[part], labels, part.start)
        split.append(_terms(loss, x[part], labels[part], pairs, x.clone(), labels.clone()))
    for name, (terms, divisor) in whole.items():
        joined = torch.cat([part[name][0] for part in split]).sort().values
        divisors = sum(part[name][1] for part in split)
        if joined.shape != terms.shape or not torch.allclose(joined, terms) or divisors != divisor:
            raise refuse(
                "efficient",
                f"False for {name_of_loss}, whose terms are not of one anchor each",
                "True",
                f"Of 8 rows, {name!r} has {len(terms)} terms, sum {terms.sum():.4g}; of 5 and 3 of "
                f"them against all, {len(joined)}, sum {joined.sum():.4g}.",
            )


def _terms(loss: BaseMetricLossFunction, *arguments: Any) -> dict[str, tuple[Tensor, float]]:
    """Sorted terms of each sub-loss, and their divisor."""
    found: dict[str, tuple[Tensor, float]] = {}

    def note(_: Any, args: tuple[LossDict, Tensor, Tensor | None]) -> None:
        for name, entry in args[0].items():
            terms = torch.as_tensor(entry["losses"], dtype=torch.float64)
            kind = entry["reduction_type"]
            if kind == "already_reduced" and terms.any():
                expected = f"False for {type(loss).__name__}, which reduces {name!r} itself"
                raise refuse("efficient", expected, "True")
            terms = terms.new_zeros(0) if kind == "already_reduced" else terms
            found[name] = terms.detach().sort().values, float(entry.get("divisor", 0))

    hook = loss.reducer.register_forward_pre_hook(note)
    try:
        loss(*arguments)
    except (IndexError, RuntimeError) as error:
        expected = f"False for {type(loss).__name__}, which fails with references"
        raise refuse("efficient", expected, "True") from error
    finally:
        hook.remove()
    return found
