import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional.tiles import (
    in_parts,
    lines_at_a_time,
    parts_of_items,
    parts_of_rows,
    same_class_pairs,
    upper_tiles,
)
from tests.strategies import labels

counts = st.lists(st.integers(0, 4), min_size=1, max_size=7)


def starts_of(count):
    return [0, *torch.tensor(count).cumsum(0).tolist()]


@given(st.data(), st.booleans())
def test_pairs_of_a_class_are_those_of_its_mask(data, without_self):
    y = data.draw(labels(data.draw(st.integers(1, 8))))
    ref = y if without_self else data.draw(labels(data.draw(st.integers(1, 8))))
    mask = y[:, None] == ref
    if without_self:
        mask.fill_diagonal_(False)
    i, j, starts, *_ = same_class_pairs(y, ref, without_self=without_self)
    assert torch.equal(torch.stack([i, j]), torch.stack(mask.nonzero(as_tuple=True)))
    assert starts == starts_of(mask.sum(1).tolist())


@pytest.mark.parametrize("same", [True, False])
def test_codes_are_equal_where_labels_are_and_outlive_them(same):
    y = torch.tensor([3.0, torch.nan, 1.0, 3.0, torch.nan])
    ref = y if same else torch.tensor([torch.nan, 3.0])
    i, j, _, code, ref_code = same_class_pairs(y, ref, without_self=False)
    alike = torch.stack((code[:, None] == ref_code).nonzero(as_tuple=True))
    y.zero_()
    assert torch.equal(alike, torch.stack([i, j]))
    expected = [0, 0, 1, 2, 3, 3, 4] if same else [0, 3]
    assert i.tolist() == expected


def test_labels_of_nan_have_no_pair_with_another():
    y = torch.tensor([3.0, torch.nan, 3.0, torch.nan])
    i, j, starts, *_ = same_class_pairs(y, y, without_self=True)
    assert (i.tolist(), j.tolist(), starts) == ([0, 2], [2, 0], [0, 1, 1, 2, 2])


def test_labels_of_two_types_compare_by_value():
    i, j, *_ = same_class_pairs(
        torch.tensor([2, 1]), torch.tensor([1, 2, 2], dtype=torch.int32), without_self=False
    )
    assert i.tolist() == [0, 0, 1]
    assert j.tolist() == [1, 2, 0]


@given(counts, st.integers(1, 9))
def test_parts_cover_every_item_once_within_its_rows(count, lines):
    starts = starts_of(count)
    owner = torch.repeat_interleave(torch.tensor(count))
    for cut in (parts_of_rows(starts, lines), parts_of_items(starts, lines)):
        covered = [t for part in cut for t in range(part.items.start, part.items.stop)]
        assert covered == list(range(starts[-1]))
        for part in cut:
            rows = owner[part.items]
            assert (rows >= part.rows.start).all()
            assert (rows < part.rows.stop).all()


@given(counts, st.integers(1, 9))
def test_parts_are_no_larger_than_asked(count, lines):
    starts = starts_of(count)
    assert all(p.rows.stop - p.rows.start <= lines for p in parts_of_rows(starts, lines))
    assert all(p.items.stop - p.items.start <= lines for p in parts_of_items(starts, lines))
    for part in parts_of_items(starts, lines):
        assert starts[part.rows.start] <= part.items.start < starts[part.rows.start + 1]
        assert starts[part.rows.stop - 1] < part.items.stop <= starts[part.rows.stop]


def block(x, y, part):
    row = torch.repeat_interleave(torch.tensor([2, 0, 3, 1]))[part.items] - part.rows.start
    nth = torch.arange(6)[part.items]
    return (x @ y.T).sin()[row, nth % 5] * (nth + 1)


@pytest.mark.parametrize("cut", [parts_of_rows, parts_of_items])
@pytest.mark.parametrize("lines", [1, 2, 4])
@pytest.mark.parametrize("same", [True, False])
def test_parts_give_value_and_gradient_of_the_whole(cut, lines, same):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.cat([x, x[:1]]) if same else torch.randn(5, 3).double().requires_grad_()
    leaves = [x] if same else [x, y]
    (whole,) = parts_of_rows([0, 2, 2, 5, 6], 9)
    values = block(x, y, whole), in_parts(block, x, y, cut([0, 2, 2, 5, 6], lines))
    torch.testing.assert_close(*values)
    upstream = torch.rand(6, dtype=torch.float64)
    for mine, other in zip(
        *(torch.autograd.grad(v, leaves, upstream) for v in values), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("which", [0, 1])
def test_one_side_alone_may_have_a_gradient(which):
    sides = [torch.randn(4, 3), torch.randn(5, 3)]
    sides[which].requires_grad_()
    loss = in_parts(block, *sides, parts_of_rows([0, 2, 2, 5, 6], 2))
    whole = block(*sides, parts_of_rows([0, 2, 2, 5, 6], 4)[0])
    grads = [torch.autograd.grad(v.sum(), sides[which])[0] for v in (loss, whole)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("lines", [1, 2])
def test_parts_may_be_differentiated_twice(lines):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    parts = parts_of_rows([0, 2, 2, 5, 6], lines)
    assert torch.autograd.gradgradcheck(lambda a, b: in_parts(block, a, b, parts), (x, y))
    assert torch.autograd.gradgradcheck(
        lambda a: in_parts(block, a, torch.cat([a, a[:1]]), parts), (x,)
    )
    assert torch.autograd.gradgradcheck(lambda a: in_parts(block, a, y.detach(), parts), (x,))


def test_lines_are_chosen_by_size_unless_given():
    cpu = torch.device("cpu")
    assert lines_at_a_time(7, 10, cpu) == 7
    assert lines_at_a_time(None, 2**19, cpu) == 1
    assert lines_at_a_time(None, 2**40, cpu) == 1
    assert lines_at_a_time(None, 512, cpu) == 1024
    assert lines_at_a_time(None, 512, torch.device("cuda")) > 1024


def test_rows_compared_with_themselves_may_be_differentiated_twice():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    parts = parts_of_rows([0, 2, 2, 5, 6, 6], 2)
    assert torch.autograd.gradgradcheck(lambda a: in_parts(block, a, a, parts), (x,))
    loss = in_parts(block, x, x, parts).sum()
    first = [
        torch.autograd.grad(loss, x, create_graph=bool(c), retain_graph=True)[0] for c in (0, 1)
    ]
    torch.testing.assert_close(*first)


@pytest.mark.parametrize("lines", [1, 2, 9])
def test_rows_without_items_may_stand_first_and_last(lines):
    """As the first rows of a batch do that are alone in their class."""
    starts = [0, 0, 0, 2, 3, 3]
    i, j = torch.tensor([2, 2, 3]), torch.tensor([1, 0, 4])
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.float64)

    def products(rows, cols, part):
        return (rows[i[part.items] - part.rows.start] * cols[j[part.items]]).sum(dim=1)

    for cut in (parts_of_rows, parts_of_items):
        values = in_parts(products, x, y, cut(starts, lines))
        expected = (x[i] * y[j]).sum(dim=1)
        torch.testing.assert_close(values, expected)
        grads = [torch.autograd.grad(v.sum(), x)[0] for v in (values, expected)]
        torch.testing.assert_close(*grads)


@given(st.integers(0, 12), st.integers(1, 13))
def test_tiles_of_a_symmetric_matrix_hold_each_unordered_pair_once(size, lines):
    seen = torch.zeros(size, size, dtype=torch.int64)
    for rows, cols in upper_tiles(size, lines):
        assert rows.stop - rows.start <= lines
        seen[rows, cols] += 1
    assert torch.equal(seen.triu(), torch.ones(size, size).triu().long())


def test_no_items_are_an_attached_nothing():
    x = torch.randn(3, 2, requires_grad=True)
    values = in_parts(block, x, x, parts_of_items([0, 0, 0, 0], 9))
    assert values.shape == (0,)
    assert (torch.autograd.grad(values.sum(), x)[0] == 0).all()
