"""Losses with chosen values and gradients, and every strategy there is."""

import inspect

import torch
from hypothesis import strategies as st

from pml_extras import weighting
from pml_extras.weighting import LossWeighting

STRATEGIES = sorted(
    (
        item
        for item in vars(weighting).values()
        if inspect.isclass(item) and issubclass(item, LossWeighting) and item is not LossWeighting
    ),
    key=lambda cls: cls.__name__,
)

# Prime factors everywhere, so that no two losses can stand in for each other.
VALUES = (0.7, 2.3, 1.1)
ROWS = ((1.0, -2.0, 0.5, 0.3), (0.2, 0.4, -1.5, 2.0), (3.0, 1.0, 0.0, -0.7))


def names_of(num):
    return [f"loss_{j}" for j in range(num)]


def bound(strategy, num=3, *, double=True):
    """Bound to ``num`` losses, in float64."""
    strategy.bind(names_of(num))
    return strategy.double() if double else strategy


def losses_of(values=VALUES, rows=ROWS, *, dtype=torch.float64, views=False):
    """Losses (m,) of these values whose gradients at the shared tensor (2, n / 2) are ``rows``."""
    rows = torch.tensor(rows, dtype=dtype)  # (m, n)
    x = torch.linspace(-1, 1, rows.shape[1], dtype=dtype).reshape(2, -1).requires_grad_()
    seen = [x.view_as(x) if views else x for _ in rows]
    losses = []
    for value, row, view in zip(values, rows, seen, strict=True):
        losses.append(value + ((view - x.detach()).flatten() * row).sum())
    return torch.stack(losses), x, seen if views else x


def weigh(strategy, values=VALUES, rows=ROWS, **options):
    """One batch: what the strategy returns, the losses and the shared tensor."""
    losses, x, shared = losses_of(values, rows, **options)
    return strategy(losses, losses.detach(), shared), losses, x


def objective(weighted):
    value = weighted.terms.sum()
    return value if weighted.extra is None else value + weighted.extra


def floats(low, high):
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def numbers(draw, num, low, high):
    """``num`` floats in a range."""
    return draw(st.lists(floats(low, high), min_size=num, max_size=num))


@st.composite
def batches(draw, low=0.0, high=10.0):
    """How many losses, and their values."""
    num = draw(st.integers(1, 6))
    return num, draw(numbers(num, low, high))


def assert_close(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-10, atol=1e-10)
