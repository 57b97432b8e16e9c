"""Features that no data set has: quick to train on, with classes enough for folds."""

import torch
from torch import Tensor

from benchmarks.datasets import Data
from benchmarks.datasets.split import Split
from benchmarks.recipes import Budget

WIDTH, PER_CLASS = 6, 8
BUDGET = Budget(
    epochs=2, iterations=2, batch_size=8, images_per_class=4, embedding_size=WIDTH, trunk_lr=1e-3
)


def few_features(name: str = "few", train: int = 8, test: int = 4) -> Data:
    """Noisy copies of one random direction a class."""
    generator = torch.Generator().manual_seed(0)

    def split(first: int, classes: int) -> Split:
        labels = torch.arange(classes).repeat_interleave(PER_CLASS)
        centres = torch.randn(classes, WIDTH, generator=generator)
        noise = torch.randn(len(labels), WIDTH, generator=generator)
        names = tuple(f"class {first + number}" for number in range(classes))
        return Split(centres[labels] + noise, labels, names)

    return Data(name, train=split(0, train), test=split(train, test))


def unreadable(images: Tensor) -> Tensor:
    """Of the same shape, and without values: whatever reads one raises."""
    return images.to("meta")
