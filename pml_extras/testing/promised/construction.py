"""Promises about hyper-parameters, and about what pml reads from an instance."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from pytorch_metric_learning.reducers import DoNothingReducer
from torch import nn

from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import broken, in_words, kept, not_applicable


@promise
def out_of_range(subject: Subject) -> Iterator[Outcome]:
    """Each out-of-range hyper-parameter is refused at construction, by name, with ValueError.

    ``if not margin > 0: raise ValueError(f"margin: expected > 0; got {margin}")`` refuses NaN too.
    """
    if not subject.out_of_range:
        yield not_applicable("no bad values were given in `out_of_range`")
    for name, value in subject.out_of_range.items():
        case, expected = f"{name}={value!r}", f"a ValueError whose text names {name}"
        try:
            subject.factory(**{name: value})
        except Exception as error:
            named = isinstance(error, ValueError) and name in str(error)
            yield (kept if named else broken)(case, "", expected, in_words(error))
        else:
            yield broken(case, "", expected, "an instance")


@promise
def records(subject: Subject) -> Iterator[Outcome]:
    """A hyper-parameter that is recorded for logging holds what the constructor was given.

    Convert (degrees, inverses) where it is used, and leave the attribute as it came.
    """
    loss, given = _constructed(subject)
    listed = getattr(loss, "_record_these", [])
    # None asks the loss to choose, and what it chose is worth recording.
    recorded = [name for name in listed if given.get(name) is not None]
    if not recorded:
        yield not_applicable("the loss records none of its constructor's arguments")
    for name in recorded:
        held = getattr(loss, name, None)
        same = _same(held, given[name])
        yield (kept if same else broken)(name, "", f"{given[name]!r}", f"{held!r}")


@promise
def sub_loss_names(subject: Subject) -> Iterator[Outcome]:
    """The dictionary that reaches the reducer has the keys that sub_loss_names() announces.

    Override ``_sub_loss_names``, or return the key ``"loss"``: another one loses the reducer.
    """
    example: Any = subject.fresh()
    if not hasattr(example, "sub_loss_names") or not hasattr(example, "reducer"):
        yield not_applicable("not built on pml's base class")
        return
    expected = f"keys {sorted(example.sub_loss_names())}"
    cases = [subject.usual, *subject.batches.degenerate()]
    for name, batch in cases:
        loss = subject.fresh(dtype=batch.embeddings.dtype)
        loss.reducer = DoNothingReducer()
        try:
            returned = loss(*batch.cloned().arguments)
        except Exception:  # other promises report it
            continue
        came = f"keys {sorted(returned)}"
        yield (kept if came == expected else broken)(name, batch, expected, came)


def _constructed(subject: Subject) -> tuple[nn.Module, dict[str, Any]]:
    """A fresh loss, and what its constructor was given, by name, defaults included."""
    with _recording(type(subject.fresh())) as calls:
        loss = subject.fresh()
    return loss, next((arguments for made, arguments in calls if made is loss), {})


@contextmanager
def _recording(cls: Any) -> Iterator[list[tuple[object, dict[str, Any]]]]:
    """Within the context, calls of the constructor are listed with their arguments."""
    original = cls.__init__
    signature = inspect.signature(original)
    calls: list[tuple[object, dict[str, Any]]] = []

    @functools.wraps(original)
    def recording(self: object, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        more = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
        arguments = dict(bound.arguments)
        for name in more:
            arguments |= arguments.pop(name)
        calls.append((self, arguments))
        original(self, *args, **kwargs)

    with mock.patch.object(cls, "__init__", recording):
        yield calls


def _same(held: object, given: object) -> bool:
    """Equal as numbers, each entry of a tensor being compared; or else as objects."""
    try:
        left = torch.as_tensor(held, dtype=torch.float64)
        right = torch.as_tensor(given, dtype=torch.float64)
        return bool(torch.isclose(left, right, equal_nan=True).all())
    except (RuntimeError, TypeError, ValueError):
        return held is given or bool(held == given)
