"""Images in memory, in files, or texts: what of a training depends on that."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from benchmarks.backbones import ImageTrunk, Pooling
from benchmarks.datasets import AnyData, Data, ImageFiles, Loaded, RawTexts
from benchmarks.datasets.image_files import Numbered, RandomPictures
from benchmarks.recipes import Budget
from benchmarks.recipes.budget import Groups
from benchmarks.text_trunk import TextTrunk


def image_trunk(budget: Budget, seed: int, pooling: Pooling | None) -> ImageTrunk:
    """The budget's backbone, the same start for every recipe of a seed, but for what a pooling
    adds."""
    assert budget.backbone is not None
    torch.manual_seed(seed)
    return ImageTrunk(budget.backbone, budget.embedding_size, pooling)


def text_trunk(budget: Budget, seed: int, pooling: Pooling | None) -> TextTrunk:
    """The budget's encoder, likewise."""
    assert budget.encoder is not None
    torch.manual_seed(seed)
    return TextTrunk(budget.encoder, budget.embedding_size, pooling)


def trunk_groups(trunk: nn.Module, budget: Budget) -> Groups:
    """One of all its parameters, or of backbone and head with a rate of their own."""
    parts = {trunk: 1.0}
    if budget.head_multiple != 1:
        assert isinstance(trunk, ImageTrunk)
        parts = {trunk.features: 1.0, trunk.pooling: budget.head_multiple}
    return [
        {
            "params": list(part.parameters()),
            "lr": multiple * budget.trunk_lr,
            "weight_decay": budget.weight_decay,
        }
        for part, multiple in parts.items()
    ]


def readable(data: Loaded, budget: Budget) -> AnyData:
    """Texts as the tokens of the budget's encoder; all else as it is.

    Raises:
        ValueError: the budget is one for another kind of data, or its encoder cannot be read.
    """
    if isinstance(data, ImageFiles) != (budget.backbone is not None):
        raise ValueError(
            f"budget.backbone: expected one for image files, and None for all else; got "
            f"{budget.backbone} for {data.name}. Take the budget of this data set."
        )
    if isinstance(data, RawTexts) != (budget.encoder is not None):
        raise ValueError(
            f"budget.encoder: expected one for texts without features, and None for all else; got "
            f"{budget.encoder} for {data.name}. Take the budget of this data set."
        )
    if isinstance(data, RawTexts):
        assert budget.encoder is not None
        return data.tokenised(budget.encoder.tokens)
    return data


def training_set(
    data: AnyData, budget: Budget, seed: int, sampler: Iterable[int]
) -> tuple[Dataset[Any], Iterable[Any]]:
    """What is trained on, and what names its images in order; crops are those of the seed."""
    if isinstance(data, Data):
        return TensorDataset(data.train.images, data.train.labels), sampler
    assert budget.crops is not None
    return RandomPictures(data.train, budget.crops.train(), seed), Numbered(sampler)
