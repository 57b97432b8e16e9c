"""Cached embeddings against one graph: of the whole batch, or of the same chunks."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners
from torch import nn

from pml_extras import losses
from pml_extras.training import cached_embeddings
from tests.training.setting import (
    CLASSES,
    EXACT,
    ROWS,
    SIZE,
    assert_alike,
    batch,
    distance,
    gradients,
    network,
    one_graph,
    square,
)

LOSSES = {
    "pairs": losses.LiftedStructureLoss,
    "miner": pml.MultiSimilarityLoss,
    "proxies": lambda: pml.ProxyAnchorLoss(CLASSES, SIZE),
    "potential field": lambda: losses.PotentialFieldLoss(CLASSES, SIZE, proxies_per_class=2),
    "network": lambda: losses.IntraBatchConnectionsLoss(CLASSES, SIZE, num_heads=2, dropout=0.0),
}


@pytest.mark.parametrize("name", LOSSES)
@given(rows=st.integers(2, 40), chunk_size=st.integers(1, 41))
def test_gradients_are_those_of_the_whole_batch(name, rows, chunk_size):
    net = network().eval()
    torch.manual_seed(0)
    loss = LOSSES[name]().double()
    alone, cached = (copy.deepcopy((net, loss)) for _ in range(2))
    x, labels = batch(rows)
    values = []
    for (trunk, loss_func), chunks in ((alone, None), (cached, x.split(chunk_size))):
        z = trunk(x) if chunks is None else cached_embeddings(trunk, chunks)
        mined = miners.MultiSimilarityMiner(0.3)(z, labels) if name == "miner" else None
        values.append(loss_func(z, labels, mined))
        values[-1].backward()
    torch.testing.assert_close(values[1], values[0], **EXACT)
    torch.testing.assert_close(gradients(*cached), gradients(*alone), **EXACT)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_in_float32(name):
    net = network(torch.float32).eval()
    torch.manual_seed(0)
    loss = LOSSES[name]()
    alone, cached = (copy.deepcopy((net, loss)) for _ in range(2))
    x, labels = batch(ROWS, torch.float32)
    alone[1](alone[0](x), labels).backward()
    cached[1](cached_embeddings(cached[0], x.split(4)), labels).backward()
    for actual, expected in zip(cached, alone, strict=True):
        if any(True for _ in expected.parameters()):
            assert distance(actual, expected) <= 1e-6


def test_losses_one_after_the_other_and_gradients_that_are_there_add_up():
    expected, actual = network(), network()
    chunks = batch()[0].split(5)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        net[0].weight.grad = torch.ones_like(net[0].weight)
        torch.manual_seed(7)
        z = embed(net, chunks)
        square(z).backward(retain_graph=True)
        z.sin().sum().backward(retain_graph=True)
        square(z).backward()
    assert_alike(expected, actual)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_chunks_move_to_the_gpu_one_by_one(dtype):
    expected = network(torch.float32).cuda()
    actual = copy.deepcopy(expected)
    chunks = batch(ROWS, torch.float32)[0].split(5)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            if embed is one_graph:
                z = one_graph(net, [chunk.cuda() for chunk in chunks])
            else:
                z = cached_embeddings(lambda x, net=net: net(x.cuda()), chunks, modules=(net,))
        square(z.float()).backward()
    for a, b in zip(gradients(actual), gradients(expected), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


class Watched(nn.Module):
    """Notes the rows of each pass, and whether it has a graph."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.passes = []

    def forward(self, x):
        rows = self.net(x)
        self.passes.append((len(x), rows.requires_grad))
        return rows


def test_the_first_pass_has_no_graph_and_the_second_waits_for_the_gradient():
    net = Watched(network())
    z = cached_embeddings(net, batch()[0].split(10))
    first = [(10, False), (10, False), (3, False)]
    assert net.passes == first
    assert z.is_leaf
    torch.autograd.grad(square(z), z)
    assert net.passes == first
    square(z).backward()
    assert net.passes == [*first, (10, True), (10, True), (3, True)]
    assert z.grad is None


def test_one_graph_lives_at_a_time():
    live, most = [0], [0]

    class Counted:
        def __init__(self, tensor):
            self.tensor = tensor
            live[0] += 1
            most[0] = max(most[0], live[0])

        def __del__(self):
            live[0] -= 1

    x = batch()[0]
    net = network()
    with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
        net(x[:5]).sum().backward()
        alone, most[0] = most[0], 0
        z = cached_embeddings(net, x.split(5))
        assert most[0] == live[0] == 0
        z.sum().backward()  # its graph saves nothing
    assert most[0] == alone > 0


def test_without_gradients_there_is_one_pass():
    frozen = network().requires_grad_(False)
    for net, mode in ((network(), torch.no_grad()), (frozen, torch.enable_grad())):
        watched, expected = Watched(net), copy.deepcopy(net)
        with mode:
            torch.manual_seed(7)
            z = cached_embeddings(watched, batch()[0].split(10))
            torch.manual_seed(7)
            assert torch.equal(z, one_graph(expected, batch()[0].split(10)))
        assert not z.requires_grad
        assert len(watched.passes) == 3


def test_a_frozen_part_stays_as_it_is_and_what_follows_it_learns():
    expected, actual = network(), network()
    chunks = batch()[0].split(5)
    for net in (expected, actual):
        net[:3].requires_grad_(False)
        net[:3].eval()
    square(one_graph(expected.eval(), chunks)).backward()
    z = cached_embeddings(actual.eval(), chunks)
    assert z.is_leaf
    square(z).backward()
    assert all(p.grad is None for p in actual[:3].parameters())
    torch.testing.assert_close(gradients(actual[5]), gradients(expected[5]), **EXACT)


def test_chunks_of_any_form_through_several_modules():
    first, second = network(), nn.Bilinear(SIZE, 3, SIZE).double()
    x, _ = batch()
    extra = torch.randn(ROWS, 3, dtype=torch.float64)
    chunks = [{"x": x[:9], "extra": extra[:9]}, {"x": x[9:], "extra": extra[9:]}]

    def embed(chunk):
        return second(first(chunk["x"]), chunk["extra"])

    others = copy.deepcopy((first, second))
    torch.manual_seed(7)
    square(torch.cat([others[1](others[0](c["x"]), c["extra"]) for c in chunks])).backward()
    torch.manual_seed(7)
    square(cached_embeddings(embed, iter(chunks), modules=(first, second))).backward()
    torch.testing.assert_close(gradients(first, second), gradients(*others), **EXACT)


class Cut(nn.Linear):
    """A trunk that learns nothing."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_proxies_learn_beside_a_trunk_that_cuts_the_graph():
    trunk, (x, labels) = Cut(14, SIZE).double(), batch()
    grads = []
    for embed in (one_graph, cached_embeddings):
        torch.manual_seed(0)
        loss = pml.ProxyAnchorLoss(CLASSES, SIZE).double()
        loss(embed(trunk, x.flatten(1).split(5)), labels).backward()
        grads.append(gradients(loss))
        assert trunk.weight.grad is None
    torch.testing.assert_close(*grads, **EXACT)


def test_a_backward_pass_to_chosen_inputs_reaches_the_network_by_way_of_the_embeddings():
    expected, actual = network().eval(), network().eval()
    chunks = batch()[0].split(5)
    square(one_graph(expected, chunks)).backward()
    z = cached_embeddings(actual, chunks)
    square(z).backward(inputs=list(actual.parameters()), retain_graph=True)
    assert all(p.grad is None for p in actual.parameters())
    square(z).backward(inputs=[z])
    assert_alike(expected, actual)


def test_a_scaled_loss_gives_scaled_gradients():
    expected, actual = network(), network()
    chunks = batch()[0].split(5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(7)
    square(one_graph(expected, chunks)).backward()
    torch.manual_seed(7)
    scaler.scale(square(cached_embeddings(actual, chunks))).backward()
    for a, b in zip(gradients(actual), gradients(expected), strict=True):
        torch.testing.assert_close(a, 1024 * b, **EXACT)


class Copied(nn.Module):
    def forward(self, x):
        return x.clone()


def test_inputs_from_inference_mode_reach_a_network_that_copies_them():
    with torch.inference_mode():
        x = batch()[0]
    expected, actual = network().eval(), network().eval()
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        embed_copy = nn.Sequential(Copied(), net)
        square(embed(embed_copy, x.split(5))).backward()
    assert_alike(expected, actual)
