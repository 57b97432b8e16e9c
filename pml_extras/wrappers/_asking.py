"""Whether a loss can do what a wrapper needs: it is asked with small batches, not for its name.

An answer is the value of a copy of the loss, on the CPU in float64, from the state that the loss is
in; the generators of random numbers are put back. What is asked is whether the value changes, or
stays, with one part of the batch. A loss is judged wrongly that needs more rows or classes than
these batches have, and one whose value is the same in all draws, all hinges being closed.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pml_extras._checks import refuse
from pml_extras._global_state import GlobalState, seed_everything

NUM_DRAWS = 6


class Change(NamedTuple):
    """Other arguments of the loss, and what is wrong with one that takes them otherwise."""

    arguments: tuple[Any, ...]
    matters: bool
    otherwise: str


class Question(NamedTuple):
    """Arguments of the loss, and changes: one that matters has to show in one question at least,
    one that does not in none."""

    arguments: tuple[Any, ...]
    changes: list[Change]


def require(loss: Any, questions: Iterator[Question], expected: str, way_out: str) -> None:
    """Refuse a loss that raises, or whose value does not follow the changes."""
    name = type(loss).__name__
    if not isinstance(loss, nn.Module):
        raise refuse("loss", expected, name, "Give an instance.")
    cause = None
    try:
        with undisturbed():
            wrong = _first_wrong(loss, questions)
    except Exception as error:  # of any type: the loss may be anyone's
        wrong, cause = f"which raises {type(error).__name__}: {error}".rstrip("."), error
    if wrong is not None:
        raise refuse("loss", expected, f"{name}, {wrong}", way_out) from cause


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No warning is seen, new tensors are on the CPU, and the state of the process is put back."""
    state = GlobalState.now()
    try:
        with warnings.catch_warnings(), torch.enable_grad(), torch.device("cpu"):
            warnings.simplefilter("ignore")
            yield
    finally:
        state.restore()


def copied(loss: nn.Module) -> nn.Module:
    """In float64 on the CPU."""
    held = (x for module in loss.modules() for x in vars(module).values())
    # What a loss keeps of a graph cannot be copied otherwise.
    memo = {id(x): x.detach().clone() for x in held if torch.is_tensor(x) and not x.is_leaf}
    return copy.deepcopy(loss, memo).to("cpu", torch.float64)


def rows(*sizes: int, columns: int) -> Iterator[list[Tensor]]:
    """Draws in general position: about the origin, and about one direction as if untrained."""
    generator = torch.Generator().manual_seed(0)
    for draw in range(NUM_DRAWS):
        yield [
            torch.randn(num, columns, generator=generator, dtype=torch.float64, device="cpu")
            + draw % 2
            for num in sizes
        ]


def _first_wrong(loss: nn.Module, questions: Iterator[Question]) -> str | None:
    unseen: dict[str, None] = {}
    seen = set()
    for arguments, changes in questions:
        value = _answer(loss, arguments)
        for changed, matters, otherwise in changes:
            same = abs(_answer(loss, changed) - value) <= 1e-9 + 1e-6 * abs(value)
            if not (matters or same):
                return otherwise
            if matters:
                unseen[otherwise] = None
                seen |= set() if same else {otherwise}
    return next((otherwise for otherwise in unseen if otherwise not in seen), None)


def _answer(loss: nn.Module, arguments: tuple[Any, ...]) -> float:
    """Value of the loss; the sum of what it holds if it does not reduce."""
    seed_everything(0)
    value = copied(loss)(*arguments)
    if isinstance(value, dict):
        value = sum(torch.as_tensor(entry["losses"]).sum() for entry in value.values())
    return float(value.detach())
