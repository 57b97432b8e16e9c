import pytest
import torch
from hypothesis import given

from pml_extras.functional import euclidean_distance, pairwise
from tests.strategies import batches_with_references


def by_differences(x, y):
    return (x[:, None] - y).square().sum(dim=2).sqrt()


@given(batches_with_references(norms=True))
def test_distances_are_those_of_explicit_differences(batch):
    x, _, y, _ = batch
    expected = by_differences(x, y)
    scale = torch.maximum(x.norm(dim=1)[:, None], y.norm(dim=1))
    assert ((euclidean_distance(x, y) - expected).abs() <= 1e-12 * scale.max()).all()
    own = euclidean_distance(x)
    assert (own.diagonal() == 0).all()
    torch.testing.assert_close(own, own.T, rtol=0, atol=1e-12 * scale.max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 0.3, 1.0])
@pytest.mark.parametrize("self_pairs", [True, False])
def test_gradient_of_close_pairs_keeps_its_digits(dtype, gap, self_pairs):
    x = torch.randn(40, 16, dtype=torch.float64)
    x = torch.nn.functional.normalize(x)
    x[1] = x[0] + gap * torch.nn.functional.normalize(torch.randn(16, dtype=torch.float64), dim=0)
    x = x.to(dtype)  # rounded once, so that both see the same points
    upstream = torch.randn(40, 40 if self_pairs else 25, dtype=torch.float64)

    def gradients(points, function):
        points = points.clone().requires_grad_()
        other = points if self_pairs else points[:25].detach().flip(0).requires_grad_()
        matrix = function(points, other)
        (matrix * upstream.to(matrix)).sum().backward()
        return points.grad if self_pairs else torch.cat([points.grad, other.grad])

    def reference(points, other):
        squared = (points[:, None] - other).square().sum(dim=2)
        same = squared == 0
        return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)

    actual = gradients(
        x, lambda a, b: euclidean_distance(a) if self_pairs else euclidean_distance(a, b)
    )
    expected = gradients(x.double(), reference)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(
        actual.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
    )


def test_coincident_points_have_distance_and_gradient_zero():
    x = torch.ones(5, 3, requires_grad=True)
    y = torch.ones(4, 3, requires_grad=True)
    for matrix in (euclidean_distance(x), euclidean_distance(x, y)):
        assert (matrix == 0).all()
        matrix.sum().backward()
    assert (x.grad == 0).all()
    assert (y.grad == 0).all()


def test_a_common_offset_costs_no_digits_of_far_pairs():
    x = torch.randn(20, 4).double()
    offset = (x + 2**10).float()  # rounded once, so that both see the same points
    expected = euclidean_distance(offset.double())
    far = expected > 1.0
    torch.testing.assert_close(
        euclidean_distance(offset)[far], expected[far].float(), rtol=1e-5, atol=0
    )


def one_long_row(x):
    x[-1] *= 1000
    return x


@pytest.mark.parametrize("change", [one_long_row, lambda x: x + 100], ids=["long row", "offset"])
def test_neither_a_long_row_nor_an_offset_makes_far_pairs_near(monkeypatch, change):
    listed = []
    original = pairwise.pair_differences

    def counting(a, b, rows, cols):
        listed.append(len(rows))
        return original(a, b, rows, cols)

    monkeypatch.setattr(pairwise, "pair_differences", counting)
    euclidean_distance(change(torch.randn(60, 16)))
    assert sum(listed) < 60


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_computed_in_float32(dtype):
    x = torch.randn(5, 3).to(dtype)
    assert torch.equal(euclidean_distance(x), euclidean_distance(x.float()))


def test_gradient_under_autocast_is_not_rounded():
    x = torch.randn(30, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(euclidean_distance(x).square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (grad,) = torch.autograd.grad(euclidean_distance(x).square().sum(), x)
    assert torch.equal(grad, expected)


def test_differences_in_several_chunks_are_those_of_one(monkeypatch):
    x = torch.randn(12, 4, dtype=torch.float64).repeat(2, 1).requires_grad_()
    whole = euclidean_distance(x)
    (grad,) = torch.autograd.grad((whole**3).sum(), x)
    monkeypatch.setattr(pairwise, "CHUNK_ELEMENTS", 12)
    parts = euclidean_distance(x)
    assert torch.equal(whole, parts)
    torch.testing.assert_close(torch.autograd.grad((parts**3).sum(), x)[0], grad)


def test_derivatives_of_first_and_second_order():
    x = torch.randn(6, 3, dtype=torch.float64)
    x[1] = x[0] + 1e-2
    x.requires_grad_()
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    off_diagonal = ~torch.eye(6, dtype=torch.bool)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda a: euclidean_distance(a)[off_diagonal], x, atol=1e-4)
        assert check(euclidean_distance, (x, y), atol=1e-4)


def test_empty_sides_stay_attached():
    x = torch.randn(3, 2, requires_grad=True)
    assert euclidean_distance(x, torch.empty(0, 2)).shape == (3, 0)
    assert euclidean_distance(x[:0]).requires_grad


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"^x: expected a floating tensor"):
        euclidean_distance(torch.ones(3))
    with pytest.raises(ValueError, match=r"^y: expected 3 columns, as `x`; got 2 columns"):
        euclidean_distance(torch.ones(3, 3), torch.ones(3, 2))
