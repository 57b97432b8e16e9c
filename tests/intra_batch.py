"""What the tests of the network and of its loss share: small instances, and the oracle's view."""

import torch

BLOCKS = ("q", "k", "v")
LAYER = {
    "W_o": "self_attn.out_proj.weight",
    "b_o": "self_attn.out_proj.bias",
    "W_1": "linear1.weight",
    "b_1": "linear1.bias",
    "W_2": "linear2.weight",
    "b_2": "linear2.bias",
    "scale_1": "norm1.weight",
    "shift_1": "norm1.bias",
    "scale_2": "norm2.weight",
    "shift_2": "norm2.bias",
}


def scrambled(module, seed=3):
    """Every parameter in generic position, float64: zeros at the start would hide terms."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def network_as_lists(network, values=None):
    """Parameters of a MessagePassingNetwork, or other values of theirs, by the oracle's names."""
    values = dict(network.named_parameters()) if values is None else values
    layers = []
    for index in range(len(network.layers)):
        of = f"layers.{index}."
        held = {ours: values[of + theirs].tolist() for ours, theirs in LAYER.items()}
        for kind, name in (("W", "weight"), ("b", "bias")):
            parts = values[f"{of}self_attn.in_proj_{name}"].chunk(3)
            held |= {f"{kind}_{block}": x.tolist() for block, x in zip(BLOCKS, parts, strict=True)}
        layers.append(held)
    return {
        "P": values["projection.weight"].tolist(),
        "b_P": values["projection.bias"].tolist(),
        "layers": layers,
    }


def loss_as_lists(loss, values=None):
    """Parameters of an IntraBatchConnectionsLoss, or other values of theirs, likewise."""
    values = dict(loss.named_parameters()) if values is None else values
    held = {}
    if loss.network is not None:
        of_network = {k.removeprefix("network."): v for k, v in values.items() if "network." in k}
        held |= network_as_lists(loss.network, of_network)
        held |= {"scale_n": values["neck.weight"].tolist(), "W_c": values["classifier"].tolist()}
    if loss.auxiliary is not None:
        held["W_a"] = values["auxiliary.weight"].tolist()
        held["b_a"] = values["auxiliary.bias"].tolist()
    return held


def worked_example(owner):
    """Set the parameters of the worked example in a network of 4 dimensions and 2 heads."""
    eye = torch.eye(4, dtype=torch.float64)
    values = {
        "self_attn.in_proj_weight": eye.repeat(3, 1),
        "self_attn.out_proj.weight": eye,
        "linear1.weight": eye.repeat(4, 1),
        "linear2.weight": eye.repeat(1, 4) / 4,
    }
    owner.double()
    with torch.no_grad():
        owner.projection.weight.copy_(eye)
        owner.projection.bias.zero_()
        for layer in owner.layers:
            for name, p in layer.named_parameters():
                if "norm" not in name:
                    p.copy_(values[name]) if name in values else p.zero_()
    return owner


EXAMPLE_ROWS = ((3.0, 4.0, 0.0, 0.0), (0.0, 0.0, 5.0, 12.0), (1.0, 2.0, 2.0, 4.0))
EXAMPLE_LABELS = (0, 1, 0)


def example_rows():
    return torch.tensor(EXAMPLE_ROWS, dtype=torch.float64)
