"""One forward and backward pass of generalized sum pooling, in full and in parts.

What it is compared with is written here: the pooling weights by 100 steps of the fixed-point
iteration that the authors released, differentiated by autograd, and average pooling.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from pml_extras.functional import sum_pooling_weights, unit_ball_cost
from pml_extras.pooling import GeneralizedSumPooling, replace_pooling

MASS, SHARPNESS, STEPS = 0.3, 5.0, 100
EMBEDDING_SIZE, PROTOTYPES, PIXELS = 512, 64, 224

Pass = Callable[[int], None]
Weights = Callable[[Tensor], tuple[Tensor, Tensor]]  # (B, m, n) costs -> (B, n), (B, m)


def closed_form(cost: Tensor) -> tuple[Tensor, Tensor]:
    """As the layer computes them."""
    return sum_pooling_weights(cost, mass=MASS, sharpness=SHARPNESS)


def unrolled(cost: Tensor) -> tuple[Tensor, Tensor]:
    """By the fixed-point iteration, every step of which is kept for the backward pass."""
    num = cost.shape[2]
    kernel = (-SHARPNESS * cost).exp()  # (B, m, n)
    total = kernel.sum(dim=1)  # (B, n)
    t = cost.new_ones(len(cost), 1)
    for _ in range(STEPS):
        residual = 1 / (num * (1 + t * total))  # (B, n)
        t = MASS / (residual * total).sum(dim=1, keepdim=True)
    moved = t * residual / MASS  # (B, n)
    return moved * total, (kernel * moved[:, None]).sum(dim=2)


def of_weights(
    weights: Weights, images: int, locations: int, prototypes: int, device: torch.device
) -> Pass:
    """From given costs to weights and shares, and back to the gradient of the costs.

    The costs are made before the pass, so that it does not count them; it takes no more rows.
    """
    costs = 2 * torch.rand(images, prototypes, locations, device=device)

    def one_pass(rows: int) -> None:
        if rows > images:
            raise ValueError(f"rows: expected at most {images}, whose costs are given; got {rows}.")
        cost = costs[:rows].detach().requires_grad_()
        p, z = weights(cost)
        (p.square().sum() + z.square().sum()).backward()

    return one_pass


def of_layer(
    weights: Weights | None, locations: int, size: int, prototypes: int, device: torch.device
) -> Pass:
    """Projection, distances, weights and pooling, (B, n, size) -> (B, size) and the shares; the
    layer as it is without ``weights``."""
    layer = GeneralizedSumPooling(
        size, size, num_prototypes=prototypes, mass=MASS, sharpness=SHARPNESS, startup_size=0
    ).to(device)

    def one_pass(rows: int) -> None:
        tokens = torch.randn(rows, locations, size, device=device, requires_grad=True)
        if weights is None:
            pooled, z = layer(tokens, return_attributes=True)
        else:
            features = layer.projection(tokens)
            p, z = weights(unit_ball_cost(features, layer.prototypes))
            pooled = (p[:, None] @ features).squeeze(1)
        (pooled.square().sum() + z.square().sum()).backward()

    return one_pass


def of_average(locations: int, size: int, device: torch.device) -> Pass:
    """Average pooling and a linear layer of the same width."""
    projection = nn.Linear(size, size, bias=False, device=device)

    def one_pass(rows: int) -> None:
        tokens = torch.randn(rows, locations, size, device=device, requires_grad=True)
        projection(tokens.mean(dim=1)).square().sum().backward()

    return one_pass


def of_training_step(*, pooled: bool, device: torch.device) -> Pass:
    """One step of torchvision's resnet50, ``pooled`` by this layer or by the average."""
    network = resnet50(num_classes=EMBEDDING_SIZE)
    if pooled:
        network = replace_pooling(
            network, EMBEDDING_SIZE, classifier=False, num_prototypes=PROTOTYPES, startup_size=0
        )
    network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def one_pass(rows: int) -> None:
        images = torch.randn(rows, 3, PIXELS, PIXELS, device=device)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    return one_pass
