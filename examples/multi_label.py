"""Images with several labels: by the first label alone, by all labels at once, by any in common.

Trains a small network on made-up images of one to three things each, with NTXentLoss, in three
ways: the first thing is the class of an image; images with exactly the same things are of one
class; and ``match_fn``: images with a thing in common are positives of each other, which is no
equality of classes. In a fourth way positives have half of their things in common, and images that
share less are neither positives nor negatives of each other:

    python examples/multi_label.py

Prints for held-out images how often the nearest image has a thing in common, and the mean
overlap (things in common over things in either) of the 10 nearest: mean and spread of 3 seeds.
Takes about half a minute on a CPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pml_extras.losses import NTXentLoss

THINGS, STEPS, BATCH = 20, 300, 128


def made_up_images(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 64) images, sums of their things under noise, and (N, 20) bool targets."""
    generator = torch.Generator().manual_seed(seed)
    looks = torch.randn(THINGS, 64, generator=torch.Generator().manual_seed(7))
    order = torch.rand(num, THINGS, generator=generator).argsort(dim=1)
    targets = order < torch.randint(1, 4, (num, 1), generator=generator)  # one to three of them
    strength = 0.5 + torch.rand(num, THINGS, generator=generator)
    clutter = torch.randn(num, 8, generator=generator) @ torch.randn(
        8, 64, generator=torch.Generator().manual_seed(8)
    )
    images = (targets * strength) @ looks + 1.2 * clutter
    return (images + torch.randn(num, 64, generator=generator)).tanh(), targets


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """(B, R) number of things in common."""
    return a.float() @ b.float().T


def any_in_common(a: Tensor, b: Tensor) -> Tensor:
    return overlaps(a, b) > 0


def half_in_common(a: Tensor, b: Tensor) -> Tensor:
    """1 for half of the things in either, or more; 0 for none in common; -1, neither, between."""
    both = overlaps(a, b)
    either = a.sum(dim=1, keepdim=True) + b.sum(dim=1) - both
    return torch.where(2 * both >= either, 1, torch.where(both == 0, 0, -1))


def first_thing(targets: Tensor) -> Tensor:
    return targets.int().argmax(dim=1)


def which_things(targets: Tensor) -> Tensor:
    return (targets.long() << torch.arange(THINGS)).sum(dim=1)


def train(loss_func: nn.Module, labels_of: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """(2,) what is printed."""
    images, targets = made_up_images(4000, seed)
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
    labels = labels_of(targets)
    for _ in range(STEPS):
        batch = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        loss_func(trunk(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return retrieval(trunk, *made_up_images(1000, seed + 1000))


def retrieval(trunk: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    rows = nn.functional.normalize(trunk(images))
    nearest = (rows @ rows.T).fill_diagonal_(-2).topk(10).indices  # (N, 10)
    both = overlaps(targets, targets)
    either = targets.sum(dim=1, keepdim=True) + targets.sum(dim=1) - both
    hit = (both > 0).float().gather(1, nearest[:, :1]).mean()
    return torch.stack([hit, (both / either).gather(1, nearest).mean()])


def main() -> None:
    ways: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
        "the first thing is the class": (NTXentLoss(0.2), first_thing),
        "the same things are a class": (NTXentLoss(0.2), which_things),
        "any thing in common": (NTXentLoss(0.2, match_fn=any_in_common), Tensor.bool),
        "half of the things in common": (NTXentLoss(0.2, match_fn=half_in_common), Tensor.bool),
    }
    for name, (loss_func, labels_of) in ways.items():
        hit, overlap = torch.stack([train(loss_func, labels_of, seed) for seed in range(3)]).T
        print(
            f"{name:30s}  nearest has one in common {hit.mean():5.1%} ± {hit.std():.1%}"
            f"   overlap of 10 nearest {overlap.mean():.3f} ± {overlap.std():.3f}"
        )


if __name__ == "__main__":
    main()
