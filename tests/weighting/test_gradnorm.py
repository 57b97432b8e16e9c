import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pml_extras.weighting import GradNorm
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import (
    ROWS,
    VALUES,
    assert_close,
    batches,
    bound,
    floats,
    losses_of,
    numbers,
    objective,
    weigh,
)

NORMS = torch.tensor([oracle.norm(row) for row in ROWS], dtype=torch.float64)


def at(strategy, a):
    with torch.no_grad():
        strategy.logits.copy_(torch.as_tensor(a, dtype=torch.float64))
    return strategy


@settings(max_examples=60)
@given(st.data(), batches(), floats(0.0, 3.0), st.booleans())
def test_value_and_gradient_agree_with_the_equation(data, batch, force, views):
    num, values = batch
    a = data.draw(numbers(num, -3.0, 3.0))
    first = data.draw(numbers(num, 0.1, 10.0))
    rows = [data.draw(numbers(4, -5.0, 5.0)) for _ in range(num)]
    norms = [oracle.norm(row) for row in rows]
    weights, extra, at_a, differences = oracle.gradnorm(a, norms, values, first, force)
    assume(num == 1 or min(map(abs, differences)) > 1e-9)  # of |d|, whose sign decides

    strategy = at(bound(GradNorm(restoring_force=force), num), a)
    weigh(strategy, first, rows)
    weighted, losses, x = weigh(strategy, values, rows, views=views)
    assert_close(strategy.first_losses, first)
    assert_close(strategy.weights(), weights)
    assert_close(weighted.terms, [w * v for w, v in zip(weights, values, strict=True)])
    assert_close(weighted.extra, extra)
    at_losses, at_logits = torch.autograd.grad(
        objective(weighted), [losses, strategy.logits], retain_graph=True
    )
    assert_close(at_losses, weights)  # the network sees fixed weights
    assert_close(at_logits, at_a)  # and the weights see L_grad alone
    assert torch.autograd.grad(weighted.extra, x, allow_unused=True) == (None,)


def rates_of(values, first):
    progress = torch.tensor(values, dtype=torch.float64) / torch.tensor(first, dtype=torch.float64)
    return progress / progress.mean()


@pytest.mark.parametrize(
    ("force", "values"),
    [(1.0, (0.5, 2.0, 1.0)), (0.0, (0.5, 2.0, 1.0)), (1.5, tuple(0.3 * v for v in VALUES))],
)
def test_at_equilibrium_weighted_norms_equal_their_targets(force, values):
    # Where the targets sum to the norms, w_j proportional to target_j / g_j meets all of them.
    target = rates_of(values, VALUES) ** force
    strategy = at(bound(GradNorm(restoring_force=force)), (target / NORMS).log())
    weigh(strategy)
    weighted, _, _ = weigh(strategy, values)
    assert_close(weighted.extra, 0.0)
    norms = strategy.weights() * NORMS
    assert_close(norms, norms.mean() * target)


def test_descent_leads_to_the_equilibrium():
    strategy = bound(GradNorm(restoring_force=1.0))
    weigh(strategy)
    values = (0.5, 2.0, 1.0)
    start = weigh(strategy, values)[0].extra.item()
    optimizer = torch.optim.SGD(strategy.parameters(), lr=1e-2)
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step / 100)
        optimizer.zero_grad()
        weigh(strategy, values)[0].extra.backward()
        optimizer.step()
        assert strategy.weights().sum().item() == pytest.approx(3, abs=1e-12)
    norms = strategy.weights() * NORMS
    target = norms.mean() * rates_of(values, VALUES)
    torch.testing.assert_close(norms, target, rtol=5e-3, atol=0)
    assert weigh(strategy, values)[0].extra < 1e-2 * start


def test_default_force_is_that_of_the_paper():
    weighted = []
    for strategy in (GradNorm(), GradNorm(restoring_force=1.5)):
        weigh(bound(strategy))
        weighted.append(weigh(strategy, (0.5, 2.0, 1.0))[0].extra)
    assert weighted[0] == weighted[1]


def test_rates_come_from_raw_values_and_norms_from_scaled_ones():
    strategy = bound(GradNorm())
    raw = torch.tensor(VALUES, dtype=torch.float64)
    scaled, _, x = losses_of((5.0, 6.0, 7.0))
    strategy(scaled, raw, x)
    scaled, _, x = losses_of((3.0, 3.0, 3.0))
    weighted = strategy(scaled, raw * torch.tensor([0.5, 2.0, 1.0]), x)
    later = [v * k for v, k in zip(VALUES, (0.5, 2.0, 1.0), strict=True)]
    _, extra, _, _ = oracle.gradnorm([0.0] * 3, NORMS.tolist(), later, VALUES, 1.5)
    assert_close(strategy.first_losses, VALUES)
    assert_close(weighted.extra, extra)


def test_first_values_are_the_first_that_are_not_zero():
    strategy = bound(GradNorm())
    for values, expected in [
        ((0.0, 2.0, 0.0), (0.0, 2.0, 0.0)),
        ((3.0, 9.0, 0.0), (3.0, 2.0, 0.0)),
        ((8.0, 9.0, 5.0), (3.0, 2.0, 5.0)),
    ]:
        weighted = weigh(strategy, values)[0]
        assert_close(strategy.first_losses, expected)
        _, extra, at_a, _ = oracle.gradnorm([0.0] * 3, NORMS.tolist(), values, expected, 1.5)
        assert_close(weighted.extra, extra)
        (grad,) = torch.autograd.grad(weighted.extra, strategy.logits)
        assert_close(grad, at_a)


def test_when_all_losses_reach_zero_all_rates_are_equal():
    strategy = bound(GradNorm())
    weigh(strategy)
    weighted = weigh(strategy, (0.0, 0.0, 0.0))[0]
    assert_close(weighted.extra, (NORMS - NORMS.mean()).abs().sum().item())


def test_a_rise_from_almost_nothing_stays_finite():
    strategy = bound(GradNorm(), double=False)
    weigh(strategy, (1e-38, 1.0, 1.0), dtype=torch.float32)
    weighted = weigh(strategy, (1e5, 1.0, 1.0), dtype=torch.float32)[0]
    assert weighted.extra.isfinite()


def test_losses_without_gradient_leave_the_weights_alone():
    strategy = bound(GradNorm())
    weighted = weigh(strategy, rows=((0.0,) * 4,) * 3)[0]
    (grad,) = torch.autograd.grad(weighted.extra, strategy.logits)
    assert_close(grad, [0.0] * 3)


def test_evaluation_remembers_nothing_and_adds_nothing():
    strategy = bound(GradNorm()).eval()
    weighted = weigh(strategy, (1.0, -1.0, 2.0))[0]
    assert weighted.extra == 0
    (grad,) = torch.autograd.grad(weighted.extra, strategy.logits)
    assert_close(grad, [0.0] * 3)
    assert_close(strategy.first_losses, [0.0] * 3)


def test_refuses_a_negative_loss_by_name_and_a_negative_force():
    strategy = bound(GradNorm())
    message = r"losses: expected values >= 0, as GradNorm needs; got -1\.0 from 'loss_1'"
    with pytest.raises(ValueError, match=message):
        weigh(strategy, (1.0, -1.0, 2.0))
    assert_close(strategy.first_losses, [0.0] * 3)
    with pytest.raises(ValueError, match=r"restoring_force: expected a finite number >= 0; got -1"):
        GradNorm(restoring_force=-1)
