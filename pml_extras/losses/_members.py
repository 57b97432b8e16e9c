"""Losses that another loss holds: checked, called with errors that name them, given a rate."""

from typing import Any

import torch
from pytorch_metric_learning.reducers import DoNothingReducer
from torch import Tensor, nn

from pml_extras._checks import refuse
from pml_extras.functional.precision import call_in_widest

Groups = list[dict[str, Any]]


def check_member(name: str, loss: Any) -> None:
    """Refuse what is no loss, or one that does not reduce."""
    if not isinstance(loss, nn.Module):
        raise refuse(name, "a loss, a torch module", type(loss).__name__)
    if isinstance(getattr(loss, "reducer", None), DoNothingReducer):
        raise refuse(name, "a loss that reduces", "DoNothingReducer", "Leave its reducer out.")


def member_value(
    name: str,
    loss: nn.Module,
    rows: list[Any],
    indices_tuple: tuple[Tensor, ...] | None,
    references: list[Any],
    miner: nn.Module | None = None,
) -> Tensor:
    """0-dim value of ``loss`` on ``rows``, which are embeddings and labels, as are ``references``.

    A ``miner`` replaces the tuple. Arguments of a call that has no references are left out: pml's
    ``CrossBatchMemory`` takes none.
    """
    try:
        if miner is not None:
            indices_tuple = miner(*rows, *references)
        value = call_in_widest(loss, *rows, indices_tuple, *references)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{name}, {type(loss).__name__}: {error}") from error
    except Exception as error:  # of its own type, such as too little memory
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"in {name}, {type(loss).__name__}")
        raise
    if not torch.is_tensor(value) or value.numel() != 1:
        came = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__
        raise refuse(name, "a loss that returns one number", came)
    return value if value.ndim == 0 else value.reshape(())


def member_groups(module: nn.Module, lr: float, weight_decay: float) -> Groups:
    """Its own ``param_groups``, or all its parameters at ``lr``."""
    of_module = getattr(module, "param_groups", None)
    if callable(of_module):
        groups: Groups = of_module(lr, weight_decay)
        return groups
    return [{"params": list(module.parameters()), "lr": lr, "weight_decay": weight_decay}]


def without_repeats(groups: Groups) -> Groups:
    """A parameter that two losses share belongs to the first; groups of none are left out."""
    seen: set[int] = set()
    kept = []
    for group in groups:
        params = [p for p in group["params"] if id(p) not in seen]
        seen |= {id(p) for p in params}
        if params:
            kept.append({**group, "params": params})
    return kept
