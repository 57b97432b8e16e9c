import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from pml_extras.nn import MessagePassingNetwork
from tests.intra_batch import example_rows, network_as_lists, scrambled, worked_example
from tests.oracles import intra_batch_connections as oracle

VARIANTS = (False, True)


def network_of(size=6, heads=2, layers=2, *, seed=3, **options):
    torch.manual_seed(seed)
    network = MessagePassingNetwork(size, heads, layers, **{"dropout": 0.0, **options})
    return scrambled(network, seed)


def rows_of(num=5, size=6, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator, dtype=dtype)


@st.composite
def networks(draw):
    """A small network in generic position, its oracle's options, and a batch for it."""
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    options = {"add_zero_attn": draw(st.booleans()), "concat_layers": draw(st.booleans())}
    seed = draw(st.integers(0, 2**31))
    network = network_of(
        heads * width,
        heads,
        draw(st.integers(1, 2)),
        feedforward_size=draw(st.integers(1, 5)),
        seed=seed,
        **options,
    )
    x = rows_of(draw(st.integers(1, 5)), heads * width, seed)
    x = x * 10.0 ** torch.randint(-4, 5, (len(x), 1))
    return network, (heads, *options.values()), x


@settings(max_examples=40)
@given(networks())
def test_value_and_gradients_agree_with_the_equation(drawn):
    network, options, x = drawn
    x.requires_grad_()
    z = network(x)
    expected = oracle.network(x.tolist(), network_as_lists(network), *options)
    expected = z.new_tensor([[complex(v).real for v in row] for row in expected])
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)

    upstream = torch.randn_like(z)

    def weighted(rows, values=None):
        out = oracle.network(rows, network_as_lists(network, values), *options)
        pairs = zip(out, upstream.tolist(), strict=True)
        return sum(u * v for row, up in pairs for u, v in zip(up, row, strict=True))

    named = dict(network.named_parameters())
    at_x, *at_parameters = torch.autograd.grad(z, [x, *named.values()], upstream)
    for _ in range(2):  # in directions of each row's own scale
        towards = torch.randn_like(x) * x.detach().norm(dim=1, keepdim=True)
        slope = oracle.derivative(weighted, x.tolist(), towards.tolist())
        size = (at_x * towards).abs().sum().item()
        assert (at_x * towards).sum().item() == pytest.approx(
            slope, rel=1e-10, abs=1e-10 * max(size, 1.0)
        )
    for (name, p), at_p in zip(named.items(), at_parameters, strict=True):
        towards = torch.randn_like(p)

        def moved(_, name=name, p=p, towards=towards):
            step = p.detach() + oracle.STEP * 1j * towards
            return weighted(x.tolist(), {**named, name: step})

        slope = complex(moved(None)).imag / oracle.STEP
        size = (at_p * towards).abs().sum().item()
        found = (at_p * towards).sum().item()
        assert found == pytest.approx(slope, rel=1e-10, abs=1e-10 * max(size, 1.0)), name


@pytest.mark.parametrize("null", VARIANTS)
def test_it_is_a_stack_of_torch_s_encoder_layers(null):
    network = network_of(8, 4, 3, add_zero_attn=null)
    theirs = []
    for layer in network.layers:
        other = nn.TransformerEncoderLayer(8, 4, 32, 0.0, batch_first=True).double()
        other.load_state_dict(layer.state_dict())
        other.self_attn.add_zero_attn = null
        theirs.append(other)
    x = rows_of(7, 8).requires_grad_()
    expected = network.projection(nn.functional.normalize(x))
    for layer in theirs:
        expected = layer(expected)
    z = network(x)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(z)
    ours = torch.autograd.grad(z, [x, *network.parameters()], upstream)
    parameters = [*network.projection.parameters()]
    parameters += [p for layer in theirs for p in layer.parameters()]
    expected = torch.autograd.grad(expected, [x, *parameters], upstream)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("null", VARIANTS)
def test_eval_mode_without_gradients_gives_the_same(null):
    """There torch's own layer takes a path that forgets the null neighbour."""
    network = network_of(add_zero_attn=null)
    x = rows_of()
    expected = network(x)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("null", VARIANTS)
def test_worked_example(null):
    network = worked_example(MessagePassingNetwork(4, 2, add_zero_attn=null, dropout=0.0))
    z, weights = network.forward_with_attention(example_rows())
    first = [[0.461662, 0.227631, 0.310708], [0.376059, 0.185423, 0.253095]][null]
    third = [[0.215514, 0.405039, 0.379446], [0.177303, 0.333225, 0.312169]][null]
    refined = [
        [
            [0.286474, 1.485762, -1.150709, -0.621527],
            [-0.779455, -0.629651, -0.296243, 1.705349],
            [-0.865322, -0.307097, -0.525009, 1.697428],
        ],
        [
            [0.366017, 1.457887, -1.108503, -0.715401],
            [-0.777606, -0.661254, -0.261105, 1.699965],
            [-0.873178, -0.334106, -0.491153, 1.698437],
        ],
    ][null]
    received = [
        [0.339138, 0.493612, 0.261538, 0.574359],
        [0.276254, 0.402085, 0.196154, 0.430769],
    ][null]
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(weights[0, 0, 0], z.new_tensor(first), **close)
    torch.testing.assert_close(weights[0, 1, 2], z.new_tensor(third), **close)
    torch.testing.assert_close(z, z.new_tensor(refined), **close)
    values = nn.functional.normalize(example_rows()).view(3, 2, 2)  # heads of two columns each
    found = torch.cat([weights[0, m, 0] @ values[:, m] for m in range(2)])
    torch.testing.assert_close(found, z.new_tensor(received), **close)


@given(networks(), st.randoms(use_true_random=False))
def test_a_permutation_of_the_rows_permutes_what_comes_out(drawn, random):
    network, _, x = drawn
    order = torch.tensor(random.sample(range(len(x)), len(x)))
    torch.testing.assert_close(network(x[order]), network(x)[order], rtol=1e-12, atol=1e-12)


@given(networks(), st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5))
def test_a_positive_factor_on_a_row_changes_nothing(drawn, factors):
    network, _, x = drawn
    scale = torch.tensor(factors, dtype=x.dtype)[: len(x), None]
    torch.testing.assert_close(network(x * scale), network(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(torch.float32, (1e-36, 1e-13, 1e19, 1e36)), (torch.float64, (1e-200, 1e-13, 1e160, 1e300))],
)
def test_norms_may_be_as_small_or_large_as_the_type_has_them(dtype, scales):
    network = network_of().to(dtype)
    x = rows_of(dtype=dtype)
    expected = network(x)
    for scale in scales:
        scaled = (x * scale).requires_grad_()
        z = network(scaled)
        torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
        z.square().sum().backward()
        assert (scaled.grad * scale).isfinite().all()


@given(networks())
def test_the_gradient_is_orthogonal_to_each_row(drawn):
    network, _, x = drawn
    x.requires_grad_()
    z = network(x)
    (grad,) = torch.autograd.grad(z, x, torch.randn_like(z))
    along = (grad * x).sum(dim=1).abs()
    assert (along <= 1e-12 * (1 + grad.norm(dim=1) * x.norm(dim=1))).all()


def test_at_the_start_a_refined_row_is_centred_and_of_norm_root_d():
    network = MessagePassingNetwork(32, 4).eval()
    z = network(rows_of(6, 32, dtype=torch.float32))
    torch.testing.assert_close(z.mean(dim=1), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.norm(dim=1), torch.full((6,), 32**0.5), rtol=1e-3, atol=0)


@pytest.mark.parametrize("null", VARIANTS)
def test_the_whole_batch_twice_changes_nothing_unless_there_is_a_null_neighbour(null):
    network = network_of(add_zero_attn=null)
    x = rows_of()
    apart = (network(torch.cat([x, x]))[:5] - network(x)).abs().max()
    assert (apart > 1e-4) if null else (apart < 1e-12)


@pytest.mark.parametrize("null", VARIANTS)
def test_the_bias_of_keys_matters_to_a_null_neighbour_alone(null):
    network = network_of(layers=1, add_zero_attn=null)
    bias = network.layers[0].self_attn.in_proj_bias
    x = rows_of()
    before = network(x)
    (grad,) = torch.autograd.grad(before.square().sum() + before.sum(), bias)
    with torch.no_grad():
        bias[6:12] += torch.arange(6.0)
    apart = (network(x) - before).abs().max()
    assert (apart > 1e-4) if null else (apart < 1e-12)
    of_keys = grad[6:12].abs().max()
    assert (of_keys > 1e-4) if null else (of_keys < 1e-12)
    assert grad[:6].abs().max() > 1e-4


@pytest.mark.parametrize("null", VARIANTS)
@pytest.mark.parametrize("silenced", ["out_proj", "values"])
def test_without_messages_each_row_is_refined_alone(null, silenced):
    network = network_of(add_zero_attn=null)
    with torch.no_grad():
        for layer in network.layers:
            attention = layer.self_attn
            attention.out_proj.bias.zero_()
            if silenced == "out_proj":
                attention.out_proj.weight.zero_()
            else:
                attention.in_proj_weight[12:] = 0
                attention.in_proj_bias[12:] = 0
    x = rows_of().requires_grad_()
    z = network(x)
    torch.testing.assert_close(network(x[1:4]), z[1:4], rtol=1e-13, atol=1e-13)
    (grad,) = torch.autograd.grad(z[2].sum() + z[2].square().sum(), x)
    assert (grad[[0, 1, 3, 4]] == 0).all()
    assert (grad[2] != 0).any()


def test_messages_reach_every_row():
    network = network_of(layers=1)
    x = rows_of().requires_grad_()
    (grad,) = torch.autograd.grad(network(x)[2].square()[:3].sum(), x)
    assert (grad.abs().amax(dim=1) > 1e-6).all()


def test_attention_of_every_layer_is_returned_with_the_same_result():
    network = network_of(layers=3, add_zero_attn=True)
    x = torch.stack([rows_of(), rows_of(seed=2)])
    z, weights = network.forward_with_attention(x)
    assert weights.shape == (3, 2, 2, 5, 5)
    torch.testing.assert_close(z, network(x), rtol=1e-12, atol=1e-12)
    alone, its = network.forward_with_attention(x[1])
    torch.testing.assert_close(alone, z[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(its, weights[:, 1], rtol=1e-12, atol=1e-12)
    del network.layers[1:]
    first = network.forward_with_attention(x)[1]
    torch.testing.assert_close(first[0], weights[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(weights[0], weights[2])


def test_layers_side_by_side():
    network = network_of(layers=3)
    last = network(rows_of())
    network.concat_layers = True
    assert network.output_size == 18
    side_by_side = network(rows_of())
    assert side_by_side.shape == (5, 18)
    torch.testing.assert_close(side_by_side[:, 12:], last)
    assert not torch.allclose(side_by_side[:, :6], last)


def test_gradcheck_of_the_explicit_path():
    network = network_of(4, 2, 1, add_zero_attn=True)
    assert gradcheck(lambda x: network.forward_with_attention(x)[0], rows_of(3, 4).requires_grad_())


def test_query_key_value_and_output_matrices_start_xavier_uniform_each_on_its_own():
    torch.manual_seed(0)
    size = 256
    network = MessagePassingNetwork(size, 4, 2)
    bound = math.sqrt(6 / (2 * size))
    for layer in network.layers:
        attention = layer.self_attn
        for matrix in (*attention.in_proj_weight.chunk(3), attention.out_proj.weight):
            assert matrix.abs().max() <= bound
            assert matrix.abs().max() > 0.999 * bound
            assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert (attention.in_proj_bias == 0).all()
        assert (attention.out_proj.bias == 0).all()
        assert layer.linear1.weight.abs().max() <= 1 / math.sqrt(size)
        assert layer.linear1.weight.shape == (4 * size, size)
    assert 0.99 / math.sqrt(size) < network.projection.weight.abs().max() <= 1 / math.sqrt(size)


def test_number_of_parameters_at_the_published_size():
    network = MessagePassingNetwork(512, 2, 1)
    assert sum(p.numel() for p in network.parameters()) == 262_656 + 3_152_384


def test_dropout_acts_in_training_mode_alone_and_at_four_places():
    network = network_of(dropout=0.3)
    x = rows_of()
    layer = network.layers[0]
    places = {layer.dropout.p, layer.dropout1.p, layer.dropout2.p, layer.self_attn.dropout}
    assert places == {0.3}
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    others = network_of(dropout=0.3, attention_dropout=0.0)
    assert [layer.self_attn.dropout for layer in others.layers] == [0.0, 0.0]
    only = network_of(dropout=0.0, attention_dropout=0.5)
    assert not torch.equal(only(x), only(x))


def test_dropout_is_where_torch_has_it():
    network = network_of(8, 2, 1, dropout=0.4, attention_dropout=0.0)
    (layer,) = network.layers
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.4, batch_first=True).double()
    theirs.load_state_dict(layer.state_dict())
    theirs.self_attn.dropout = 0.0
    nodes = rows_of(7, 8)
    torch.manual_seed(5)
    expected = theirs(nodes)
    torch.manual_seed(5)
    torch.testing.assert_close(layer(nodes)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("graphs", [(), (2,)])
@pytest.mark.parametrize("place", ["self_attn", "dropout", "dropout1", "dropout2"])
def test_each_place_of_dropout_drops(place, graphs):
    network = network_of(layers=1)
    x = rows_of().expand(*graphs, 5, 6)
    assert torch.equal(network(x), network(x))
    place = network.layers[0].get_submodule(place)
    if isinstance(place, nn.Dropout):
        place.p = 0.5
    else:
        place.dropout = 0.5
    assert not torch.equal(network(x), network(x))
    explicit, again = (network.forward_with_attention(x)[0] for _ in range(2))
    assert not torch.equal(explicit, again)


@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computed_in_float32_at_least_and_parameters_keep_their_type(held, given_in):
    network = network_of().to(held)
    x = rows_of().to(given_in)
    exact = copy.deepcopy(network).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        z = network(x)
    assert z.dtype == (torch.float64 if torch.float64 in (held, given_in) else torch.float32)
    assert {p.dtype for p in network.parameters()} == {held}
    torch.testing.assert_close(z.double(), exact, rtol=1e-4, atol=1e-4)
    if z.dtype == torch.float64:
        torch.testing.assert_close(z, exact, rtol=1e-12, atol=1e-12)
    z.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == held for p in network.parameters())


@pytest.mark.parametrize("null", VARIANTS)
def test_a_row_of_zeros_is_a_node_with_zero_gradient(null):
    network = network_of(add_zero_attn=null)
    x = rows_of()
    x[2] = 0
    x.requires_grad_()
    z = network(x)
    z.square().sum().backward()
    assert z.isfinite().all()
    assert x.grad.isfinite().all()
    assert (x.grad[2] == 0).all()
    assert (x.grad[3] != 0).any()


def test_no_rows_give_no_rows():
    assert network_of()(torch.zeros(0, 6)).shape == (0, 6)
    assert network_of()(torch.zeros(3, 0, 6)).shape == (3, 0, 6)
    assert network_of()(torch.zeros(0, 3, 6)).shape == (0, 3, 6)


def test_it_pickles_copies_and_reloads():
    network = network_of(add_zero_attn=True).eval()
    x = rows_of()
    expected = network(x)
    other = network_of(seed=9, add_zero_attn=True).eval()
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), other):
        assert torch.equal(same(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_size": 0}, "embedding_size: expected an integer >= 1; got 0"),
        ({"num_heads": 4}, "num_heads: expected a divisor of embedding_size = 6; got 4"),
        ({"num_layers": 0}, "num_layers: expected an integer >= 1; got 0"),
        ({"feedforward_size": 0}, "feedforward_size: expected an integer >= 1; got 0"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\); got 1.0"),
        ({"attention_dropout": -0.1}, r"attention_dropout: expected a number in \[0, 1\)"),
        ({"add_zero_attn": "no"}, "add_zero_attn: expected True or False; got 'no'"),
        ({"concat_layers": 1}, "concat_layers: expected True or False; got 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MessagePassingNetwork(**{"embedding_size": 6, **arguments})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, 5), "embeddings: expected embedding_size = 6 columns; got 5 columns"),
        (torch.zeros(6), r"embeddings: expected a floating tensor \(B, D\) or \(G, B, D\); got"),
        (torch.zeros(3, 6, dtype=torch.int64), r"got torch.int64 \(3, 6\)"),
        ([[0.0] * 6], "embeddings: expected a floating tensor .* got list"),
    ],
)
def test_other_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        network_of()(rows)
