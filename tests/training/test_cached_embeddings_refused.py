"""What cached embeddings refuse, at once or in the backward pass."""

import pytest
import torch
from torch import nn

from pml_extras.training import cached_embeddings
from tests.training.setting import SIZE, batch, network, square


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, [torch.ones(2, 3)]), "modules: expected .* Pass .trunk,."),
        ((nn.Identity(), torch.ones(4, 3)), r"chunks: .* shape \(4, 3\)\. Split it"),
        ((nn.Identity(), []), "chunks: expected at least one chunk; got none"),
        ((nn.Linear(3, 2), [torch.ones(2, 3, requires_grad=True)]), "chunks: .* no gradient"),
        (
            (nn.Linear(3, 2), [{"x": [torch.ones(2, 3, requires_grad=True)]}]),
            "chunks: .* no gradient",
        ),
        ((nn.LazyLinear(2), [torch.ones(2, 3)]), "modules: .* got LazyLinear. Call `embed` once"),
        (
            (nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d(affine=False)), [torch.ones(2, 3)]),
            "modules: .* got LazyBatchNorm1d",
        ),
        ((nn.Flatten(0), [torch.ones(2, 3)]), r"embed\(chunk\): .* \(rows, size\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cached_embeddings(*arguments)


def test_modules_alone_are_modules():
    with pytest.raises(ValueError, match="modules: expected modules alone; got function"):
        cached_embeddings(network(), batch()[0].split(5), modules=[square])


def test_a_lazy_module_may_learn_its_size_without_gradients():
    net, chunks = nn.LazyLinear(SIZE).double(), batch()[0].flatten(1).split(5)
    with torch.no_grad():
        cached_embeddings(net, chunks)
    square(cached_embeddings(net, chunks)).backward()
    assert net.weight.grad.abs().max() > 0


@pytest.mark.parametrize("change", ["step", "replace"])
def test_parameters_that_change_before_the_backward_pass_are_refused(change):
    net = network()
    net[5].weight = nn.Parameter(net[5].weight.detach().clone())
    z = cached_embeddings(net, batch()[0].split(10))
    square(z).backward(retain_graph=True)
    if change == "step":
        torch.optim.SGD(net.parameters(), lr=0.1).step()
    else:
        net[5].weight = nn.Parameter(net[5].weight.detach().clone())
    with pytest.raises(ValueError, match=r"modules: .* got changed ones\. Step after backward"):
        square(z).backward()


@pytest.mark.parametrize("form", [list, lambda parts: [{"x": part} for part in parts]])
def test_inputs_that_change_before_the_backward_pass_are_refused(form):
    net, x = network(), batch()[0]

    def embed(chunk):
        return net(chunk if torch.is_tensor(chunk) else chunk["x"])

    z = cached_embeddings(embed, form(x.split(10)), modules=net)
    x[0].zero_()
    with pytest.raises(ValueError, match=r"chunks: .* got changed ones\. Pass copies"):
        square(z).backward()


def test_inputs_that_the_first_pass_changes_are_refused():
    net = nn.Sequential(nn.ReLU(inplace=True), network())
    with pytest.raises(ValueError, match=r"chunks: .* got changed ones"):
        square(cached_embeddings(net, batch()[0].split(10))).backward()


def test_second_derivatives_are_refused():
    z = cached_embeddings(network(), batch()[0].split(10))
    with pytest.raises(ValueError, match="create_graph: expected False"):
        square(z).backward(create_graph=True)
