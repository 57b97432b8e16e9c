import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_extras.functional import minimum_norm_weights
from pml_extras.weighting import MultipleGradientDescent
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import (
    ROWS,
    VALUES,
    assert_close,
    bound,
    losses_of,
    numbers,
    weigh,
)


@st.composite
def gradient_rows(draw, low, high):
    """(m, 4) as lists, of lengths that differ by orders of magnitude."""
    num = draw(st.integers(low, high))
    rows = draw(st.lists(numbers(4, -3.0, 3.0), min_size=num, max_size=num))
    sizes = draw(st.lists(st.sampled_from((0.0, 0.1, 1.0, 10.0)), min_size=num, max_size=num))
    return [[s * v for v in row] for s, row in zip(sizes, rows, strict=True)]


def weights_for(rows, **options):
    rows = torch.tensor(rows, dtype=torch.float64)
    return minimum_norm_weights(rows @ rows.T, **options)


def diameter_squared(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    return (rows[:, None] - rows).square().sum(dim=2).max().item()


@given(gradient_rows(2, 2))
def test_two_vectors_have_a_closed_form(rows):
    w = weights_for(rows).tolist()
    value = oracle.squared_length(w, rows)
    rounding = 1e-12 * max(oracle.dot(g, g) for g in rows)
    if diameter_squared(rows) > 1e6 * rounding:
        assert w == pytest.approx(oracle.two_weights(*rows), rel=1e-8, abs=1e-8)
    assert value <= oracle.shortest_on_grid(rows, 50) + rounding
    assert value == pytest.approx(oracle.shortest(rows), rel=0, abs=10 * rounding)


@settings(max_examples=60)
@given(gradient_rows(3, 5))
def test_more_vectors_come_as_near_as_frank_wolfe_promises(rows):
    w = weights_for(rows)
    assert (w >= 0).all()
    assert_close(w.sum(), 1.0)
    excess = oracle.squared_length(w.tolist(), rows) - oracle.shortest(rows)
    smallest = min(oracle.dot(g, g) for g in rows)
    assert excess <= max(4 * diameter_squared(rows) / 252, 2e-6 * smallest) + 1e-12
    if len(rows) == 3:
        on_grid = oracle.shortest_on_grid(rows, 12)
        assert oracle.squared_length(w.tolist(), rows) <= on_grid + max(excess, 0) + 1e-12


def test_the_optimum_inside_the_simplex_has_equal_products():
    rows = torch.tensor(ROWS, dtype=torch.float64)
    w = weights_for(ROWS, tolerance=1e-14, max_steps=100_000)
    v = w @ rows
    assert (w > 0.05).all()
    torch.testing.assert_close(rows @ v, (v @ v).expand(3), rtol=1e-9, atol=0)
    assert_close(v @ v, oracle.shortest(ROWS))


def test_a_vector_that_only_helps_gets_no_weight():
    rows = [[1.0, 0.0], [0.0, 1.0], [4.0, 5.0]]
    w = weights_for(rows, tolerance=1e-12, max_steps=100_000)
    torch.testing.assert_close(w, torch.tensor([0.5, 0.5, 0.0]).double(), rtol=0, atol=1e-4)
    v = w @ torch.tensor(rows, dtype=torch.float64)
    products = torch.tensor(rows, dtype=torch.float64) @ v
    assert (products >= v @ v - 1e-4).all()
    assert products[2] > 4
    torch.testing.assert_close(products[:2], (v @ v).expand(2), rtol=1e-3, atol=0)


def test_steps_end_by_the_rule_or_by_the_count():
    rows = torch.tensor(ROWS, dtype=torch.float64)
    smallest = rows.square().sum(dim=1).min()

    def gap(**options):
        v = weights_for(ROWS, **options) @ rows
        return ((v @ v - rows @ v).max() / smallest).item()

    assert gap(tolerance=1e-3, max_steps=10_000) <= 1e-3
    assert gap(tolerance=1e-9, max_steps=10_000) <= 1e-9 < gap(tolerance=1e-3, max_steps=10_000)
    assert gap(max_steps=1) > 1e-2
    assert_close(weights_for(ROWS, tolerance=1e6), [1 / 3] * 3)


def test_one_step_is_the_line_search_towards_the_smallest_product():
    rows = [[1.0, 0.0], [3.0, 1.0], [2.0, -1.0]]
    # v = (2, 0), products (2, 6, 4): towards the first, gamma = (4 - 2) / (4 - 2 * 2 + 1) > 1
    assert_close(weights_for(rows, max_steps=1), [1.0, 0.0, 0.0])
    rows = [[-2.0, 0.0], [5.0, 1.0], [3.0, -1.0]]
    # v = (2, 0), products (-4, 10, 6): gamma = (4 + 4) / (4 + 8 + 4) = 1/2
    assert_close(weights_for(rows, max_steps=1), [2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize("num", [1, 2, 3, 4])
@pytest.mark.parametrize("row", [[0.0, 0.0], [2.0, -1.0]])
def test_equal_vectors_have_equal_weights(num, row):
    assert_close(weights_for([row] * num), [1 / num] * num)


def test_the_unit_of_the_vectors_has_no_influence():
    rows = (1e-4 * torch.tensor(ROWS, dtype=torch.float64)).tolist()
    assert_close(weights_for(rows), weights_for(ROWS))


@pytest.mark.parametrize("num", [2, 3])
def test_a_vector_of_zero_takes_all(num):
    w = weights_for([[0.0, 0.0], [1.0, 2.0], [2.0, 1.5]][:num])
    assert_close(w, [1.0, 0.0, 0.0][:num])


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("normalize", [None, "l2", "loss", "loss+"])
def test_network_sees_fixed_weights_of_the_normalised_gradients(normalize, views):
    strategy = bound(MultipleGradientDescent(normalize))
    weighted, _, x = weigh(strategy, views=views)
    divisors = {
        None: [1.0] * 3,
        "l2": [oracle.norm(row) for row in ROWS],
        "loss": VALUES,
        "loss+": [v * oracle.norm(row) for v, row in zip(VALUES, ROWS, strict=True)],
    }[normalize]
    rows = [[v / d for v in row] for d, row in zip(divisors, ROWS, strict=True)]
    expected = weights_for(rows)
    assert_close(strategy.weights(), expected)
    assert_close(weighted.terms, expected * torch.tensor(VALUES, dtype=torch.float64))
    (at_x,) = torch.autograd.grad(weighted.terms.sum(), x)
    assert_close(at_x.flatten(), expected @ torch.tensor(ROWS, dtype=torch.float64))


def test_a_step_lowers_every_loss():
    strategy = bound(MultipleGradientDescent())
    weighted, _, x = weigh(strategy)
    (v,) = torch.autograd.grad(weighted.terms.sum(), x)
    slopes = torch.tensor(ROWS, dtype=torch.float64) @ v.flatten()
    assert (slopes > 0.9 * v.square().sum()).all()


def test_small_gradients_are_favoured():
    strategy = bound(MultipleGradientDescent(), 2)
    weigh(strategy, [1.0, 1.0], [[1.0, 0.0], [0.0, 3.0]])
    assert_close(strategy.weights(), [0.9, 0.1])


def test_without_a_gradient_the_last_weights_stay():
    strategy = bound(MultipleGradientDescent(), 2)
    losses, x, _ = losses_of([1.0, 2.0], [[1.0, 0.0], [0.0, 3.0]])
    assert_close(strategy(losses, losses.detach(), None).terms, [0.5, 1.0])
    strategy(losses, losses.detach(), x)
    strategy.eval()
    other, y, _ = losses_of([1.0, 2.0], [[3.0, 0.0], [0.0, 1.0]])
    assert_close(strategy(other, other.detach(), y).terms, [0.9, 0.2])


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_a_loss_of_zero_divides_nothing_and_a_negative_one_is_refused(normalize):
    strategy = bound(MultipleGradientDescent(normalize), 2)
    weigh(strategy, [0.0, 2.0], [[1.0, 0.0], [0.0, 1.0]])
    assert_close(strategy.weights(), [0.2, 0.8])  # of gradients of length 1 and 1/2
    with pytest.raises(ValueError, match=r"values >= 0, as Mult.* got -1\.0 from 'loss_0'"):
        weigh(strategy, [-1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])


def test_negative_losses_are_welcome_without_division_by_them():
    strategy = bound(MultipleGradientDescent("l2"), 2)
    weigh(strategy, [-1.0, 1.0], [[2.0, 0.0], [0.0, 1.0]])
    assert_close(strategy.weights(), [0.5, 0.5])


def test_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match="normalize: expected one of 'l2', 'loss', 'loss\\+'; got"):
        MultipleGradientDescent("norm")
    with pytest.raises(
        ValueError, match=r"gram: expected a floating matrix of shape \(m, m\); got"
    ):
        minimum_norm_weights(torch.ones(2, 3))
    with pytest.raises(ValueError, match="tolerance: expected a finite number >= 0; got -1"):
        minimum_norm_weights(torch.eye(3), tolerance=-1)
    with pytest.raises(ValueError, match="max_steps: expected an integer >= 1; got 0"):
        minimum_norm_weights(torch.eye(3), max_steps=0)
