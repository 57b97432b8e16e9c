import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from pml_extras.functional import explicit_neighbour_attention, neighbour_attention
from tests.largest import Largest
from tests.oracles import intra_batch_connections as oracle

VARIANTS = (False, True)


@st.composite
def heads(draw):
    """(H, B, d_h) queries, keys and values of unequal scale."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from((0.1, 1.0, 5.0)))
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "qkv"]


def some_heads(num_heads=2, num=6, size=3):
    torch.manual_seed(0)
    return [torch.randn(num_heads, num, size, dtype=torch.float64) for _ in "qkv"]


@pytest.mark.parametrize("null", VARIANTS)
@given(heads())
def test_both_paths_agree_with_the_equation(null, qkv):
    query, key, value = qkv
    weights = torch.tensor(
        [
            [[w.real for w in oracle.attention_weights(q, k, null)] for q in queries]
            for queries, k in zip(query.tolist(), key.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    received, found = explicit_neighbour_attention(query, key, value, add_zero_attn=null)
    torch.testing.assert_close(found, weights, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(received, weights @ value, rtol=1e-10, atol=1e-12)
    fused = neighbour_attention(query, key, value, add_zero_attn=null)
    torch.testing.assert_close(fused, received, rtol=1e-10, atol=1e-12)


@given(heads())
def test_weights_of_a_receiver_sum_to_one_or_with_a_null_neighbour_to_less(qkv):
    query, key, value = qkv
    _, weights = explicit_neighbour_attention(query, key, value)
    one = torch.ones(query.shape[:-1], dtype=torch.float64)
    torch.testing.assert_close(weights.sum(-1), one)
    _, weights = explicit_neighbour_attention(query, key, value, add_zero_attn=True)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    mass = scores.logsumexp(-1).sigmoid()
    torch.testing.assert_close(weights.sum(-1), mass)
    assert (mass > 0).all()
    assert (mass[scores.amax(-1) < 30] < 1).all()  # above it 1 rounds to 1


def test_weights_that_a_sender_gets_do_not_sum_to_one():
    _, weights = explicit_neighbour_attention(*some_heads())
    assert ((weights.sum(-2) - 1).abs() > 1e-3).any()


@given(heads())
def test_a_null_neighbour_scales_what_a_node_receives(qkv):
    query, key, value = qkv
    mass = (query @ key.mT / query.shape[-1] ** 0.5).logsumexp(-1, keepdim=True).sigmoid()
    ordinary = neighbour_attention(query, key, value)
    with_null = neighbour_attention(query, key, value, add_zero_attn=True)
    torch.testing.assert_close(with_null, mass * ordinary)


@pytest.mark.parametrize("null", VARIANTS)
@pytest.mark.parametrize("zeroed", ["query", "key"])
def test_without_queries_or_keys_every_sender_weighs_the_same(null, zeroed):
    query, key, value = some_heads(num=6)
    query, key = (query * (zeroed != "query"), key * (zeroed != "key"))
    _, weights = explicit_neighbour_attention(query, key, value, add_zero_attn=null)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / (6 + null)))


def test_a_null_neighbour_silences_nodes_of_low_scores_and_yields_to_high_ones():
    query, _, value = some_heads()
    query, same = query.abs(), torch.ones_like(query)
    silent = neighbour_attention(query, -1e4 * same, value, add_zero_attn=True)
    torch.testing.assert_close(silent, torch.zeros_like(silent))
    loud = neighbour_attention(query, 1e4 * same, value, add_zero_attn=True)
    torch.testing.assert_close(loud, neighbour_attention(query, 1e4 * same, value))


@pytest.mark.parametrize("null", VARIANTS)
def test_gradients_are_those_of_the_explicit_path(null):
    qkv = [x.requires_grad_() for x in some_heads()]
    upstream = torch.randn(2, 6, 3, dtype=torch.float64)
    fused = neighbour_attention(*qkv, add_zero_attn=null)
    explicit, _ = explicit_neighbour_attention(*qkv, add_zero_attn=null)
    for a, b in zip(
        torch.autograd.grad(fused, qkv, upstream),
        torch.autograd.grad(explicit, qkv, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("null", VARIANTS)
def test_the_explicit_path_is_twice_differentiable(null):
    def messages(*qkv):
        return explicit_neighbour_attention(*qkv, add_zero_attn=null)

    qkv = [x.requires_grad_() for x in some_heads(2, 3, 2)]
    assert gradcheck(messages, qkv)
    assert gradgradcheck(messages, qkv)


def test_many_graphs_are_as_many_batches():
    qkv = [torch.stack([x, x.flip(1) + 1]) for x in some_heads()]
    for null in VARIANTS:
        together = neighbour_attention(*qkv, add_zero_attn=null)
        nested = neighbour_attention(*(x[:, None] for x in qkv), add_zero_attn=null)
        torch.testing.assert_close(nested[:, 0], together)
        for g in range(2):
            alone = neighbour_attention(*(x[g] for x in qkv), add_zero_attn=null)
            torch.testing.assert_close(together[g], alone)


@pytest.mark.parametrize("null", VARIANTS)
@pytest.mark.parametrize("graphs", [(), (1,), (2, 1)])
def test_nothing_of_the_size_of_the_weights_is_made(null, graphs):
    num = 300
    qkv = [torch.randn(*graphs, 2, num, 4, requires_grad=True) for _ in "qkv"]
    with Largest() as fused:
        neighbour_attention(*qkv, add_zero_attn=null).sum().backward()
    assert fused.elements <= qkv[0][..., 0, 0].numel() * (num + 1) * 4
    with Largest() as explicit:
        explicit_neighbour_attention(*qkv, add_zero_attn=null)[0].sum().backward()
    assert explicit.elements >= qkv[0][..., 0, 0].numel() * num**2


@pytest.mark.parametrize("path", [neighbour_attention, explicit_neighbour_attention])
def test_dropout_keeps_the_mean_and_drops_weights(path):
    def received():
        out = path(query, key, value, add_zero_attn=True, dropout=0.3)
        return out if path is neighbour_attention else out[0]

    query, key, value = some_heads(1, 4, 2)
    draws = torch.stack([received() for _ in range(4000)])
    assert len(draws.unique(dim=0)) > 10
    expected = neighbour_attention(query, key, value, add_zero_attn=True)
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("path", [neighbour_attention, explicit_neighbour_attention])
def test_dropout_takes_senders_away_and_not_coordinates(path):
    query, key, _ = some_heads(1, 4, 4)
    value = torch.eye(4, dtype=torch.float64)[None]  # so that what is received are the weights
    received = path(query, key, value, dropout=0.5)
    received = received if path is neighbour_attention else received[0]
    _, weights = explicit_neighbour_attention(query, key, value)
    kept = received != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(received[kept], 2 * weights[kept])
    constant = path(query, key, torch.ones_like(value), dropout=0.5)
    constant = constant if path is neighbour_attention else constant[0]
    assert ((constant - constant[..., :1]).abs() < 1e-12).all()


@pytest.mark.parametrize("path", [neighbour_attention, explicit_neighbour_attention])
def test_shapes_that_differ_are_refused(path):
    query, key, value = some_heads()
    with pytest.raises(ValueError, match=r"key: expected the shape of `query`, \(2, 6, 3\); got"):
        path(query, key[:, :4], value)
    with pytest.raises(ValueError, match=r"value: .* got \(2, 6, 2\)"):
        path(query, key, value[..., :2])
