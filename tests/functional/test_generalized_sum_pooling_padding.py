"""Locations that only pad are as good as not there."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pml_extras.functional import sum_pooling_plan, sum_pooling_weights
from pml_extras.functional.masked import mean_of_valid
from tests.oracles import generalized_sum_pooling as oracle

EXACT = {"rtol": 0, "atol": 1e-12}


@st.composite
def padded(draw):
    """(B, m, n) costs and (B, n) masks with a True in each row, anywhere in it."""
    num, m, n = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    cost = draw(st.lists(st.floats(-1, 2), min_size=num * m * n, max_size=num * m * n))
    rows = st.lists(st.booleans(), min_size=n, max_size=n).filter(any)
    valid = draw(st.lists(rows, min_size=num, max_size=num))
    return torch.tensor(cost, dtype=torch.float64).reshape(num, m, n), torch.tensor(valid)


def some_loss(p, z):
    """Of both, with another gradient everywhere."""
    return (p * torch.arange(1, 1 + p.shape[-1])).square().sum() + (
        z * torch.arange(2, 2 + z.shape[-1])
    ).square().sum()


@given(padded(), st.one_of(st.floats(0.01, 0.99), st.just(1.0)), st.floats(0.1, 30))
def test_each_row_is_as_it_would_be_alone_without_padding(batch, mass, sharpness):
    cost, valid = batch
    options = {"mass": mass, "sharpness": sharpness}
    cost.requires_grad_()
    p, z = sum_pooling_weights(cost, **options, valid=valid)
    plan = sum_pooling_plan(cost, **options, valid=valid)
    grad = torch.autograd.grad(
        sum(some_loss(row[kept], z_row) for row, kept, z_row in zip(p, valid, z, strict=True)),
        cost,
    )[0]
    for b, kept in enumerate(valid):
        alone = cost[b : b + 1, :, kept].detach().requires_grad_()
        p_alone, z_alone = sum_pooling_weights(alone, **options)
        torch.testing.assert_close(p[b, kept], p_alone[0], **EXACT)
        torch.testing.assert_close(z[b], z_alone[0], **EXACT)
        torch.testing.assert_close(plan[b][:, kept], sum_pooling_plan(alone, **options)[0], **EXACT)
        expected = torch.autograd.grad(some_loss(p_alone[0], z_alone[0]), alone)[0][0]
        torch.testing.assert_close(grad[b][:, kept], expected, rtol=1e-9, atol=1e-10)
    assert not p[~valid].any()
    assert not plan.transpose(1, 2)[~valid].any()
    assert not grad.transpose(1, 2)[~valid].any()


def test_a_padded_row_agrees_with_the_iteration_of_the_released_code():
    cost = 2 * torch.rand(1, 4, 6, dtype=torch.float64)
    valid = torch.tensor([[True, False, True, True, False, True]])
    p, z = sum_pooling_weights(cost, mass=0.4, sharpness=3.0, valid=valid)
    plan, residual = oracle.transport(cost[0][:, valid[0]].tolist(), 0.4, 3.0, iterations=1000)
    expected_p, expected_z = oracle.weights(plan, residual, 0.4)
    torch.testing.assert_close(p[valid], p.new_tensor(expected_p), **EXACT)
    torch.testing.assert_close(z[0], z.new_tensor(expected_z), **EXACT)


def test_whatever_stands_in_the_padding_changes_nothing():
    cost = 2 * torch.rand(2, 3, 5, dtype=torch.float64)
    valid = torch.tensor([[True, True, True, False, False], [True, False, True, False, True]])
    results = []
    for padding in (0.0, -1e30, math.inf, math.nan):
        leaf = cost.masked_fill(~valid[:, None], padding).requires_grad_()
        sharpness = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        p, z = sum_pooling_weights(leaf, mass=0.3, sharpness=sharpness, valid=valid)
        plan = sum_pooling_plan(leaf, mass=0.3, sharpness=5.0, valid=valid)
        results.append((p, z, plan, *torch.autograd.grad(some_loss(p, z), (leaf, sharpness))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_of_padded_costs_mass_and_sharpness_are_those_of_differences():
    cost = 2 * torch.rand(2, 3, 5, dtype=torch.float64)
    valid = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])

    def weights(cost, mass, sharpness):
        return sum_pooling_weights(cost, mass=mass, sharpness=sharpness, valid=valid)

    scalars = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, 5.0))
    assert gradcheck(weights, (cost.requires_grad_(), *scalars))


@pytest.mark.parametrize("mass", [0.3, 1.0])
def test_a_row_without_any_location_is_zero_and_spoils_no_other(mass):
    cost = 2 * torch.rand(2, 3, 4, dtype=torch.float64)
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    leaf = cost.clone().requires_grad_()
    sharpness = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    p, z = sum_pooling_weights(leaf, mass=mass, sharpness=sharpness, valid=valid)
    assert not p[1].any()
    assert not z[1].any()
    grads = torch.autograd.grad(some_loss(p, z), (leaf, sharpness))
    alone = cost[:1].clone().requires_grad_()
    p, z = sum_pooling_weights(alone, mass=mass, sharpness=sharpness, valid=valid[:1])
    expected = torch.autograd.grad(some_loss(p, z), (alone, sharpness))
    torch.testing.assert_close(grads[0][:1], expected[0], **EXACT)
    torch.testing.assert_close(grads[1], expected[1], **EXACT)
    assert not grads[0][1].any()


@pytest.mark.parametrize(
    "valid", [torch.ones(2, 4), torch.ones(2, 3).bool(), torch.ones(1, 4).bool(), [[True] * 4] * 2]
)
def test_what_is_no_mask_of_the_locations_is_refused(valid):
    with pytest.raises(ValueError, match=r"^valid: expected bool \(2, 4\), True where a location"):
        sum_pooling_weights(torch.zeros(2, 3, 4), mass=0.3, sharpness=5.0, valid=valid)


def test_the_mean_of_none_is_zero_with_gradient_zero_and_padding_has_no_part():
    x = torch.tensor([[[1.0, 5.0], [2.0, 3.0]], [[math.inf, 1.0], [4.0, 8.0]], [[1.0, 1.0]] * 2])
    x.requires_grad_()
    valid = torch.tensor([[True, True], [False, True], [False, False]])
    mean = mean_of_valid(x, valid)
    assert torch.equal(mean, torch.tensor([[1.5, 4.0], [4.0, 8.0], [0.0, 0.0]]))
    mean.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[:, :, 0], torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(mean_of_valid(x[:1], None), mean[:1])


@pytest.mark.parametrize("level", [1e7, -1e7])
def test_costs_far_from_zero_lose_no_digits_to_the_padding(level):
    cost = level + torch.rand(1, 3, 6, dtype=torch.float64)
    kept = torch.tensor([True, True, False, True, True, False])
    results = []
    for given_cost, valid in ((cost, kept[None]), (cost[:, :, kept], None)):
        leaf = given_cost.clone().requires_grad_()
        sharpness = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
        p, z = sum_pooling_weights(leaf, mass=0.3, sharpness=sharpness, valid=valid)
        p = p if valid is None else p[:, kept]
        by_cost, by_sharpness = torch.autograd.grad(some_loss(p, z), (leaf, sharpness))
        by_cost = by_cost if valid is None else by_cost[:, :, kept]
        results.append((p, z, by_cost, by_sharpness))
    torch.testing.assert_close(*results, **EXACT)


def test_a_mask_takes_no_copy_of_the_costs():
    cost = torch.rand(2, 3, 5, requires_grad=True)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x), lambda x: x):
        sum_pooling_weights(cost, mass=0.3, sharpness=5.0, valid=torch.ones(2, 5).bool())
    assert {x.data_ptr() for x in held if x.shape == cost.shape} == {cost.data_ptr()}
