"""Images in memory or in files: what of a training depends on that."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from benchmarks.backbones import ImageTrunk, Pooling
from benchmarks.datasets import AnyData, Data
from benchmarks.datasets.image_files import Numbered, RandomPictures
from benchmarks.recipes import Budget


def image_trunk(budget: Budget, seed: int, pooling: Pooling | None) -> ImageTrunk:
    """The budget's backbone, the same start for every recipe of a seed, but for what a pooling
    adds."""
    assert budget.backbone is not None
    torch.manual_seed(seed)
    return ImageTrunk(budget.backbone, budget.embedding_size, pooling)


def check_kind(data: AnyData, budget: Budget) -> None:
    """Refuse a budget for the other kind of data."""
    if isinstance(data, Data) != (budget.backbone is None):
        raise ValueError(
            f"budget.backbone: expected one for image files, and None for images in memory; got "
            f"{budget.backbone} for {data.name}. Take the budget of this data set."
        )


def training_set(
    data: AnyData, budget: Budget, seed: int, sampler: Iterable[int]
) -> tuple[Dataset[Any], Iterable[Any]]:
    """What is trained on, and what names its images in order; crops are those of the seed."""
    if isinstance(data, Data):
        return TensorDataset(data.train.images, data.train.labels), sampler
    assert budget.crops is not None
    return RandomPictures(data.train, budget.crops.train(), seed), Numbered(sampler)
