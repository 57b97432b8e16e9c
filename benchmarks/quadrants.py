"""Where a pooling looks: its weight on the quadrant of a collage that holds the target."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.datasets.split import Split
from benchmarks.trunk import MapTrunk

WEIGHT_ON_TARGET = "weight_on_target_quadrant"
UNIFORM = 0.25


def weight_on_quadrant(weights: Tensor, quadrant: Tensor) -> Tensor:
    """Part of the weight that lies on one quadrant of each map.

    Args:
        weights: (B, H, W), each map sums to 1; H and W are even.
        quadrant: (B,) int64 in 0..3 in reading order.

    Returns:
        (B,) in [0, 1].

    Raises:
        ValueError: H or W is odd.

    >>> weights = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    >>> weight_on_quadrant(weights, torch.tensor([2]))
    tensor([0.3000])
    """
    count, height, width = weights.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"weights: expected an even height and width, for four quadrants; got {height} x "
            f"{width}. Collages of even quadrants on a trunk that halves them twice give that."
        )
    quadrants = weights.reshape(count, 2, height // 2, 2, width // 2).sum(dim=(2, 4)).flatten(1)
    return quadrants.gather(1, quadrant[:, None]).squeeze(1)  # (B, 4) -> (B,)


def weight_on_target(trunk: nn.Module, split: Split, device: torch.device) -> dict[str, float]:
    """Its mean over the images, by name; empty where the trunk weighs no places, or the images
    have no targets."""
    pooling = trunk.pooling if isinstance(trunk, MapTrunk) else None
    if split.target_quadrant is None or not hasattr(pooling, "weights"):
        return {}
    trunk.eval()
    found: list[Tensor] = []
    batches = DataLoader(TensorDataset(split.images, split.target_quadrant), batch_size=256)
    with torch.no_grad():
        for images, quadrant in batches:
            weights = pooling.weights(trunk.blocks(images.to(device)))  # type: ignore
            found.append(weight_on_quadrant(weights.double().cpu(), quadrant))
    return {WEIGHT_ON_TARGET: float(torch.cat(found).mean())}
