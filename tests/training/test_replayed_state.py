"""What a pass depends on is the same in the second one, and is left as one pass leaves it."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pml_extras.pooling import GeneralizedSumPooling
from pml_extras.training import cached_embeddings, grad_cache
from pml_extras.training._replay import devices_of
from tests.training.setting import (
    ROWS,
    SIZE,
    assert_alike,
    batch,
    both,
    distance,
    gradients,
    network,
    one_graph,
    square,
)


@given(rows=st.integers(6, 40), chunk_size=st.integers(5, 41))
def test_dropout_and_batch_norm_are_as_in_one_graph_over_the_chunks(rows, chunk_size):
    chunks = batch(rows)[0].split(chunk_size)
    expected, actual = both(network(), chunks)
    assert_alike(expected, actual)
    assert actual[1].num_batches_tracked == 1 + len(chunks)  # once for network()


@pytest.mark.parametrize("chunk_size", [5, 9, 23])
def test_so_are_they_in_float32(chunk_size):
    expected, actual = both(network(torch.float32), batch(ROWS, torch.float32)[0].split(chunk_size))
    assert distance(actual, expected) <= 1e-6


class Averaging(nn.Module):
    """Subtracts a running mean that it assigns anew in every pass."""

    def __init__(self, start=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE, dtype=torch.float64))
        self.register_buffer("mean", None if start is None else torch.zeros(SIZE).double() + start)

    def forward(self, x):
        mean = x.detach().mean(dim=0)
        self.mean = mean if self.mean is None else 0.5 * self.mean + 0.5 * mean
        return (x - self.mean) * self.weight


class Counting(nn.Linear):
    """Scales by a number that is neither buffer nor parameter, and grows with every pass."""

    def __init__(self):
        super().__init__(SIZE, SIZE, dtype=torch.float64)
        self.state = {"passes": 0}

    def forward(self, x):
        self.state["passes"] += 1
        return super().forward(x) * self.state["passes"]

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.parametrize(
    "layer",
    [
        nn.utils.parametrizations.spectral_norm(
            nn.Linear(SIZE, SIZE).double(), n_power_iterations=1
        ),
        Averaging(),
        Averaging().eval(),
        Averaging(None),
    ],
    ids=["spectral norm", "running mean", "in eval mode", "from the first pass on"],
)
def test_buffers_that_steer_the_output_are_those_of_the_first_pass(layer):
    net = nn.Sequential(network(), layer)
    assert_alike(*both(net, batch()[0].split(5)))


@pytest.mark.parametrize("training", [True, False])
def test_extra_state_that_steers_the_output_is_that_of_the_first_pass(training):
    layer, chunks = Counting().train(training), batch()[0].split(5)

    def loss(z):
        square(z).backward(retain_graph=True)
        return z.sin().sum()

    expected, actual = both(nn.Sequential(network(), layer), chunks, loss)
    assert_alike(expected, actual)
    assert actual[1].state == expected[1].state == {"passes": len(chunks)}


def test_one_module_is_taken_with_its_own_buffers():
    class Net(nn.Sequential):
        def forward(self, x):
            self.scale = self.scale + 1
            return super().forward(x) * self.scale

    expected, actual = Net(network()), Net(network())
    chunks = batch()[0].split(5)
    for net, embed in (
        (expected, one_graph),
        (actual, lambda net, chunks: cached_embeddings(lambda x: net(x), chunks, modules=net)),
    ):
        net.register_buffer("scale", torch.zeros(()).double())
        torch.manual_seed(7)
        square(embed(net, chunks)).backward()
    assert_alike(expected, actual)


@pytest.mark.parametrize("before", [True, False], ids=["eval before", "train before"])
def test_training_modes_are_those_of_the_first_pass_and_stay_as_they_are(before):
    expected, actual = network().train(not before), network().train(not before)
    chunks = batch()[0].split(5)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        z = embed(net, chunks)
        net.train(before)
        square(z).backward()
        assert all(part.training is before for part in net.modules())
    assert_alike(expected, actual)


@pytest.mark.parametrize("cached_first", [True, False])
def test_cached_and_plain_passes_of_one_network_go_into_one_loss(cached_first):
    expected, actual = network(), network()
    chunks, more = batch()[0].split(5), batch(31)[0]
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        if cached_first:
            z, plain = embed(net, chunks), net(more)
        else:
            plain, z = net(more), embed(net, chunks)
        (square(z) + square(plain)).backward()
    assert_alike(expected, actual)


def test_a_buffer_is_the_same_tensor_before_and_after():
    net = network()
    held = list(net.buffers())
    square(cached_embeddings(net, batch()[0].split(5))).backward()
    assert all(map(lambda a, b: a is b, net.buffers(), held))


def test_replicas_have_generators_too():
    net = nn.DataParallel(network())
    net.device_ids = [0, 3]
    kind = net.module[0].weight.device.type
    assert {torch.device(kind, 0), torch.device(kind, 3)} < devices_of([nn.Sequential(net)], [])


def test_a_pooling_is_to_start_before():
    layer = GeneralizedSumPooling(2, SIZE, num_prototypes=3, startup_size=8).double()
    chunks = batch()[0].transpose(1, 2).split(5)
    with pytest.raises(ValueError, match=r"^modules: expected its pooling to have started"):
        cached_embeddings(layer, chunks)
    layer.start_from(torch.randn(8, SIZE, dtype=torch.float64))
    assert_alike(*both(layer, chunks))


@pytest.mark.parametrize("first", [0, 1])
def test_two_batches_through_one_network_before_their_losses(first):
    expected, actual = network(), network()
    batches = batch()[0].split(5), batch(31)[0].split(7)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        embeddings = [embed(net, chunks) for chunks in batches]
        square(embeddings[first]).backward()
        square(embeddings[1 - first]).backward()
    assert_alike(expected, actual)


def test_two_batches_of_one_network_in_one_loss():
    expected, actual = network(), network()
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        left, right = embed(net, batch()[0].split(5)), embed(net, batch(31)[0].split(7))
        (left @ right.T).square().mean().backward()
    assert_alike(expected, actual)


def test_the_generator_of_a_gpu_is_replayed_too(monkeypatch):
    """One on the CPU stands in for it."""
    gpu, generator = torch.device("cuda", 0), torch.Generator()
    monkeypatch.setattr(grad_cache, "devices_of", lambda *_: {torch.device("cpu"), gpu})
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: generator.get_state())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: generator.set_state(state)
    )

    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) * torch.rand(x.shape, generator=generator, dtype=x.dtype)

    expected = nn.Sequential(network(), Noisy(SIZE, SIZE).double())
    actual = copy.deepcopy(expected)
    chunks, states = batch()[0].split(5), []
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        generator.manual_seed(7)
        z = embed(net, chunks)
        torch.rand(3, generator=generator)  # as a loss may
        square(z).backward()
        states.append(generator.get_state())
    assert_alike(expected, actual)
    assert torch.equal(*states)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_the_first_pass_wherever_backward_is_called(inside, dtype):
    expected, actual = network(torch.float32), network(torch.float32)
    chunks = batch(ROWS, torch.float32)[0].split(5)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        torch.manual_seed(7)
        # one cast of a weight for all chunks would sum their gradients in the half type
        with torch.autocast("cpu", dtype=dtype, cache_enabled=embed is cached_embeddings):
            z = embed(net, chunks)
            assert z.dtype == dtype
            loss = square(z.float())
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
    for a, b in zip(gradients(actual), gradients(expected), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_a_pass_outside_autocast_is_repeated_outside():
    expected, actual = network(torch.float32).eval(), network(torch.float32).eval()
    chunks = batch(ROWS, torch.float32)[0].split(5)
    for net, embed in ((expected, one_graph), (actual, cached_embeddings)):
        loss = square(embed(net, chunks))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss.backward()
    torch.testing.assert_close(gradients(actual), gradients(expected), rtol=1e-5, atol=1e-6)


def test_a_failure_in_the_second_pass_leaves_buffers_and_generators_alone():
    class Failing(nn.BatchNorm1d):
        def forward(self, x):
            rows = super().forward(x)
            if torch.is_grad_enabled() and len(rows) == 3:
                raise RuntimeError("the last chunk")
            return rows

    net = nn.Sequential(network(), Failing(SIZE).double())
    z = cached_embeddings(net, batch()[0].split(10))
    buffers, state = [b.clone() for b in net.buffers()], torch.get_rng_state()
    with pytest.raises(RuntimeError, match="the last chunk"):
        square(z).backward()
    assert all(map(torch.equal, net.buffers(), buffers))
    assert torch.equal(torch.get_rng_state(), state)
