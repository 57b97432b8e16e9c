"""Promises about batches in which there is little or nothing to learn from."""

from collections.abc import Iterator

import torch

from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import finite, verdict, zero

FINITE = "a finite value with finite gradients, or a ValueError"
ZERO = "value 0, attached to the graph, with gradient 0, or a ValueError"


@promise
def nothing_to_compare(subject: Subject) -> Iterator[Outcome]:
    """A batch with nothing to compare gives 0, attached to the graph, with gradient 0."""
    empty = subject.run(subject.batches.of([]).to(torch.float32))
    yield verdict("no rows", empty, ZERO, zero)
    single = subject.run(subject.batches.of([1]).to(torch.float32))
    if subject.compares_pairs_only:
        yield verdict("one row", single, ZERO, zero)
    else:
        yield verdict("one row, compared with parameters", single, FINITE, finite)


@promise
def degenerate(subject: Subject) -> Iterator[Outcome]:
    """Identical, zero or duplicate rows and lopsided labels give finite values and gradients."""
    for name, batch in subject.batches.degenerate():
        yield verdict(name, subject.run(batch), FINITE, finite)
