import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional import farthest_first
from tests.strategies import rows


def greedy(points, num, cover):
    """One row after the other; the first of those that are farthest."""

    def gap(i, centres):
        return min(sum((a - b) ** 2 for a, b in zip(points[i], c, strict=True)) for c in centres)

    picked = []
    for _ in range(num):
        left = [i for i in range(len(points)) if i not in picked]
        centres = [*cover, *(points[i] for i in picked)]
        picked.append(max(left, key=lambda i: gap(i, centres)) if centres else 0)
    return picked


@st.composite
def sets(draw):
    num, size = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    points = draw(rows(num, size))
    cover = draw(rows(draw(st.integers(1, 3)), size)) if draw(st.booleans()) else None
    return points, draw(st.integers(0, num)), cover


@given(sets())
def test_each_row_is_the_farthest_from_the_cover_and_those_before(drawn):
    points, num, cover = drawn
    expected = greedy(points.tolist(), num, [] if cover is None else cover.tolist())
    assert farthest_first(points, num, cover=cover).tolist() == expected


def test_equal_rows_are_picked_in_order_and_none_twice():
    assert farthest_first(torch.ones(5, 2), 5).tolist() == [0, 1, 2, 3, 4]
    rows = torch.tensor([[0.0], [1.0], [-1.0], [1.0]])
    assert farthest_first(rows, 4).tolist() == [0, 1, 2, 3]


def test_a_cover_is_never_picked_but_counts():
    rows = torch.tensor([[0.0], [10.0], [4.0]])
    assert farthest_first(rows, 2, cover=torch.tensor([[10.0], [9.0]])).tolist() == [0, 2]
    assert farthest_first(rows, 2).tolist() == [0, 1]


def test_half_rows_are_compared_in_float32():
    rows = torch.tensor([[0.0], [300.0], [-320.0]], dtype=torch.float16)  # squares overflow
    assert farthest_first(rows, 2).tolist() == [0, 2]


def test_bad_arguments_are_named():
    rows = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"^rows: expected a floating tensor"):
        farthest_first(torch.zeros(3), 1)
    with pytest.raises(ValueError, match=r"^num: expected at most 3, the number of `rows`; got 4"):
        farthest_first(rows, 4)
    with pytest.raises(ValueError, match=r"^num: expected an integer >= 0; got -1"):
        farthest_first(rows, -1)
    with pytest.raises(ValueError, match=r"^cover: expected \(K, 2\) with K > 0"):
        farthest_first(rows, 1, cover=torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"^cover: expected \(K, 2\) with K > 0"):
        farthest_first(rows, 1, cover=torch.zeros(1, 3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(bad):
    rows = torch.randn(4, 2)
    broken = rows.index_fill(0, torch.tensor(2), bad)
    with pytest.raises(ValueError, match=r"^rows: expected finite values"):
        farthest_first(broken, 2)
    with pytest.raises(ValueError, match=r"^cover: expected finite values"):
        farthest_first(rows, 2, cover=broken)
