"""A network with all that two passes could see differently, and the pass that they stand for."""

import copy

import torch
from torch import nn

from pml_extras.training import cached_embeddings

ROWS, SIZE, CLASSES = 23, 6, 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}


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


def distance(actual, expected):
    """Of the gradients of two networks, relative."""
    a, b = (torch.cat([g.flatten() for g in gradients(net)]) for net in (actual, expected))
    return (a - b).norm() / b.norm()


def square(rows):
    """A loss in which every row meets every other one."""
    return (rows @ rows.T).logsumexp(dim=1).square().mean()


def both(net, chunks, loss=square):
    """The network after a graph of all chunks, and its copy after cached chunks, from one seed."""
    other = copy.deepcopy(net)
    torch.manual_seed(7)
    expected = one_graph(net, chunks)
    torch.rand(3)  # as a loss may
    loss(expected).backward()
    after = torch.rand(4)
    torch.manual_seed(7)
    actual = cached_embeddings(other, chunks)
    torch.rand(3)
    loss(actual).backward()
    assert torch.equal(actual, expected)
    assert torch.equal(torch.rand(4), after)
    return net, other


def assert_alike(expected, actual):
    torch.testing.assert_close(gradients(actual), gradients(expected), **EXACT)
    torch.testing.assert_close(list(actual.buffers()), list(expected.buffers()), **EXACT)
    assert max(g.abs().max() for g in gradients(actual)) > 1e-4
