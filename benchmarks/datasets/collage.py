"""Two by two collages: one image that counts among three that do not.

After the toy set of Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV
2023. A departure: collages are made once and lie in memory, where the released code reshuffles its
backgrounds whenever they are used up; several copies of a target, each in a collage of its own,
come near to that.
"""

import torch
from torch import Tensor

from benchmarks.datasets.split import Split


def collage(targets: Split, backgrounds: Split, *, seed: int, copies: int = 1) -> Split:
    """Each target in a random quadrant; background images in the three others.

    Backgrounds are drawn without replacement from all of them, shuffled anew whenever they are used
    up.

    Args:
        targets: N images (channels, H, W), whose labels and classes the collages keep.
        backgrounds: at least one image of the same shape, of classes that no target has.
        seed: of quadrants and shuffles; torch's global generator is neither read nor moved.
        copies: collages of each target.

    Returns:
        N * copies collages (channels, 2 H, 2 W), all targets in their order once after another,
        with ``target_quadrant``.

    Raises:
        ValueError: a class is on both sides, there is no background, or shapes differ.
    """
    if shared := sorted(set(targets.classes) & set(backgrounds.classes)):
        raise ValueError(
            f"backgrounds: expected classes that no target has; got {len(shared)} in both, e.g. "
            f"{shared[0]!r}. Choose them apart with `only`."
        )
    shape = list(targets.images.shape[1:])
    if len(backgrounds.images) == 0 or list(backgrounds.images.shape[1:]) != shape:
        raise ValueError(
            f"backgrounds.images: expected (M, {', '.join(map(str, shape))}) with M > 0, as the "
            f"targets; got {tuple(backgrounds.images.shape)}."
        )
    count = copies * len(targets.images)
    generator = torch.Generator().manual_seed(seed)
    quadrant = torch.randint(4, (count,), generator=generator)  # (N,)
    drawn = _without_replacement(len(backgrounds.images), 3 * count, generator).view(count, 3)
    channels, height, width = shape
    images = targets.images.new_empty(count, channels, 2 * height, 2 * width)
    tiles = images.view(count, channels, 2, height, 2, width).permute(0, 2, 4, 1, 3, 5)
    row_idx = torch.arange(count)
    tiles[row_idx, quadrant // 2, quadrant % 2] = targets.images.repeat(copies, 1, 1, 1)
    for k in range(3):
        place = k + (k >= quadrant).long()  # (N,), the k-th quadrant that is not the target's
        tiles[row_idx, place // 2, place % 2] = backgrounds.images[drawn[:, k]]
    return Split(images, targets.labels.repeat(copies), targets.classes, target_quadrant=quadrant)


def _without_replacement(population: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,) indices: one shuffle of all after another."""
    shuffles = -(-count // population)
    drawn = [torch.randperm(population, generator=generator) for _ in range(shuffles)]
    return torch.cat(drawn)[:count]
