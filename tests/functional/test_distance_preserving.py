import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pml_extras.functional.distance_preserving import distance_preserving
from tests.oracles import distance_preserving as oracle
from tests.oracles.intra_batch_connections import derivative
from tests.strategies import rows


@st.composite
def pairs_of_embeddings(draw, *, min_rows=1):
    """(student, teacher) of one number of rows and any two widths, rows that coincide included."""
    num = draw(st.integers(min_rows, 6))
    return draw(rows(num, draw(st.integers(1, 4)))), draw(rows(num, draw(st.integers(1, 5))))


def real(value):
    return complex(value).real


@given(pairs_of_embeddings())
def test_value_agrees_with_the_definition(drawn):
    z, x = drawn
    expected = real(oracle.loss(z.tolist(), x.tolist()))
    assert distance_preserving(z, x).item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    by_batch = distance_preserving(z, x, normalize_by_batch=True)
    assert by_batch.item() == pytest.approx(expected / len(z), rel=1e-10, abs=1e-10)


@given(pairs_of_embeddings())
def test_gradients_of_both_sides_agree_with_the_definition(drawn):
    z, x = drawn
    assume(real(oracle.loss(z.tolist(), x.tolist())) > 1e-3)  # at 0 there are sub-gradients
    assume(not (z == z[0]).all())
    assume(not (x == x[0]).all())
    z.requires_grad_()
    x.requires_grad_()
    grads = torch.autograd.grad(distance_preserving(z, x), (z, x))
    for side, grad, function in (
        (z, grads[0], lambda m: oracle.loss(m, x.tolist())),
        (x, grads[1], lambda m: oracle.loss(z.tolist(), m)),
    ):
        towards = torch.randn_like(side)
        slope = derivative(function, side.tolist(), towards.tolist())
        size = max(1.0, (grad * towards).abs().sum().item())
        found = (grad * towards).sum().item()
        assert found == pytest.approx(slope, rel=1e-10, abs=1e-10 * size)


@given(pairs_of_embeddings(min_rows=2))
def test_it_is_b_times_the_root_mean_square_of_mean_normalised_matrices(drawn):
    z, x = drawn
    assume(not (z == z[0]).all())
    assume(not (x == x[0]).all())
    expected = real(oracle.root_mean_square(z.tolist(), x.tolist()))
    assert distance_preserving(z, x).item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def example(num=7, size=4, width=6):
    return torch.randn(num, size).double(), torch.randn(num, width).double()


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.booleans())
def test_translation_rotation_and_a_factor_of_the_teacher_cost_nothing(factor, shift, negative):
    x = example()[1]
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    z = (-factor if negative else factor) * x @ turn + shift
    assert distance_preserving(z, x).item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_factors_of_either_side_change_nothing(of_student, of_teacher):
    z, x = example()
    expected = distance_preserving(z, x).item()
    assert expected > 0.1
    moved = distance_preserving(of_student * z + 3, of_teacher * x - 1)
    assert moved.item() == pytest.approx(expected, rel=1e-10)


def test_two_and_seven_times():
    z, x = example()
    torch.testing.assert_close(distance_preserving(2 * z, 7 * x), distance_preserving(z, x))


def test_worked_example():
    """Points 0, 1, 3 on a line against an equilateral triangle.

    Squared distances 1, 4, 9 of sum 28 in both orders; 1/6 each for the triangle.
    """
    z = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    x = torch.eye(3, dtype=torch.float64)
    squares = sum(2 * (d / 28 - 1 / 6) ** 2 for d in (1, 4, 9))
    assert distance_preserving(z, x).item() == pytest.approx(9 * squares**0.5)


def test_order_of_the_rows_does_not_matter_and_their_pairing_does():
    z, x = example()
    order = torch.randperm(7)
    torch.testing.assert_close(distance_preserving(z[order], x[order]), distance_preserving(z, x))
    assert distance_preserving(z.roll(1, dims=0), x) != distance_preserving(z, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_a_side_without_distances_is_finite_with_zero_gradient(dtype, value):
    z, x = (side.to(dtype) for side in example())
    same = torch.full((7, 4), value, dtype=dtype)
    for student, teacher in ((same, x), (z, same), (same, same)):
        student = student.clone().requires_grad_()
        loss = distance_preserving(student, teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()
        if student.detach().eq(same).all():
            assert (student.grad == 0).all()
    relative = torch.cdist(x, x).square() / torch.cdist(x, x).square().mean()
    torch.testing.assert_close(distance_preserving(same, x), relative.norm())
    assert distance_preserving(same, same) == 0


def test_where_it_is_zero_the_gradient_is_zero():
    z = example()[0].requires_grad_()
    loss = distance_preserving(z, z.detach())
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e15])
def test_no_size_of_a_cloud_of_points_underflows_or_overflows(factor):
    z, x = (side.float() for side in example())
    expected = distance_preserving(z, x)
    z = (factor * z).requires_grad_()
    loss = distance_preserving(z, x)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    slope = torch.autograd.grad(distance_preserving(z, x), z)[0].double() * factor
    plain = (z.detach() / factor).requires_grad_()
    (wanted,) = torch.autograd.grad(distance_preserving(plain, x), plain)
    torch.testing.assert_close(slope, wanted.double(), rtol=1e-3, atol=1e-5)


def test_a_common_offset_costs_no_digits_in_float32():
    x = torch.randn(20, 4).double()
    z = x[:, :2] + 2**14
    z, x = z.float(), x.float()  # rounded once, so that both see the same points
    expected = distance_preserving(z.double(), x.double())
    assert distance_preserving(z, x).item() == pytest.approx(expected.item(), rel=2e-6)


def test_one_row_and_no_rows_are_attached_zeros():
    for num in (0, 1):
        z = torch.randn(num, 3, requires_grad=True)
        loss = distance_preserving(z, torch.randn(num, 5))
        loss.backward()
        assert loss == 0
        assert (z.grad == 0).all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_rows_are_computed_in_float32(half):
    z, x = (side.to(half) for side in example())
    expected = distance_preserving(z.double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        value = distance_preserving(z, x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_other_arguments_are_refused():
    z, x = example()
    with pytest.raises(ValueError, match=r"^teacher: expected 7 rows, as `student`; got 6 rows"):
        distance_preserving(z, x[:6])
    with pytest.raises(ValueError, match=r"^student: expected a floating tensor of shape"):
        distance_preserving(z[0], x)
    with pytest.raises(ValueError, match=r"^teacher: expected a floating tensor of shape"):
        distance_preserving(z, x.long())
