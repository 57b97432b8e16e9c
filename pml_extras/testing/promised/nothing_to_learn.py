"""Promises about batches in which there is little or nothing to learn from, or nothing sound."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from pml_extras.testing.registry import extra_promise, promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Run, Subject
from pml_extras.testing.verdicts import finite, not_applicable, number, verdict, zero

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


@promise
def overflow(subject: Subject) -> Iterator[Outcome]:
    """A compared row of NaN or infinity makes the value so, or is refused with ValueError.

    No ``nan_to_num``. A comparison is False for NaN: ``losses[losses > 0].mean()``, which is pml's
    ``AvgNonZeroReducer``, drops it from the value and keeps it in the gradient. A position that is
    computed from an embedding (the bin of a histogram) is no position: choose another way there.
    """
    name, batch = subject.usual
    if not subject.run(batch).usable:
        return
    for spoilt in (math.nan, math.inf):
        embeddings = batch.embeddings.to(torch.float32, copy=True)
        embeddings[0, 0] = spoilt  # a row with others of its class
        run = subject.run(replace(batch, embeddings=embeddings))
        expected = "a value that is not finite, or a ValueError"
        yield verdict(f"{name}, one entry {spoilt}", run, expected, _hidden)


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


def _hidden(run: Run) -> str | None:
    """Complain of a finite value."""
    if not run.usable:
        return None
    spoilt = "" if finite(run) is None else ", over gradients that are not finite"
    return f"value {number(run)}{spoilt}"
