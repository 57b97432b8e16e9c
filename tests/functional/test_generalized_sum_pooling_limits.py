"""Large and small mass and sharpness, what float32 keeps of them, and a map with known weights."""

import math

import pytest
import torch

from pml_extras.functional import sum_pooling_plan, sum_pooling_weights
from tests.oracles import generalized_sum_pooling as oracle


def some_costs(num=2, m=4, n=7):
    return 2 * torch.rand(num, m, n, dtype=torch.float64)


def clustered_costs(num=16, m=24, n=49, d=16):
    """Distances of unit vectors, 2 of 5 of which are close to a prototype."""
    prototypes = torch.nn.functional.normalize(torch.randn(m, d).double(), dim=1)
    features = torch.nn.functional.normalize(torch.randn(num, n, d).double(), dim=2)
    close = prototypes[torch.randint(m, (num, n))] + 0.05 * torch.randn(num, n, d)
    features = torch.where(torch.rand(num, n, 1) < 0.4, close, features)
    return (prototypes[:, None] - features[:, None]).norm(dim=3)


def some_loss(p, z):
    """Of both, with another gradient everywhere."""
    u, v = (torch.linspace(-1, 2, x.numel()).double().view_as(x) for x in (p, z))
    return (u * p).sum() + (v.square() * z).sum()


def test_limits_of_mass_and_sharpness():
    cost = some_costs(num=4, m=5, n=20)

    def n_p(c=cost, *, mass, sharpness):
        return c.shape[2] * sum_pooling_weights(c, mass=mass, sharpness=sharpness)[0]

    one = torch.ones(4, 20, dtype=torch.float64)
    nearly_all = n_p(cost.float(), mass=1 - 1e-6, sharpness=5.0)
    torch.testing.assert_close(nearly_all, one.float(), rtol=0, atol=2.02e-5)  # n (1 - mass)
    torch.testing.assert_close(n_p(mass=0.3, sharpness=1e-6), one, rtol=0, atol=2e-6)
    attention = 20 * (-5 * cost).logsumexp(dim=1).softmax(dim=1)
    torch.testing.assert_close(n_p(mass=1e-4, sharpness=5.0), attention, rtol=0, atol=5e-3)
    torch.testing.assert_close(n_p(mass=1e-7, sharpness=5.0), attention, rtol=0, atol=5e-6)
    # Cheapest locations a step apart, so that the cut lies where there is a gap of 0.05.
    ladder = 0.05 * torch.stack([torch.randperm(20) for _ in range(4)]).double()[:, None]
    for mass in (0.3, 0.42, 0.5):  # 6, 8.4 and 10 locations
        expected = [[20 * w for w in oracle.sharp_weights(c.tolist(), mass)] for c in ladder]
        sharp = n_p(ladder, mass=mass, sharpness=2000.0)
        torch.testing.assert_close(sharp, sharp.new_tensor(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("costs_of", [some_costs, clustered_costs])
@pytest.mark.parametrize("sharpness", [0.5, 5.0, 50.0, 200.0])
@pytest.mark.parametrize("mass", [0.01, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_float32_keeps_its_digits_at_any_sharpness(costs_of, sharpness, mass):
    single = costs_of(16, 24, 49).float().requires_grad_()
    double = single.detach().double().requires_grad_()
    found = []
    for cost in (single, double):
        p, z = sum_pooling_weights(cost, mass=mass, sharpness=sharpness)
        (grad,) = torch.autograd.grad(some_loss(p, z).sum(), cost)
        found.append((49 * p, z, grad / sharpness))
    for actual, expected in zip(*found, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=4e-6)


def test_a_cut_so_sharp_that_no_location_is_between_has_a_finite_gradient():
    cost = torch.tensor([[[0.0, 0.1, 1.0, 2.0]]], requires_grad=True)
    mass = torch.tensor(0.5, requires_grad=True)
    p, z = sum_pooling_weights(cost, mass=mass, sharpness=1e4)
    torch.testing.assert_close(p, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    (p * torch.arange(4)).sum().add(z.sum()).backward()
    torch.testing.assert_close(cost.grad, torch.zeros_like(cost))
    assert torch.isfinite(mass.grad)


def map_of_two_patches():
    """(2, 100) costs of red and blue for green ground with a red and a blue patch, 10 by 10."""
    image = torch.zeros(10, 10, 3).double()
    image[..., 1] = 1
    for corner, channel in ((0, 0), (5, 2)):
        for row in range(5):
            for column in range(5):
                r = math.hypot(row - 2, column - 2)
                colour = torch.zeros(3).double()
                colour[channel] = 0.5 + 0.5 * (1 - r / math.hypot(2, 2))
                image[corner + row, corner + column] = colour
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1]]).double()
    return (colours[:, None] - image.reshape(1, 100, 3)).norm(dim=2)


@pytest.mark.parametrize(
    ("sharpness", "row", "corner", "ground"),
    [
        (0.5, [1.1341, 1.1650, 1.1985, 1.1650, 1.1341], 1.1095, 0.861709),
        (5.0, [1.8083, 2.8775, 3.8296, 2.8775, 1.8083], 1.0954, 0.027612),
        (50.0, [1.0409, 4.9972, 5.0, 4.9972, 1.0409], 0.0009, 0.0),
        (500.0, [1.25, 5, 5, 5, 1.25], 0, 0),
    ],
)
def test_smoothing_of_two_patches(sharpness, row, corner, ground):
    """Figures of 1,000 plain iterations on the map of the authors' script, to their 4 digits."""
    p, z = sum_pooling_weights(map_of_two_patches()[None], mass=0.2, sharpness=sharpness)
    found = (100 * p).reshape(10, 10)
    torch.testing.assert_close(found[2, :5], found.new_tensor(row), rtol=0, atol=6e-5)
    assert found[0, 0].item() == pytest.approx(corner, abs=6e-5)
    assert found[0, 9].item() == pytest.approx(ground, abs=6e-7)
    torch.testing.assert_close(z, torch.full_like(z, 0.5), rtol=0, atol=1e-12)


def test_the_sharp_limit_of_two_patches_has_the_cost_of_the_linear_program():
    cost = map_of_two_patches()
    plan = sum_pooling_plan(cost[None], mass=0.2, sharpness=1e5)[0]
    assert (plan * cost).sum().item() == pytest.approx(0.04121320343559643, abs=1e-12)


def test_the_least_mass_and_the_largest_sharpness_still_give_weights():
    cost = torch.rand(2, 3, 5)
    p, z = sum_pooling_weights(cost, mass=1e-15, sharpness=5.0)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2))
    cheapest = cost.amin(dim=1).argmin(dim=1)
    for sharpness in (1e39, 1e300):
        p, z = sum_pooling_weights(cost, mass=0.1, sharpness=sharpness)
        assert torch.equal(p.argmax(dim=1), cheapest)
        torch.testing.assert_close(p.sum(dim=1), torch.ones(2))
        torch.testing.assert_close(z.sum(dim=1), torch.ones(2))
