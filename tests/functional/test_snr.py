import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional import snr_distance
from pml_extras.functional.snr import sum_above_zero
from tests.oracles import snr as oracle
from tests.strategies import rows


@given(st.data())
def test_agrees_with_the_equation(data):
    size = data.draw(st.integers(2, 5))
    x = data.draw(rows(data.draw(st.integers(1, 5)), size))
    y = data.draw(rows(data.draw(st.integers(1, 5)), size))
    signal = x.var(dim=1) > 1e-6
    actual = snr_distance(x, y)
    for i in signal.nonzero().flatten().tolist():
        for j in range(len(y)):
            expected = oracle.snr(x[i].tolist(), y[j].tolist())
            assert actual[i, j].item() == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_gradient_is_the_derivative_also_at_equal_rows():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.cat([x.detach()[:1], torch.randn(2, 4, dtype=torch.float64)]).requires_grad_()
    assert torch.autograd.gradcheck(snr_distance, (x, y))
    assert torch.autograd.gradcheck(lambda z: snr_distance(z, z), (x,))


def test_anchor_without_signal_is_at_0_and_pulls_nothing():
    x = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0]], requires_grad=True)
    distance = snr_distance(x, x)
    assert (distance[:2] == 0).all()
    assert distance[2, 0] > 0
    distance[:2].sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_anchor_whose_mean_rounds_has_no_signal(dtype):
    x = torch.full((1, 7), 0.1, dtype=dtype)
    assert (x - x.mean()).abs().max() > 0
    assert snr_distance(x, torch.arange(7, dtype=dtype)[None]) == 0


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_computed_in_float32(dtype, same):
    x = (torch.randn(4, 512) * 30).to(dtype)  # whose squares overflow float16
    y = x if same else (torch.randn(3, 512) * 30).to(dtype)
    full = x.float()
    expected = snr_distance(full, full if same else y.float())
    actual = snr_distance(x, y)
    assert torch.equal(actual, expected)
    assert actual[0, 1] > 1
    mostly_even = (torch.randn(4, 512) * 0.1 + 20).to(dtype)  # whose half roundings are no signal
    assert (snr_distance(mostly_even, y) > 0).all()


def test_what_is_not_above_zero_is_not_counted():
    hinge = torch.tensor([[torch.nan, 0.0, -1.0, 2.0], [1.0, 1.0, 1.0, torch.inf]])
    hinge.requires_grad_()
    total, count = sum_above_zero(hinge, torch.tensor([[True] * 4, [True, False, True, False]]))
    assert total.tolist() == [2, 2]
    assert count.tolist() == [1, 2]
    total.sum().backward()
    assert hinge.grad.tolist() == [[0, 0, 0, 1], [1, 0, 1, 0]]


def test_sizes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"^y: expected 3 columns"):
        snr_distance(torch.ones(2, 3), torch.ones(2, 4))
