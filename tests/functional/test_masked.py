from math import exp, log

import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional.masked import (
    logaddexp_or_empty,
    masked_logsumexp,
    segment_logsumexp,
)

scores = st.floats(-700, 700)


def log_sum(terms):
    top = max(terms)
    return top + log(sum(exp(t - top) for t in terms))


@given(st.lists(st.tuples(scores, st.integers(0, 3)), max_size=12))
def test_segments_agree_with_the_definition(entries):
    values = torch.tensor([v for v, _ in entries], dtype=torch.float64, requires_grad=True)
    segment = torch.tensor([s for _, s in entries], dtype=torch.int64)
    actual = segment_logsumexp(values, segment, 4)
    members = [[v for v, s in entries if s == i] for i in range(4)]
    expected = torch.tensor([log_sum(m) if m else -torch.inf for m in members], dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    actual[~actual.isneginf()].sum().backward()
    softmax = [exp(v - expected[s].item()) for v, s in entries]
    torch.testing.assert_close(values.grad, torch.tensor(softmax, dtype=torch.float64))


@given(st.lists(st.lists(st.tuples(scores, st.booleans()), min_size=3, max_size=3), min_size=1))
def test_masked_rows_agree_with_the_definition(table):
    values = torch.tensor([[v for v, _ in row] for row in table], dtype=torch.float64)
    values.requires_grad_()
    mask = torch.tensor([[m for _, m in row] for row in table])
    actual = masked_logsumexp(values, mask)
    expected = [
        log_sum([v for v, m in row if m]) if any(m for _, m in row) else -torch.inf for row in table
    ]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    actual.masked_fill(actual.isneginf(), 0.0).sum().backward()
    softmax = [
        [exp(v - e) if m else 0.0 for v, m in row] for row, e in zip(table, expected, strict=True)
    ]
    torch.testing.assert_close(values.grad, torch.tensor(softmax, dtype=torch.float64))


def test_two_empty_sets_have_no_nan_in_the_gradient():
    a = torch.tensor([-torch.inf, -torch.inf, 0.0], requires_grad=True)
    b = torch.tensor([-torch.inf, 1.0, 0.0], requires_grad=True)
    joint = logaddexp_or_empty(a, b)
    torch.testing.assert_close(joint, torch.tensor([-torch.inf, 1.0, log(2)]))
    joint.masked_fill(joint.isneginf(), 0.0).sum().backward()
    torch.testing.assert_close(a.grad, torch.tensor([0.0, 0.0, 0.5]))
    torch.testing.assert_close(b.grad, torch.tensor([0.0, 1.0, 0.5]))


def test_no_columns_is_an_empty_row():
    x = torch.ones(2, 0, requires_grad=True)
    out = masked_logsumexp(x, torch.ones(2, 0, dtype=torch.bool))
    assert out.isneginf().all()
    assert out.requires_grad
