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
from pml_extras.pooling import GeneralizedSumPooling
from pml_extras.training import cached_embeddings

ROWS, SIZE, CLASSES = 23, 6, 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}
LOSSES = {
    "pairs": losses.LiftedStructureLoss,
    "miner": pml.MultiSimilarityLoss,
    "proxies": lambda: pml.ProxyAnchorLoss(CLASSES, SIZE),
    "potential field": lambda: losses.PotentialFieldLoss(CLASSES, SIZE, proxies_per_class=2),
    "network": lambda: losses.IntraBatchConnectionsLoss(CLASSES, SIZE, num_heads=2, dropout=0.0),
}


def network(dtype=torch.float64):
    """Convolution, batch norm that has seen data, and dropout."""
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.4)
    )
    layers.append(nn.Linear(20, SIZE))
    layers(torch.randn(50, 2, 7))
    return layers.to(dtype)


def batch(rows=ROWS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 2, 7, generator=generator, dtype=dtype)
    return x, torch.randint(CLASSES, (rows,), generator=generator)


def one_graph(net, chunks):
    return torch.cat([net(chunk) for chunk in chunks])


def gradients(*modules):
    return [p.grad for module in modules for p in module.parameters()]


def square(rows):
    """A loss in which every row meets every other one."""
    return (rows @ rows.T).logsumexp(dim=1).square().mean()


def both(net, chunks, loss=square):
    """The network after a graph of all chunks, and its copy after cached chunks, from one seed."""
    other = copy.deepcopy(net)
    torch.manual_seed(7)
    expected = one_graph(net, chunks)
    loss(expected).backward()
    after = torch.rand(4)
    torch.manual_seed(7)
    actual = cached_embeddings(other, chunks)
    loss(actual).backward()
    assert torch.equal(actual, expected)
    assert torch.equal(torch.rand(4), after)
    return net, other


def assert_alike(expected, actual):
    torch.testing.assert_close(gradients(actual), gradients(expected), **EXACT)
    torch.testing.assert_close(list(actual.buffers()), list(expected.buffers()), **EXACT)
    assert max(g.abs().max() for g in gradients(actual)) > 1e-4


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
    for actual, expected in zip(gradients(*cached), gradients(*alone), strict=True):
        assert (actual - expected).norm() <= 1e-6 * max(1.0, expected.norm())


@given(rows=st.integers(6, 40), chunk_size=st.integers(5, 41))
def test_dropout_and_batch_norm_are_as_in_one_graph_over_the_chunks(rows, chunk_size):
    chunks = batch(rows)[0].split(chunk_size)
    expected, actual = both(network(), chunks)
    assert_alike(expected, actual)
    assert actual[1].num_batches_tracked == 1 + len(chunks)  # once for network()


class Averaging(nn.Module):
    """Subtracts a running mean that it assigns anew in every pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(SIZE, dtype=torch.float64))

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(dim=0)
        return (x - self.mean) * self.weight


@pytest.mark.parametrize(
    "layer",
    [
        nn.utils.parametrizations.spectral_norm(
            nn.Linear(SIZE, SIZE).double(), n_power_iterations=1
        ),
        Averaging(),
    ],
    ids=["spectral norm", "running mean"],
)
def test_buffers_that_steer_the_output_are_those_of_the_first_pass(layer):
    net = nn.Sequential(network(), layer)
    assert_alike(*both(net, batch()[0].split(5)))


def test_a_pooling_that_starts_between_two_chunks_starts_once():
    torch.manual_seed(0)
    layer = GeneralizedSumPooling(2, SIZE, num_prototypes=3, startup_size=8).double()
    chunks = batch()[0].transpose(1, 2).split(5)
    expected, actual = both(layer, chunks)
    assert_alike(expected, actual)
    assert actual.started
    assert actual.get_extra_state() == expected.get_extra_state()
    assert torch.equal(actual.prototypes, expected.prototypes)


def test_two_batches_through_one_network_before_the_loss():
    expected, actual = network(), network()
    left, right = batch()[0].split(5), batch(31)[0].split(7)
    torch.manual_seed(7)
    a, b = one_graph(expected, left), one_graph(expected, right)
    (a @ b.T).square().mean().backward()
    torch.manual_seed(7)
    a, b = cached_embeddings(actual, left), cached_embeddings(actual, right)
    (a @ b.T).square().mean().backward()
    assert_alike(expected, actual)


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
    square(cached_embeddings(actual.eval(), chunks)).backward()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, [torch.ones(2, 3)]), "modules: expected .* Pass .trunk,."),
        ((nn.Identity(), torch.ones(4, 3)), r"chunks: .* shape \(4, 3\)\. Split it"),
        ((nn.Identity(), []), "chunks: expected at least one chunk; got none"),
        ((nn.Linear(3, 2), [torch.ones(2, 3, requires_grad=True)]), "chunks: .* no gradient"),
        ((nn.Flatten(0), [torch.ones(2, 3)]), r"embed\(chunk\): .* \(rows, size\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cached_embeddings(*arguments)


def test_second_derivatives_are_refused():
    z = cached_embeddings(network(), batch()[0].split(10))
    with pytest.raises(ValueError, match="create_graph: expected False"):
        square(z).backward(create_graph=True)
