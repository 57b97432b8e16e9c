from math import exp, log1p

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_extras.functional.binomial_deviance import binomial_deviance, mean_binomial_deviance
from tests.oracles import binomial_deviance as oracle
from tests.oracles.intra_batch_connections import derivative
from tests.strategies import rows

scales = st.sampled_from((0.5, 2.0, 25.0, 50.0))


@st.composite
def members_of(draw):
    """(sim, members): any similarities, any pairs, anchors without any among them."""
    num, num_ref = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    sim = draw(rows(num, num_ref))
    flags = draw(st.lists(st.booleans(), min_size=num * num_ref, max_size=num * num_ref))
    return sim, torch.tensor(flags).reshape(num, num_ref)


@settings(max_examples=60)
@given(members_of(), scales, st.sampled_from((0.5, -0.25)), st.sampled_from((-1, 1)))
def test_value_and_gradient_agree_with_the_equation(drawn, scale, threshold, sign):
    sim, members = drawn
    sim.requires_grad_()
    upstream = torch.linspace(0.5, 2.0, len(sim), dtype=torch.float64)

    def parts(matrix):
        kept = [
            [s for s, member in zip(row, flags, strict=True) if member]
            for row, flags in zip(matrix, members.tolist(), strict=True)
        ]
        return [oracle.mean(oracle.of_pairs(row, sign, scale, threshold)) for row in kept]

    def weighted(matrix):
        return sum(w * v for w, v in zip(upstream.tolist(), parts(matrix), strict=True))

    found = mean_binomial_deviance(sign * (sim - threshold), members, scale=scale)
    expected = sim.new_tensor([complex(v).real for v in parts(sim.tolist())])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (grad,) = torch.autograd.grad((upstream * found).sum(), sim)
    towards = torch.randn_like(sim)
    slope = derivative(weighted, sim.tolist(), towards.tolist())
    assert (grad * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10)


def test_anchor_without_pairs_costs_and_pulls_nothing():
    excess = torch.tensor([[3.0, 1.0], [3.0, 1.0]], requires_grad=True)
    members = torch.tensor([[False, False], [False, True]])
    losses = mean_binomial_deviance(excess, members, scale=2.0)
    losses.sum().backward()
    assert losses[0] == 0
    assert losses[1].item() == pytest.approx(log1p(exp(2.0)))
    assert (excess.grad[:, 0] == 0).all()
    assert excess.grad[0, 1] == 0
    assert excess.grad[1, 1].item() == pytest.approx(2 / (1 + exp(-2.0)))


@pytest.mark.parametrize("exponent", [-700.0, -30.0, -1.0, 0.0, 19.0, 21.0, 30.0, 40.0])
def test_it_has_all_of_its_digits_at_any_exponent(exponent):
    excess = torch.tensor([exponent / 4], dtype=torch.float64, requires_grad=True)
    loss = binomial_deviance(excess, scale=4.0)
    loss.backward()
    expected = max(exponent, 0.0) + log1p(exp(-abs(exponent)))
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    slope = 4 * exp(exponent) / (1 + exp(exponent))
    assert excess.grad.item() == pytest.approx(slope, rel=1e-13)


def test_nothing_overflows():
    excess = torch.tensor([-1e6, 1e6], requires_grad=True)
    losses = binomial_deviance(excess, scale=25.0)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 25e6]
    assert excess.grad.tolist() == [0.0, 25.0]


def test_other_arguments_are_refused():
    excess, members = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^scale: expected a finite number > 0; got 0"):
        mean_binomial_deviance(excess, members, scale=0)
    with pytest.raises(ValueError, match=r"^scale: expected a finite number > 0; got -1.0"):
        binomial_deviance(excess, scale=-1.0)
    for other in (members[:, :2], members.long()):
        with pytest.raises(ValueError, match=r"^members: expected bool \(2, 3\), the shape of"):
            mean_binomial_deviance(excess, other, scale=1.0)
