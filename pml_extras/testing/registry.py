"""Where promises are entered: a function under ``@promise`` is all that a new one takes."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject

Cases = Callable[[Subject], Iterator[Outcome]]


@dataclass(frozen=True)
class Promise:
    """What a loss may promise.

    Args:
        name: short, as users write it.
        meaning: in one line.
        fix: what usually mends a loss that breaks it; may be empty.
        cases: tries them on a loss.
        extra: tried only where it is asked for by name: it takes seconds, or is a matter of taste.
    """

    name: str
    meaning: str
    fix: str
    cases: Cases
    extra: bool


REGISTRY: dict[str, Promise] = {}


def promise(cases: Cases) -> Cases:
    """Enter a function under its name.

    The first line of its docstring is the meaning, the rest the usual fix. The function yields an
    outcome for each case and leaves the outcome's promise empty. One that yields nothing found no
    batch to try, which is reported as not applicable.
    """
    return _enter(cases, extra=False)


def extra_promise(cases: Cases) -> Cases:
    """As :func:`promise`; tried only where it is asked for by name."""
    return _enter(cases, extra=True)


def _enter(cases: Cases, *, extra: bool) -> Cases:
    meaning, _, fix = inspect.cleandoc(cases.__doc__ or "").partition("\n")
    entered = Promise(cases.__name__, meaning, " ".join(fix.split()), cases, extra)
    REGISTRY[cases.__name__] = entered
    return cases
