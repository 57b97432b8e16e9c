"""A small budget for image files, published rows made small, and a network that trains on them in
no time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.backbones import Backbone
from benchmarks.crops import POTENTIAL_FIELD
from benchmarks.recipes import Budget, Recipe
from benchmarks.recipes.published import Row

SMALL = Budget(
    epochs=2,
    iterations=2,
    batch_size=6,
    images_per_class=2,
    embedding_size=16,
    weight_decay=5e-4,
    backbone=Backbone("resnet18"),
    crops=replace(POTENTIAL_FIELD, size=32),
    warm_up_epochs=1,
)


class Tiny(nn.Module):
    """In place of a ResNet of 11 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=7, stride=4)
        self.bn1 = nn.BatchNorm2d(16)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.bn1(self.conv1(images)).relu()
        scores: torch.Tensor = self.fc(self.avgpool(maps).flatten(1))
        return scores


AT_ONCE: Mapping[str, Any] = {"startup_size": 0, "start_after": 1, "memory_size": 12}


def at_once(recipe: Recipe) -> Recipe:
    """What waits for hundreds of steps does so no more."""

    def sooner(given: Mapping[str, Any], also: Mapping[str, Any]) -> dict[str, Any]:
        return {**given, **{name: AT_ONCE[name] for name in AT_ONCE if name in {**given, **also}}}

    pooled = {"startup_size": 0} if "num_prototypes" in recipe.pooling_args else {}
    return replace(
        recipe,
        loss_args=sooner(recipe.loss_args, {}),
        pooling_args=sooner(recipe.pooling_args, pooled),
    )


def small(row: Row, size: int, **changed: Any) -> Row:
    """Two epochs of one step on six images of ``size`` pixels; what is ``changed`` too."""
    assert row.budget.crops is not None
    return replace(
        row,
        recipe=at_once(row.recipe),
        budget=replace(
            row.budget,
            epochs=2,
            iterations=1,
            batch_size=6,
            images_per_class=min(2, row.budget.images_per_class),
            crops=replace(row.budget.crops, size=size),
            **changed,
        ),
    )
