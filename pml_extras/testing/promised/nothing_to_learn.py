"""Promises about batches in which there is little or nothing to learn from."""

from collections.abc import Iterator

import torch

from pml_extras.testing.registry import extra_promise, promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import finite, not_applicable, verdict, zero

FINITE = "a finite value with finite gradients, or a ValueError"
ZERO = "value 0, attached to the graph, with gradient 0, or a ValueError"


@promise
def nothing_to_compare(subject: Subject) -> Iterator[Outcome]:
    """A batch with nothing to compare gives 0, attached to the graph, with gradient 0.

    Return ``self.zero_losses()``, never ``torch.tensor(0.0)``. Divide by ``max(1, count)``; let a
    mean over no rows be ``embeddings.sum()`` of no rows, which is 0 and has a graph.
    """
    empty = subject.run(subject.batches.of([]).to(torch.float32))
    yield verdict("no rows", empty, ZERO, zero)
    single = subject.run(subject.batches.of([1]).to(torch.float32))
    if subject.compares_pairs_only:
        yield verdict("one row", single, ZERO, zero)
    else:
        yield verdict("one row, compared with parameters", single, FINITE, finite)


@promise
def degenerate(subject: Subject) -> Iterator[Outcome]:
    """Identical, zero or duplicate rows and lopsided labels give finite values and gradients.

    Choose inputs before a function with a pole, not its outputs after: ``torch.where(bad, 1.0, x)``
    inside a root, a logarithm or a quotient. Use ``logsumexp``, ``softplus`` and
    ``torch.nn.functional.normalize``; leave rows without positives or negatives out of the mean.
    """
    for name, batch in subject.batches.degenerate():
        yield verdict(name, subject.run(batch), FINITE, finite)


@extra_promise
def infinite_rows(subject: Subject) -> Iterator[Outcome]:
    """With nothing to compare, a row that has overflowed leaves value and gradient 0.

    Attach the 0 by ``embeddings[:0].sum()``: zero times infinity is not a number.
    """
    if not subject.compares_pairs_only:
        yield not_applicable("one row is compared with parameters")
        return
    batch = subject.batches.of([1]).to(torch.float32)
    batch.embeddings[0, 0] = torch.inf
    yield verdict("one row, infinite", subject.run(batch), ZERO, zero)
