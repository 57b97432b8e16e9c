"""A loss in parts, the rows of one process against all: which losses are the sum of their parts."""

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
from pml_extras._global_state import seed_everything
from pml_extras._pml import LossDict, label_masks
from pml_extras.reducers import BatchSizeReducer
from pml_extras.wrappers._asking import copied, rows, undisturbed
from pml_extras.wrappers._rank_order import world_size

_Terms = dict[str, tuple[Tensor, float]]
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
    """Compare the terms of 8 rows of two classes with those of 5 and of 3 of them against all.

    The same rows on every rank, so that all refuse together.
    """
    cause = None
    try:
        with undisturbed():
            wrong = _first_wrong(loss, num_columns)
    except Exception as error:  # of any type: the loss may be anyone's
        wrong, cause = f"which raises {type(error).__name__}: {error}".rstrip("."), error
    if wrong is not None:
        expected = f"False for {type(loss).__name__}, {wrong}"
        raise refuse("efficient", expected, "True") from cause


def _first_wrong(loss: BaseMetricLossFunction, num_columns: int) -> str | None:
    labels = torch.arange(8) // 2 % 2
    pairs = all_pairs(labels, labels, 0)
    compared = False
    for (x,) in rows(8, columns=num_columns):
        values = [_asked(loss)(*given) for given in ((x, labels), (x, labels, pairs))]
        if all(map(torch.is_tensor, values)) and not torch.allclose(*values):
            return "whose value is another with a tuple of all pairs"
        whole = _terms(loss, x, labels, pairs)
        parts = []
        for own in (slice(0, 5), slice(5, 8)):
            listed = all_pairs(labels[own], labels, own.start)
            parts.append(_terms(loss, x[own], labels[own], listed, x.clone(), labels.clone()))
        if not _agree(parts, whole):
            return "whose terms are not of one anchor each"
        compared |= any(bool(terms.any()) for terms, _ in whole.values())
    return None if compared else "whose terms are 0 whatever the rows, so that none shows"


def _agree(parts: list[_Terms], whole: _Terms) -> bool:
    """Whether the parts have the terms of the whole, and divisors that add up."""
    for name, (terms, divisor) in whole.items():
        joined = torch.cat([part[name][0] for part in parts]).sort().values
        same = joined.shape == terms.shape and torch.allclose(joined, terms)
        if not same or sum(part[name][1] for part in parts) != divisor:
            return False
    return True


def _terms(loss: BaseMetricLossFunction, *arguments: Any) -> _Terms:
    """Sorted terms of each sub-loss of a copy of the loss, and their divisor."""
    found: _Terms = {}

    def note(_: Any, args: tuple[LossDict, Tensor, Tensor | None]) -> None:
        for name, entry in args[0].items():
            terms = torch.as_tensor(entry["losses"], dtype=torch.float64)
            kind = entry["reduction_type"]
            if kind == "already_reduced" and terms.any():
                expected = "terms for the reducer"
                raise refuse(f"sub-loss {name!r}", expected, "one number, already reduced")
            terms = terms.new_zeros(0) if kind == "already_reduced" else terms
            found[name] = terms.detach().sort().values, float(entry.get("divisor", 0))

    asked = _asked(loss)
    asked.reducer.register_forward_pre_hook(note)
    asked(*arguments)
    return found


def _asked(loss: BaseMetricLossFunction) -> Any:
    """A copy, which draws the same numbers each time."""
    seed_everything(0)
    return copied(loss)
