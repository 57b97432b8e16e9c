import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_extras.nn.compression import CompressionHead
from tests.oracles import compression as oracle
from tests.oracles.intra_batch_connections import STEP, derivative
from tests.strategies import rows


def head_of(input_size=6, *sizes, seed=3):
    torch.manual_seed(seed)
    return CompressionHead(input_size, *sizes).double()


def compressed(table, head, values=None):
    values = dict(head.named_parameters()) if values is None else values
    first, second = (
        (values[f"layers.{k}.weight"].tolist(), values[f"layers.{k}.bias"].tolist()) for k in (0, 2)
    )
    return [oracle.compressed(row, first, second) for row in table]


@settings(max_examples=40)
@given(st.data())
def test_value_and_gradients_agree_with_the_equation(data):
    num, *sizes = (data.draw(st.integers(1, 5)) for _ in range(4))
    x = data.draw(rows(num, sizes[0])).requires_grad_()
    head = head_of(*sizes, seed=data.draw(st.integers(0, 99)))
    z = head(x)
    expected = z.new_tensor(
        [[complex(v).real for v in row] for row in compressed(x.tolist(), head)]
    )
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(z)

    def weighted(table, values=None):
        found = compressed(table, head, values)
        pairs = zip(found, upstream.tolist(), strict=True)
        return sum(u * v for row, up in pairs for u, v in zip(up, row, strict=True))

    named = dict(head.named_parameters())
    at_x, *at_parameters = torch.autograd.grad(z, [x, *named.values()], upstream)
    towards = torch.randn_like(x)
    slope = derivative(weighted, x.tolist(), towards.tolist())
    assert (at_x * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10)
    for (name, p), at_p in zip(named.items(), at_parameters, strict=True):
        towards = torch.randn_like(p)
        moved = {**named, name: p.detach() + STEP * 1j * towards}
        slope = complex(weighted(x.tolist(), moved)).imag / STEP
        assert (at_p * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10), name


@pytest.mark.parametrize(
    ("arguments", "widths"),
    [
        ((256,), (256, 128, 128)),  # the released one: 4 heads of 64
        ((5,), (5, 3, 3)),
        ((1,), (1, 1, 1)),
        ((8, 2), (8, 2, 2)),
        ((8, 2, 7), (8, 7, 2)),
        ((8, None, 7), (8, 7, 4)),
    ],
)
def test_widths(arguments, widths):
    head = CompressionHead(*arguments)
    assert (head.input_size, head.hidden_size, head.output_size) == widths
    assert head.layers[0].weight.shape == (widths[1], widths[0])
    assert head.layers[2].weight.shape == (widths[2], widths[1])
    assert head(torch.randn(3, widths[0])).shape == (3, widths[2])


@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computed_in_float32_at_least_and_parameters_keep_their_type(held, given_in):
    head = head_of().to(held)
    x = torch.randn(5, 6).to(given_in)
    exact = copy.deepcopy(head).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        z = head(x)
    assert z.dtype == (torch.float64 if torch.float64 in (held, given_in) else torch.float32)
    assert {p.dtype for p in head.parameters()} == {held}
    torch.testing.assert_close(z.double(), exact, rtol=1e-5, atol=1e-5)
    z.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == held for p in head.parameters())


def test_no_rows_give_no_rows():
    assert head_of()(torch.zeros(0, 6)).shape == (0, 3)


def test_it_pickles_copies_and_reloads():
    head, other, x = head_of(), head_of(seed=9), torch.randn(4, 6)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), other):
        assert torch.equal(same(x), head(x))


@pytest.mark.parametrize("name", ["input_size", "output_size", "hidden_size"])
def test_arguments_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name}: expected an integer >= 1; got 0"):
        CompressionHead(**{"input_size": 6, name: 0})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 5), "embeddings: expected input_size = 6 columns; got 5 columns"),
        (torch.zeros(6), "embeddings: expected a floating tensor of shape"),
        (torch.zeros(3, 6, dtype=torch.int64), "embeddings: expected a floating tensor of shape"),
    ],
)
def test_other_rows_are_refused(bad, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        head_of()(bad)
