import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional.relation import (
    masks_of_rows,
    related_log_negatives,
    related_pairs,
    relation_masks,
)
from tests.oracles import relation as oracle
from tests.oracles.lifted_structure import log_sum_exp

LINES = st.integers(1, 7)
SCORES = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)


def ready(relation, _):
    return relation


@st.composite
def tables(draw, *, square):
    num = draw(st.integers(1, 6))
    num_ref = num if square else draw(st.integers(1, 7))
    row = st.lists(st.sampled_from((1, 0, -1)), min_size=num_ref, max_size=num_ref)
    return torch.tensor(draw(st.lists(row, min_size=num, max_size=num)), dtype=torch.int8)


def pairs_of(mask):
    return list(map(tuple, mask.nonzero().tolist()))


def paired(*sides):
    return list(zip(*sides, strict=True))


@given(tables(square=True), st.integers(0, 5))
def test_rows_from_any_position_on_leave_themselves_out(table, start):
    start = min(start, len(table) - 1)
    positive, negative = relation_masks(ready, table[start:], table, start=start)
    a1, p, a2, n = oracle.listed(table.tolist(), same=True)
    assert pairs_of(positive) == [(i - start, j) for i, j in paired(a1, p) if i >= start]
    assert pairs_of(negative) == [(i - start, j) for i, j in paired(a2, n) if i >= start]


@given(tables(square=True), LINES, st.sampled_from((None, False, True)))
def test_positive_pairs_are_listed_whatever_is_asked_at_a_time(table, lines, own):
    found = related_pairs(ready, table, table, own=own, lines=lines)
    a1, p, a2, n = oracle.listed(table.tolist(), same=own is not None)
    itself = [(i, i) for i in range(len(table))] if own else []
    expected = sorted(paired(a1, p) + itself)
    assert paired(found.i.tolist(), found.j.tolist()) == expected
    assert found.starts == [sum(i < row for i, _ in expected) for row in range(len(table) + 1)]
    assert pairs_of(found.negative(slice(0, len(table)))) == paired(a2, n)


@given(st.data(), LINES, st.booleans())
def test_negatives_are_summed_by_rows_and_by_columns(data, lines, same):
    table = data.draw(tables(square=same))
    x = SCORES[: len(table), None].clone().requires_grad_()
    y = x if same else SCORES.flip(0)[: table.shape[1], None].clone().requires_grad_()
    masks = masks_of_rows(ready, table, table.T, own=False if same else None)
    found = related_log_negatives(lambda a, b: 9 * a @ b.T, x, y, masks, lines=lines)
    _, _, a2, n = oracle.listed(table.tolist(), same=same)
    for side, num, own, sums in zip((0, 1), table.shape, (a2, n), found, strict=True):
        if same and side == 1:
            assert sums is found[0]
            break
        for row in range(num):
            terms = [9 * x[i, 0] * y[j, 0] for i, j, at in paired(a2, n, own) if at == row]
            if not terms:
                assert sums[row] == -torch.inf
                assert not any(g.any() for g in gradients(sums[row], x, y))
                continue
            expected = log_sum_exp(terms)
            torch.testing.assert_close(sums[row], expected, rtol=1e-12, atol=1e-12)
            wanted = gradients(expected, x, y)
            torch.testing.assert_close(gradients(sums[row], x, y), wanted, rtol=1e-10, atol=1e-10)


def gradients(value, *leaves):
    return torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True)


def test_no_rows_have_no_pairs():
    nothing = torch.zeros(0, 3, dtype=torch.bool)
    found = related_pairs(ready, nothing, nothing.T, own=None, lines=4)
    assert (len(found.i), len(found.j), found.starts) == (0, 0, [0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int64])
def test_one_is_positive_and_zero_negative_in_every_type(dtype):
    table = torch.tensor([[1, 0]], dtype=dtype)
    masks = relation_masks(ready, table, table.T)
    assert torch.equal(torch.cat(masks).int(), torch.tensor([[1, 0], [0, 1]], dtype=torch.int32))
