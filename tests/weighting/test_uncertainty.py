import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.weighting import HomoscedasticUncertainty, NonNegativeUncertainty
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import (
    assert_close,
    batches,
    bound,
    names_of,
    numbers,
    objective,
    weigh,
)

KINDS = ("regression", "classification")


def at(strategy, s):
    with torch.no_grad():
        strategy.log_variances.copy_(torch.tensor(s, dtype=torch.float64))
    return strategy


@given(st.data(), batches())
def test_value_and_gradient_agree_with_the_equation(data, batch):
    num, values = batch
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=num, max_size=num))
    s = data.draw(numbers(num, -4.0, 4.0))
    strategy = at(bound(HomoscedasticUncertainty(kinds), num), s)
    weighted, losses, _ = weigh(strategy, values, [[1.0, 2.0]] * num)
    terms, regularizer, at_s = oracle.uncertainty(s, kinds, values)
    assert_close(weighted.terms, terms)
    assert_close(weighted.extra, regularizer)
    grad_s, grad_losses = torch.autograd.grad(objective(weighted), [strategy.log_variances, losses])
    assert_close(grad_s, at_s)
    assert_close(grad_losses, strategy.weights())
    assert_close(strategy.weights() * losses, terms)


@given(st.data(), batches())
def test_non_negative_value_and_gradient_agree_with_the_equation(data, batch):
    num, values = batch
    s = data.draw(numbers(num, -4.0, 4.0))
    strategy = at(bound(NonNegativeUncertainty(), num), s)
    weighted, losses, _ = weigh(strategy, values, [[1.0, 2.0]] * num)
    terms, regularizer, at_s = oracle.non_negative_uncertainty(s, values)
    assert_close(weighted.terms, terms)
    assert_close(weighted.extra, regularizer)
    assert objective(weighted) >= 0
    grad_s, grad_losses = torch.autograd.grad(objective(weighted), [strategy.log_variances, losses])
    assert_close(grad_s, at_s)
    assert_close(grad_losses, strategy.weights())


def rested(strategy, values):
    """After gradient descent on s alone."""
    optimizer = torch.optim.SGD(strategy.parameters(), lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        objective(weigh(strategy, values, [[1.0, 2.0]] * len(values))[0]).backward()
        optimizer.step()
    return strategy


@pytest.mark.parametrize("kind", KINDS)
def test_rests_at_the_loss_or_twice_it_and_then_costs_the_log_losses(kind):
    values = [0.3, 2.7, 1.1]
    strategy = rested(bound(HomoscedasticUncertainty(kind), 3), values)
    factor = {"regression": 1, "classification": 2}[kind]
    assert_close(strategy.log_variances.exp(), [factor * v for v in values])
    weighted = weigh(strategy, values)[0]
    assert_close(weighted.terms, [0.5] * 3)
    assert_close(objective(weighted), sum(0.5 * (1 + math.log(factor * v)) for v in values))


def test_non_negative_rests_where_its_condition_says():
    values = [0.3, 2.7, 1.1]
    strategy = rested(bound(NonNegativeUncertainty(), 3), values)
    u = strategy.log_variances.exp()
    assert_close(2 * u.square(), torch.tensor(values, dtype=torch.float64) * (1 + u.detach()))


def test_the_unit_of_a_loss_has_no_influence_on_its_gradient_at_rest():
    strategy = rested(bound(HomoscedasticUncertainty(), 2), [0.02, 40.0])
    assert_close(strategy.weights() * torch.tensor([0.02, 40.0], dtype=torch.float64), [0.5] * 2)


@pytest.mark.parametrize("cls", [HomoscedasticUncertainty, NonNegativeUncertainty])
def test_a_loss_of_zero_stops_at_the_limit_and_comes_back(cls):
    strategy = bound(cls(), 2)
    optimizer = torch.optim.SGD(strategy.parameters(), lr=200.0)
    rows = [[1.0, 2.0]] * 2

    def step(values):
        optimizer.zero_grad()
        weighted = weigh(strategy, values, rows)[0]
        assert weighted.terms.isfinite().all()
        objective(weighted).backward()
        optimizer.step()
        return strategy.log_variances.detach().clone()

    for _ in range(2):
        far = step([0.0, 1e9])
    assert far[0] < -10 < 10 < far[1]
    torch.testing.assert_close(
        strategy.weights(), strategy._factors(torch.tensor([-10.0, 10.0], dtype=torch.float64))
    )
    stopped = step([0.0, 1e9])
    torch.testing.assert_close(stopped, far, rtol=0, atol=0)  # outwards: no gradient
    optimizer = torch.optim.SGD(strategy.parameters(), lr=1e-4)
    back = step([1.0, 0.0])
    assert back[0] > far[0]
    assert back[1] < far[1]


def test_kind_may_be_given_by_name():
    strategy = HomoscedasticUncertainty({"b": "classification", "a": "regression"}, initial=0.0)
    strategy.bind(["a", "b"])
    torch.testing.assert_close(strategy.weights(), torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize("cls", [HomoscedasticUncertainty, NonNegativeUncertainty])
def test_refuses_a_negative_loss_by_name(cls):
    strategy = bound(cls(), 2)
    message = f"losses: expected values >= 0, as {cls.__name__} needs; got -0.5 from 'loss_1'"
    with pytest.raises(ValueError, match=message):
        weigh(strategy, [1.0, -0.5], [[1.0, 2.0]] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ranking"}, "kind: expected one of 'regression', 'classification'; got 'rank"),
        ({"kind": ["regression", "x"]}, "kind: expected one of .* got 'x'"),
        ({"kind": ["regression"]}, "kind: expected 2 entries, one a loss; got 1"),
        ({"initial": 11.0}, r"initial: expected a number in \[-10, 10\]; got 11\.0"),
        ({"initial": float("nan")}, "initial: expected a finite number; got nan"),
    ],
)
def test_refuses_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        HomoscedasticUncertainty(**options).bind(names_of(2))
