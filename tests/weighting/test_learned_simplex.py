import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.weighting import LearnedSimplex
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import (
    assert_close,
    batches,
    bound,
    floats,
    names_of,
    numbers,
    weigh,
)


@given(st.data(), batches(-10.0), floats(0.0, 0.999))
def test_value_and_gradient_agree_with_the_equation(data, batch, share):
    num, values = batch
    floor = share / num
    strategy = bound(LearnedSimplex(floor=floor), num)
    a = data.draw(numbers(num, -8.0, 8.0))
    with torch.no_grad():
        strategy.logits.copy_(torch.tensor(a))
    weighted, losses, _ = weigh(strategy, values, [[1.0, 2.0]] * num)
    expected = oracle.simplex_weights(strategy.logits.tolist(), floor)
    assert_close(strategy.weights(), expected)
    assert_close(weighted.terms, [w * v for w, v in zip(expected, values, strict=True)])
    at_a, at_losses = torch.autograd.grad(weighted.terms.sum(), [strategy.logits, losses])
    assert_close(at_a, oracle.simplex_gradient(strategy.logits.tolist(), floor, values))
    assert_close(at_losses, expected)


@given(st.data(), st.integers(1, 6))
def test_starts_at_the_prior(data, num):
    prior = data.draw(numbers(num, 1.0, 4.0))  # at least 1 / (1 + 4 (m - 1)) of the sum
    strategy = bound(LearnedSimplex(prior=prior), num, double=False)
    expected = torch.tensor(prior) / sum(prior)
    torch.testing.assert_close(strategy.weights(), expected, rtol=2e-6, atol=0)
    start = (4 / 3 * (expected - 1 / (4 * num))).log()  # log((p - alpha) / (1 - m alpha))
    torch.testing.assert_close(strategy.logits.detach(), start, rtol=1e-5, atol=1e-5)


def test_starts_uniform_without_prior():
    for num in range(1, 6):
        strategy = bound(LearnedSimplex(), num, double=False)
        torch.testing.assert_close(strategy.weights(), torch.full((num,), 1 / num))


def test_prior_by_name_is_put_in_order():
    strategy = LearnedSimplex(prior={"b": 3.0, "a": 1.0})
    strategy.bind(["a", "b"])
    torch.testing.assert_close(strategy.weights(), torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize("floor", [None, 0.0, 0.3])
def test_one_loss_keeps_its_value(floor):
    strategy = bound(LearnedSimplex(floor=floor), 1)
    weighted, losses, _ = weigh(strategy, [1.7], [[1.0, 2.0]])
    torch.testing.assert_close(weighted.terms, losses, rtol=1e-15, atol=0)


def test_equal_losses_leave_the_weights_alone():
    strategy = bound(LearnedSimplex(prior=[1, 2, 3]), 3)
    weighted, _, _ = weigh(strategy, [1.3] * 3)
    (at_a,) = torch.autograd.grad(weighted.terms.sum(), strategy.logits)
    torch.testing.assert_close(at_a, torch.zeros_like(at_a), rtol=0, atol=1e-15)


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_constant_unequal_losses_end_at_the_vertex_of_the_smallest(num):
    strategy = bound(LearnedSimplex(prior=range(4, 4 + num)), num, double=False)
    optimizer = torch.optim.Adam(strategy.parameters(), lr=0.1)
    values = [1.0 + 0.3 * ((j + 1) % num) for j in range(num)]  # smallest: the last
    rows = [[1.0, 2.0]] * num
    floor = torch.tensor(1 / (4 * num))
    for _ in range(400):
        optimizer.zero_grad()
        weigh(strategy, values, rows, dtype=torch.float32)[0].terms.sum().backward()
        optimizer.step()
        weights = strategy.weights()
        assert (weights >= floor).all()
        assert abs(weights.sum().item() - 1) < 5e-7
    expected = [1 / (4 * num)] * (num - 1) + [(3 * num + 1) / (4 * num)]
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=0, atol=1e-3)


def test_a_weight_near_the_floor_comes_back():
    strategy = bound(LearnedSimplex(), 2)
    with torch.no_grad():
        strategy.logits.copy_(torch.tensor([0.0, -6.0]))
    start = strategy.weights()
    optimizer = torch.optim.SGD(strategy.parameters(), lr=5.0)
    for _ in range(500):
        optimizer.zero_grad()
        weigh(strategy, [2.0, 1.0], [[1.0, 2.0]] * 2)[0].terms.sum().backward()
        optimizer.step()
    assert start[1] < 0.128
    assert strategy.weights()[1] > 0.87


@pytest.mark.parametrize(
    ("options", "num", "message"),
    [
        ({"prior": [20, 1, 1, 1]}, 4, r"prior: expected shares of the sum above the floor 0\.0625;"
         r" got \[0\.8696, 0\.0435, 0\.0435, 0\.0435\]\. Raise"),
        ({"prior": [7, 1]}, 2, r"above the floor 0\.125; got \[0\.875, 0\.125\]"),
        ({"prior": [1, 0]}, 2, "prior: expected a finite number > 0; got 0"),
        ({"prior": [1, 1, 1]}, 2, "prior: expected 2 entries, one a loss; got 3"),
        ({"prior": {"a": 1, "b": 1}}, 2, "prior: expected the names"),
        ({"floor": 0.5}, 2, r"floor: expected less than 1/m = 0\.5 with m = 2 losses; got 0\.5"),
        ({"floor": -0.1}, 2, r"floor: expected a finite number >= 0; got -0\.1"),
    ],
)  # fmt: skip
def test_refuses_what_leaves_no_start(options, num, message):
    with pytest.raises(ValueError, match=message):
        LearnedSimplex(**options).bind(names_of(num))
