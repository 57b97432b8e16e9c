"""Batches that break assumptions: ties, singletons, one class only, B != R, odd label values."""

import torch
from hypothesis import strategies as st

LABELS = (-7, 0, 1, 3, 2**40)
"""Odd on purpose: negative, not contiguous, beyond float32."""


@st.composite
def rows(draw, num, size, *, norms=False):
    """(num, size) float64; half of the coordinates on a coarse grid, so that rows coincide."""
    grid = st.sampled_from((-1.0, -0.5, 0.0, 0.5, 1.0))
    free = st.floats(-1, 1).map(lambda v: round(v, 9))  # squares of less would underflow
    coordinate = grid if draw(st.booleans()) else free
    table = draw(
        st.lists(st.lists(coordinate, min_size=size, max_size=size), min_size=num, max_size=num)
    )
    x = torch.tensor(table, dtype=torch.float64).reshape(num, size)
    if norms:
        length = x.norm(dim=1, keepdim=True)
        x = torch.where(length > 1e-3, x / length.clamp(min=1e-3), torch.eye(size)[0].double())
        powers = draw(st.lists(st.integers(-6, 6), min_size=num, max_size=num))
        x = x * 10.0 ** torch.tensor(powers, dtype=torch.float64)[:, None]
    return x


def labels(num, values=LABELS):
    """(num,) int64 with classes of any size."""
    return st.lists(st.sampled_from(values), min_size=num, max_size=num).map(
        lambda drawn: torch.tensor(drawn, dtype=torch.int64)
    )


@st.composite
def batches(draw, *, min_rows=1, max_rows=8, norms=False, values=LABELS):
    """(x, labels) of one set of points."""
    num, size = draw(st.integers(min_rows, max_rows)), draw(st.integers(1, 4))
    return draw(rows(num, size, norms=norms)), draw(labels(num, values))


@st.composite
def batches_with_references(draw, *, norms=False, values=LABELS):
    """(x, labels, references, reference labels), of unequal sizes."""
    size = draw(st.integers(1, 4))
    num, num_ref = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    x, y = draw(rows(num, size, norms=norms)), draw(rows(num_ref, size, norms=norms))
    return x, draw(labels(num, values)), y, draw(labels(num_ref, values))


@st.composite
def listed(draw, num, num_ref, *, max_pairs=12):
    """A miner's tuple (a1, p, a2, n) with repeats, rows paired with themselves and empty lists."""

    def column(high, length):
        drawn = draw(st.lists(st.integers(0, high - 1), min_size=length, max_size=length))
        return torch.tensor(drawn, dtype=torch.int64)

    positives, negatives = (draw(st.integers(0, max_pairs)) for _ in range(2))
    return (
        column(num, positives),
        column(num_ref, positives),
        column(num, negatives),
        column(num_ref, negatives),
    )
