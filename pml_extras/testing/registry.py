"""Where promises are entered: a function under ``@promise`` is all that a new one takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject

Cases = Callable[[Subject], Iterator[Outcome]]


@dataclass(frozen=True)
class Promise:
    """A name, what it means in one line, and the function that tries its cases on a loss."""

    name: str
    meaning: str
    cases: Cases


REGISTRY: dict[str, Promise] = {}


def promise(cases: Cases) -> Cases:
    """Enter a function: its name is the promise's, the first line of its docstring the meaning.

    The function yields an outcome for each case and leaves the outcome's promise empty. One that
    yields nothing found no batch to try, which is reported as not applicable.
    """
    meaning = (cases.__doc__ or "").strip().splitlines()[0]
    REGISTRY[cases.__name__] = Promise(cases.__name__, meaning, cases)
    return cases
