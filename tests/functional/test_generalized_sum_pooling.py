import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pml_extras.functional import sum_pooling_plan, sum_pooling_weights
from tests.oracles import generalized_sum_pooling as oracle

SETTINGS = [(5.0, 0.3), (0.5, 0.7), (20.0, 0.2), (1.0, 0.8), (30.0, 0.2)]  # (sharpness, mass)
masses = st.floats(1e-3, 0.999)
sharpnesses = st.floats(-2, 3).map(lambda power: 10.0**power)


@st.composite
def costs(draw):
    """(B, m, n) float64 of any sign; half of them on a coarse grid, so that locations tie."""
    num, m, n = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 7))
    cost = st.sampled_from((0.0, 0.5, 1.0, 2.0)) if draw(st.booleans()) else st.floats(-1, 2)
    drawn = draw(st.lists(cost, min_size=num * m * n, max_size=num * m * n))
    return torch.tensor(drawn, dtype=torch.float64).reshape(num, m, n)


def some_costs(num=2, m=4, n=7):
    return 2 * torch.rand(num, m, n, dtype=torch.float64)


def unrolled(cost, mass, sharpness, iterations=8000):
    """The iteration of the released code, for autograd."""
    n = cost.shape[2]
    kernel = (-sharpness * cost).exp()
    total, t = kernel.sum(dim=1), torch.ones(len(cost), 1).double()
    for _ in range(iterations):
        residual = 1 / (n * (1 + t * total))
        t = mass / (residual * total).sum(dim=1, keepdim=True)
    return (1 / n - residual) / mass, (kernel * (t * residual)[:, None]).sum(dim=2) / mass


def some_loss(p, z):
    """Of both, with another gradient everywhere."""
    u, v = (torch.linspace(-1, 2, x.numel()).double().view_as(x) for x in (p, z))
    return (u * p).sum() + (v.square() * z).sum()


@given(costs(), st.floats(0.05, 0.9), st.floats(0.1, 4))
def test_agrees_with_the_iteration_of_the_released_code(cost, mass, sharpness):
    p, z = sum_pooling_weights(cost, mass=mass, sharpness=sharpness)
    plan = sum_pooling_plan(cost, mass=mass, sharpness=sharpness)
    for image, p_b, z_b, plan_b in zip(cost.tolist(), p, z, plan, strict=True):
        expected_plan, residual = oracle.transport(image, mass, sharpness, iterations=1000)
        expected_p, expected_z = oracle.weights(expected_plan, residual, mass)
        n = len(residual)
        for actual, expected in (
            (p_b, expected_p),
            (z_b, expected_z),
            (plan_b, expected_plan),
            (1 / n - mass * p_b, residual),
        ):
            torch.testing.assert_close(actual, p.new_tensor(expected), rtol=0, atol=1e-12)


@given(costs(), masses, sharpnesses)
def test_weights_are_the_logistic_of_scores_with_the_mass_as_mean(cost, mass, sharpness):
    """Odds of i and k differ by exp(s_i - s_k), the mean is the mass: there is one such p."""
    n = cost.shape[2]
    p, z = sum_pooling_weights(cost, mass=mass, sharpness=sharpness)
    ones = torch.ones(len(p), dtype=p.dtype)
    torch.testing.assert_close(p.sum(dim=1), ones, rtol=0, atol=1e-10)
    torch.testing.assert_close(z.sum(dim=1), ones, rtol=0, atol=1e-10)
    assert (z >= 0).all()
    assert (p >= 0).all()
    assert (n * mass * p <= 1 + 1e-15).all()
    s = (-sharpness * cost).logsumexp(dim=1)
    logit = (n * mass * p).logit()
    inside = (logit.abs() < 10).all(dim=1)  # where 1 - p keeps its digits
    between = (logit - logit[:, :1]) - (s - s[:, :1])
    torch.testing.assert_close(
        between[inside], torch.zeros_like(between[inside]), rtol=0, atol=1e-9 * max(1, sharpness)
    )
    apart = (s[:, :, None] > s[:, None] + 1e-9 * max(1, sharpness)) & (p > 1e-300)[:, :, None]
    assert (p[:, :, None] >= p[:, None])[apart].all()


@pytest.mark.parametrize("shape", [(16, 3, 10), (16, 1, 200), (2, 2, 4000), (16, 2, 2), (4, 5, 1)])
@pytest.mark.parametrize("mass", [1e-4, 0.1, 0.3, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("sharpness", [0.1, 5.0, 50.0, 200.0, 5000.0])
def test_the_solve_ends_at_machine_precision(shape, mass, sharpness):
    cost = some_costs(*shape)
    tolerance = 4e-15 if sharpness <= 50 else 3e-15 * sharpness  # that of tau, in units of s
    p, _ = sum_pooling_weights(cost, mass=mass, sharpness=sharpness)
    assert (p.sum(dim=1) - 1).abs().max() < tolerance
    p, _ = sum_pooling_weights(cost.float(), mass=mass, sharpness=sharpness)
    assert (p.double().sum(dim=1) - 1).abs().max() < 2e-7


def test_value_and_gradient_are_those_of_8000_iterations():
    settings = [*SETTINGS, (5.0, 0.9), (20.0, 0.5)]
    cost = some_costs(num=len(settings)).requires_grad_()
    sharpness, mass = torch.tensor(settings, dtype=torch.float64).T
    p, z = unrolled(cost, mass[:, None], sharpness[:, None, None])
    expected = (p, z, *torch.autograd.grad(sum(map(some_loss, p, z)), cost))
    for b, (sharpness_b, mass_b) in enumerate(settings):
        image = cost[b : b + 1].detach().requires_grad_()
        p, z = sum_pooling_weights(image, mass=mass_b, sharpness=sharpness_b)
        for actual, of_all in zip(
            (p, z, *torch.autograd.grad(some_loss(p[0], z[0]), image)), expected, strict=True
        ):
            torch.testing.assert_close(actual[0], of_all[b], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sharpness", "mass"), SETTINGS)
def test_gradcheck(sharpness, mass):
    cost = some_costs(num=2, m=3, n=5).requires_grad_()
    options = {"mass": mass, "sharpness": sharpness}
    assert gradcheck(lambda c: sum_pooling_weights(c, **options), cost)
    assert gradcheck(lambda c: sum_pooling_plan(c, **options), cost)
    learned = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in options.values()]
    assert gradcheck(lambda c, m, s: sum_pooling_weights(c, mass=m, sharpness=s), (cost, *learned))


@pytest.mark.parametrize(("sharpness", "mass"), SETTINGS)
def test_gradients_of_mass_and_sharpness_are_central_differences(sharpness, mass):
    cost = some_costs()

    def loss(mass, sharpness):
        return some_loss(*sum_pooling_weights(cost, mass=mass, sharpness=sharpness))

    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (mass, sharpness)]
    actual = torch.autograd.grad(loss(*values), values)
    step = 1e-4  # Richardson: an error of the fourth order
    for which, grad in enumerate(actual):

        def difference(h, which=which):
            there, back = ([mass, sharpness], [mass, sharpness])
            there[which] += h
            back[which] -= h
            return (loss(*there) - loss(*back)).item() / (2 * h)

        expected = (4 * difference(step) - difference(2 * step)) / 3
        assert grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gradient_of_weights_or_shares_alone():
    cost = some_costs().requires_grad_()
    p, z = sum_pooling_weights(cost, mass=0.3, sharpness=5.0)
    for alone, together in ((p, (p, 0 * z)), (z, (0 * p, z))):
        (actual,) = torch.autograd.grad(alone.square().sum(), cost, retain_graph=True)
        loss = sum(x.square().sum() for x in together)
        (expected,) = torch.autograd.grad(loss + 0 * (p.sum() + z.sum()), cost, retain_graph=True)
        assert torch.equal(actual, expected)
        assert actual.abs().max() > 1e-3


def test_a_retained_graph_gives_the_same_gradient_again():
    cost = some_costs().requires_grad_()
    loss = some_loss(*sum_pooling_weights(cost, mass=0.3, sharpness=5.0))
    (first,) = torch.autograd.grad(loss, cost, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, cost)
    assert torch.equal(first, kept)
    assert torch.equal(second, kept)


def test_second_derivatives_are_refused():
    cost = some_costs().requires_grad_()
    p, _ = sum_pooling_weights(cost, mass=0.3, sharpness=5.0)
    with pytest.raises(RuntimeError, match=r"^create_graph: expected False"):
        torch.autograd.grad(p.square().sum(), cost, create_graph=True)


@given(costs(), masses, sharpnesses)
def test_gradients_add_up_to_zero(cost, mass, sharpness):
    """Neither p nor z sees a constant added to all costs of an image."""
    cost.requires_grad_()
    p, z = sum_pooling_weights(cost, mass=mass, sharpness=sharpness)
    (grad,) = torch.autograd.grad(some_loss(p, z), cost)
    assert torch.isfinite(grad).all()
    scale = max(1.0, sharpness) / mass
    assert (grad.sum(dim=(1, 2)).abs() < 1e-11 * scale).all()
    (constant,) = torch.autograd.grad(
        sum_pooling_weights(cost, mass=mass, sharpness=sharpness)[0].sum(), cost
    )
    assert (constant.abs() < 1e-11 * scale).all()  # the sum of p is fixed


def test_all_mass_is_the_mean_and_pulls_through_the_shares_alone():
    cost = some_costs().requires_grad_()
    p, z = sum_pooling_weights(cost, mass=1.0, sharpness=5.0)
    assert torch.equal(p, torch.full_like(p, 1 / 7))
    shares = (-5 * cost).softmax(dim=1).mean(dim=2)
    torch.testing.assert_close(z, shares, rtol=0, atol=1e-15)
    (grad,) = torch.autograd.grad(p.square().sum(), cost, retain_graph=True)
    assert torch.equal(grad, torch.zeros_like(grad))
    (actual,) = torch.autograd.grad(some_loss(p, z), cost)
    (expected,) = torch.autograd.grad(some_loss(p.detach(), shares), cost)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-15)
    integer, _ = sum_pooling_weights(cost, mass=1, sharpness=5)
    assert torch.equal(integer, p)


@given(costs(), masses, sharpnesses, st.randoms(use_true_random=False))
def test_order_shift_and_repeats_of_prototypes_change_nothing(cost, mass, sharpness, random):
    options = {"mass": mass, "sharpness": sharpness}
    num, m, n = cost.shape
    p, z = sum_pooling_weights(cost, **options)
    tolerance = {"rtol": 0, "atol": 1e-12 * max(1, sharpness) / mass}
    places, rows = random.sample(range(n), n), random.sample(range(m), m)
    moved_p, moved_z = sum_pooling_weights(cost[:, rows][:, :, places], **options)
    torch.testing.assert_close(moved_p, p[:, places], **tolerance)
    torch.testing.assert_close(moved_z, z[:, rows], **tolerance)
    shifted_p, shifted_z = sum_pooling_weights(cost + torch.arange(num)[:, None, None], **options)
    torch.testing.assert_close(shifted_p, p, **tolerance)
    torch.testing.assert_close(shifted_z, z, **tolerance)
    twice_p, twice_z = sum_pooling_weights(cost.repeat(1, 2, 1), **options)
    torch.testing.assert_close(twice_p, p, **tolerance)
    torch.testing.assert_close(twice_z, z.repeat(1, 2) / 2, **tolerance)


def test_an_affine_map_commutes_with_the_average():
    x, cost = torch.randn(7, 3).double(), some_costs(num=1)
    matrix, shift = torch.randn(5, 3).double(), torch.randn(5).double()
    p = sum_pooling_weights(cost, mass=0.3, sharpness=5.0)[0][0]
    torch.testing.assert_close(p @ (x @ matrix.T + shift), matrix @ (p @ x) + shift)
    torch.testing.assert_close((7 * p[:, None] * x).mean(dim=0), p @ x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_costs_are_computed_in_float32(dtype):
    cost = some_costs().to(dtype).requires_grad_()
    p, z = sum_pooling_weights(cost, mass=0.3, sharpness=5.0)
    expected = sum_pooling_weights(cost.float(), mass=0.3, sharpness=5.0)
    assert torch.equal(p, expected[0])
    assert torch.equal(z, expected[1])
    (p.square().sum() + z.square().sum()).backward()
    assert cost.grad.dtype == dtype


def test_any_layout_of_the_costs_gives_the_same(monkeypatch):
    cost = some_costs(num=5)
    results = []
    for layout in (cost, cost.transpose(1, 2).contiguous().transpose(1, 2)):
        leaf = layout.detach().requires_grad_()
        p, z = sum_pooling_weights(leaf, mass=0.3, sharpness=5.0)
        results.append((p, z, *torch.autograd.grad(some_loss(p, z), leaf)))
        monkeypatch.setattr(
            "pml_extras.functional.generalized_sum_pooling.CHUNK_ELEMENTS", 60
        )  # the second time in parts of two images
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


def test_no_images_give_no_weights():
    p, z = sum_pooling_weights(torch.zeros(0, 3, 4), mass=0.3, sharpness=5.0)
    assert p.shape == (0, 4)
    assert z.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": torch.zeros(3, 4)}, r"^cost: expected a floating tensor \(B, m, n\); got"),
        ({"cost": torch.zeros(1, 3, 4, dtype=torch.int64)}, "^cost: expected a floating"),
        ({"cost": [[[0.0]]]}, "^cost: expected a floating"),
        ({"cost": torch.zeros(1, 0, 4)}, r"^cost: .* m > 0 .*; got \(1, 0, 4\)"),
        ({"cost": torch.zeros(1, 3, 0)}, r"^cost: .* n > 0 .*; got \(1, 3, 0\)"),
        ({"mass": 0.0}, r"^mass: expected a finite number > 0; got 0.0"),
        ({"mass": 1.001}, r"^mass: expected a fraction in \[1e-15, 1\]; got 1.001"),
        ({"mass": torch.zeros(2)}, r"^mass: expected a number or a floating 0-dim tensor"),
        ({"sharpness": 0}, "^sharpness: expected a finite number > 0; got 0"),
        ({"sharpness": math.inf}, "^sharpness: expected a finite number > 0; got inf"),
        ({"sharpness": torch.tensor(1)}, "^sharpness: expected a number or a floating 0-dim"),
    ],
)
def test_what_is_out_of_range_is_named(change, message):
    arguments = {"cost": torch.zeros(1, 3, 4), "mass": 0.3, "sharpness": 5.0, **change}
    with pytest.raises(ValueError, match=message):
        sum_pooling_weights(arguments.pop("cost"), **arguments)
