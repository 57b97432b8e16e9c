"""Promises about how memory grows with the batch."""

from collections.abc import Iterator

import torch

from pml_extras.testing.allocations import Allocations
from pml_extras.testing.batches import Batch
from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Run, Subject
from pml_extras.testing.verdicts import broken, finite, in_short, kept, verdict

NUM_ROWS, PER_CLASS = 64, 4
MOST_GROWTH = 4.5  # quadratic is 4, cubic 8
LONGER = 4
MOST_COPIES = NUM_ROWS // 2  # sound losses hold up to 16, a list of pairs of rows 64 and more


@promise
def memory(subject: Subject) -> Iterator[Outcome]:
    """Memory grows with the square of the batch at most, and not with pairs times their length.

    Sum over a row (``logsumexp`` of its negatives) before rows meet pairs, in place of a tensor
    with an entry for each triplet. Multiply matrices in place of subtracting each row from each.
    """
    size = subject.embedding_size
    small, held = _peak(subject, _batch(subject, NUM_ROWS, size))
    if not small.usable:
        yield verdict(f"{NUM_ROWS} rows", small, "a finite value, or a ValueError", finite)
        return
    double = _batch(subject, 2 * NUM_ROWS, size)
    run, held_by_double = _peak(subject, double)
    if run.usable:
        growth = held_by_double / held
        yield (kept if growth <= MOST_GROWTH else broken)(
            f"twice as many rows, {in_short(torch.float32)}",
            f"{NUM_ROWS} and {2 * NUM_ROWS} rows of {size}, {PER_CLASS} a class",
            f"at most {MOST_GROWTH} times the memory",
            f"{growth:.2f} times: {held_by_double:,} bytes",
        )
    for dtype in (torch.float32, torch.float16):
        short = _batch(subject, NUM_ROWS, size).to(dtype)
        long = _batch(subject, NUM_ROWS, LONGER * size).to(dtype)
        (first, fewer), (second, more) = _peak(subject, short), _peak(subject, long)
        if first.error is not None or second.error is not None:
            continue  # its parameters fix the size, or it lacks the dtype, which others report
        added = (long.embeddings.numel() - short.embeddings.numel()) * dtype.itemsize
        copies = (more - fewer) / added
        yield (kept if copies <= MOST_COPIES else broken)(
            f"rows {LONGER} times as long, {in_short(dtype)}",
            f"{NUM_ROWS} rows of {size} and {LONGER * size}, {PER_CLASS} a class",
            f"at most {MOST_COPIES} copies of what was added to the batch",
            f"{copies:.1f} copies: {more:,} bytes",
        )


def _batch(subject: Subject, num_rows: int, size: int) -> Batch:
    """float32 rows of as many classes as there is room for, no two neighbours of one class."""
    batches = subject.batches.with_size(size)
    return batches.of([row % (num_rows // PER_CLASS) for row in range(num_rows)]).to(torch.float32)


def _peak(subject: Subject, batch: Batch) -> tuple[Run, int]:
    loss = subject.fresh()
    with Allocations() as allocations:
        run = subject.run(batch, loss)
    return run, allocations.peak
