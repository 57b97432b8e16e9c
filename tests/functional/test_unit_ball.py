import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pml_extras.functional import unit_ball, unit_ball_cost
from tests.oracles import generalized_sum_pooling as oracle
from tests.strategies import rows


@st.composite
def features_and_prototypes(draw):
    """(B, n, d) and (m, d) float64, some inside the ball, some coincident."""
    num, n, m, d = (draw(st.integers(1, high)) for high in (3, 4, 4, 3))
    scale = draw(st.sampled_from((0.3, 1.0, 30.0)))
    points = scale * draw(rows(num * n + m, d))
    return points[m:].reshape(num, n, d), points[:m]


def some(num=3, n=6, m=4, d=5):
    """Of norms on both sides of 1."""
    features = torch.randn(num, n, d).double() * torch.logspace(-1, 1, n)[:, None].double()
    return features, torch.randn(m, d).double() * torch.logspace(1, -1, m)[:, None].double()


@given(features_and_prototypes())
def test_agrees_with_the_equation(batch):
    features, prototypes = batch
    expected = features.new_tensor(
        [oracle.unit_ball_cost(image, prototypes.tolist()) for image in features.tolist()]
    )
    torch.testing.assert_close(unit_ball_cost(features, prototypes), expected, rtol=0, atol=1e-12)
    single = unit_ball_cost(features.float(), prototypes.float()).double()
    torch.testing.assert_close(single, expected, rtol=0, atol=3e-7)


def test_rows_inside_the_ball_stay_and_longer_ones_shrink_to_norm_1():
    inside = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.3, -0.1]], dtype=torch.float64)
    assert torch.equal(unit_ball(inside), inside)
    outside = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_ball(outside), outside.new_tensor([[0.6, 0.8]]))
    jacobian = torch.autograd.functional.jacobian(lambda v: unit_ball(v[None])[0], outside[0])
    direction = outside.new_tensor([0.6, 0.8])
    expected = (torch.eye(2).double() - torch.outer(direction, direction)) / 5
    torch.testing.assert_close(jacobian, expected)


def test_derivative_inside_the_ball_and_at_its_edge_is_the_identity():
    v = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.3, 0.1]], requires_grad=True)
    unit_ball(v).sum().backward()
    assert torch.equal(v.grad, torch.ones_like(v))


def test_gradcheck():
    features, prototypes = (x.requires_grad_() for x in some())
    assert gradcheck(unit_ball_cost, (features, prototypes))


@pytest.mark.parametrize("gap", [1e-6, 1e-5, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_float32_keeps_value_and_gradient_of_close_points(gap, scale):
    features, prototypes = some(num=2, n=6, m=4, d=32)
    prototypes = scale * torch.nn.functional.normalize(prototypes, dim=1)
    near = torch.nn.functional.normalize(torch.randn(4, 32).double(), dim=1)
    features[1, :4] = prototypes + scale * gap * near
    features, prototypes = features.float(), prototypes.float()  # rounded once for both
    upstream = torch.randn(2, 4, 6, dtype=torch.float64)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in (features, prototypes)]
        cost = unit_ball_cost(*leaves)
        found.append((cost, *torch.autograd.grad((cost * upstream).sum(), leaves)))
    assert found[0][0].dtype == torch.float32
    assert (found[1][0][1].diagonal() < 2 * gap).all()
    tolerance = 1e-6 + 1e-15 / gap**2  # that of a root of gap ** 2, whose error is of float64
    for actual, expected in zip(*found, strict=True):
        largest = expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_points_have_cost_and_gradient_zero(dtype):
    directions = torch.nn.functional.normalize(torch.randn(5, 40, dtype=dtype), dim=1)
    for norm in (1e-3, 0.7, 1.0, 9.0):
        prototypes = (norm * directions).requires_grad_()
        features = (norm * directions[None]).requires_grad_()
        cost = unit_ball_cost(features, prototypes)
        assert (cost[0].diagonal() == 0).all()
        grads = torch.autograd.grad(cost[0].diagonal().sum(), (features, prototypes))
        assert all((grad == 0).all() for grad in grads)


def test_points_that_coincide_on_the_ball_alone_pull_nothing():
    prototypes = torch.nn.functional.normalize(torch.randn(3, 8), dim=1).requires_grad_()
    features = (4 * prototypes.detach()[None]).requires_grad_()
    cost = unit_ball_cost(features, prototypes)
    assert (cost[0].diagonal() < 2e-7).all()
    (grad,) = torch.autograd.grad(cost[0].diagonal().sum(), features)
    assert torch.isfinite(grad).all()
    assert (grad.abs() <= 0.25).all()  # at most a unit pull, over the norm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_computed_in_float32(dtype):
    features, prototypes = (x.to(dtype) for x in some())
    actual = unit_ball_cost(features, prototypes)
    assert torch.equal(actual, unit_ball_cost(features.float(), prototypes.float()))


def test_products_under_autocast_are_not_rounded():
    leaves = [x.float().requires_grad_() for x in some()]
    expected = torch.autograd.grad(unit_ball_cost(*leaves).square().sum(), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = torch.autograd.grad(unit_ball_cost(*leaves).square().sum(), leaves)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("features", "prototypes", "message"),
    [
        (
            torch.zeros(3, 4),
            torch.zeros(2, 4),
            r"^features: expected a floating tensor \(B, n, d\)",
        ),
        (torch.zeros(1, 3, 4).long(), torch.zeros(2, 4), "^features: expected a floating tensor"),
        ([1.0], torch.zeros(2, 4), "^features: expected a floating tensor"),
        (torch.zeros(1, 3, 4), torch.zeros(4), "^prototypes: expected a floating tensor"),
        (torch.zeros(1, 3, 4), torch.zeros(2, 5), "^features: expected 5 columns, as `prototypes`"),
    ],
)
def test_bad_shapes_are_named(features, prototypes, message):
    with pytest.raises(ValueError, match=message):
        unit_ball_cost(features, prototypes)


def test_rows_whose_square_overflows_keep_their_direction():
    v = torch.tensor([[3e25, 4e25], [0.3, 0.4]])
    torch.testing.assert_close(unit_ball(v), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_second_derivatives_are_refused():
    features = torch.randn(1, 3, 2).requires_grad_()
    cost = unit_ball_cost(features, torch.randn(2, 2))
    with pytest.raises(RuntimeError, match=r"^create_graph: expected False"):
        torch.autograd.grad(cost.sum(), features, create_graph=True)
