import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.weighting import SquaredWeights
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import (
    assert_close,
    batches,
    bound,
    floats,
    names_of,
    numbers,
    objective,
    weigh,
)


@given(st.data(), batches(-10.0), floats(0.0, 0.999), floats(0.01, 100.0))
def test_value_and_gradient_agree_with_the_equation(data, batch, share, penalty):
    num, values = batch
    floor = share / num
    strategy = bound(SquaredWeights(floor=floor, penalty=penalty), num)
    with torch.no_grad():
        strategy.roots.copy_(torch.tensor(data.draw(numbers(num, -2.0, 2.0))))
    c = strategy.roots.tolist()
    weighted, losses, _ = weigh(strategy, values, [[1.0, 2.0]] * num)
    expected = oracle.squared_weights(c, floor)
    assert_close(strategy.weights(), expected)
    assert_close(weighted.terms, [w * v for w, v in zip(expected, values, strict=True)])
    assert_close(weighted.extra, oracle.sum_penalty(expected, penalty))
    at_c, at_losses = torch.autograd.grad(objective(weighted), [strategy.roots, losses])
    assert_close(at_c, oracle.squared_gradient(c, floor, penalty, values))
    assert_close(at_losses, expected)


@given(st.data(), st.integers(1, 6))
def test_starts_at_the_prior_without_penalty(data, num):
    prior = data.draw(numbers(num, 1.0, 4.0))
    strategy = bound(SquaredWeights(prior=prior), num, double=False)
    expected = torch.tensor(prior) / sum(prior)
    torch.testing.assert_close(strategy.weights(), expected, rtol=2e-6, atol=0)
    weighted, _, _ = weigh(strategy, [1.0] * num, [[1.0, 2.0]] * num, dtype=torch.float32)
    assert weighted.extra < 1e-8
    assert SquaredWeights.extra_name == "weight_sum_penalty"


def test_default_penalty_is_that_of_the_paper():
    strategy = bound(SquaredWeights(), 2)
    with torch.no_grad():
        strategy.roots.fill_(1.0)  # sum of weights 2 + 1/4
    assert_close(weigh(strategy, [1.0, 2.0], [[1.0, 2.0]] * 2)[0].extra, 1e4 * 1.25**2)


@pytest.mark.parametrize("num", [1, 3])
def test_the_sum_rests_where_the_penalty_meets_the_smallest_loss(num):
    penalty = 7.0
    strategy = bound(SquaredWeights(penalty=penalty), num)
    values = [1.5 + 0.4 * ((j + 1) % num) for j in range(num)]  # smallest: the last
    optimizer = torch.optim.SGD(strategy.parameters(), lr=0.02)
    for _ in range(3000):
        optimizer.zero_grad()
        objective(weigh(strategy, values, [[1.0, 2.0]] * num)[0]).backward()
        optimizer.step()
        assert (strategy.weights() >= 1 / (4 * num)).all()
    weights = strategy.weights()
    assert_close(weights.sum(), 1 - 1.5 / (2 * penalty))
    assert_close(weights[:-1], [1 / (4 * num)] * (num - 1))


def test_penalty_equals_its_formula_all_along_adam():
    strategy = bound(SquaredWeights(prior=[2, 1, 2, 3]), 4)
    optimizer = torch.optim.Adam(strategy.parameters(), lr=1e-3)
    rows = [[1.0, 2.0]] * 4
    for _ in range(300):
        optimizer.zero_grad()
        weighted, _, _ = weigh(strategy, [1.0, 1.2, 0.9, 1.1], rows)
        excess = strategy.weights().sum().item() - 1
        assert abs(excess) < 1e-2
        assert weighted.extra.item() == pytest.approx(1e4 * excess**2, rel=1e-9, abs=1e-12)
        objective(weighted).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": [20, 1, 1, 1]}, r"prior: expected shares of the sum above the floor 0\.0625"),
        ({"floor": 0.25}, r"floor: expected less than 1/m = 0\.25 with m = 4 losses; got 0\.25"),
        ({"floor": -1}, "floor: expected a finite number >= 0; got -1"),
        ({"penalty": 0.0}, r"penalty: expected a finite number > 0; got 0\.0"),
    ],
)
def test_refuses_what_leaves_no_start(options, message):
    with pytest.raises(ValueError, match=message):
        SquaredWeights(**options).bind(names_of(4))
