"""The ensemble of losses with a head a loss: the released demo, which is of Oxford Flowers.

What differs on other sets is not known, and nothing is changed for them. The demo's network is
BN-Inception with an attention head a loss, in a file that is not released: here GoogLeNet with
linear heads on its mean.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from benchmarks.backbones import Backbone
from benchmarks.crops import ENSEMBLE, IMAGENET
from benchmarks.recipes.budget import Budget, Groups
from benchmarks.recipes.loss_ensemble import HEADS, PRIOR
from benchmarks.recipes.published.row import IMAGES, Row
from pml_extras._checks import refuse
from pml_extras.losses import zabihzadeh_param_groups
from pml_extras.weighting import SquaredWeights


def shuffled(labels: Tensor, budget: Budget, seed: int) -> RandomSampler:
    """All images in each pass, without regard to classes."""
    return RandomSampler(range(len(labels)), generator=torch.Generator().manual_seed(seed))


def average_alone(in_channels: int, embedding_size: int) -> nn.Module:
    """Mean of each channel: the embedding layers are the heads of the loss.

    Raises:
        ValueError: the width is not that of the network.
    """
    if in_channels != embedding_size:
        raise refuse("embedding_size", f"{in_channels}, the channels of the network",
                     embedding_size)  # fmt: skip
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def released_groups(loss: Any, budget: Budget) -> Groups:
    """Heads and classifier at 10, proxies at 150 times the trunk's rate; all decay alike."""
    groups: Groups = zabihzadeh_param_groups(loss, budget.trunk_lr, budget.weight_decay)
    return groups


def _row(dataset: str) -> Row:
    recipe = replace(
        HEADS,
        title="Ensemble, a head a loss, as released",
        loss_args={
            "weighting": partial(SquaredWeights, prior=PRIOR),
            "max_scale": None,
            "heads_to_width": 16,  # 64 of 1,024
        },
        groups=released_groups,
        sampler=shuffled,
        pooling=average_alone,
    )
    budget = Budget(
        epochs=20,
        iterations=IMAGES[dataset] // 64,  # the last batch is dropped
        batch_size=64,
        images_per_class=1,  # at random: no sampler looks at classes
        embedding_size=1024,
        trunk_lr=1e-4,
        optimizer="adam_eps_0.01",
        weight_decay=1e-4,
        backbone=Backbone("googlenet"),
        crops=replace(ENSEMBLE, colours=IMAGENET),
    )
    released = {"epochs", "iterations", "batch_size", "trunk_lr", "optimizer", "weight_decay"}
    return Row(recipe, budget, frozenset(released))


ROWS = {dataset: _row(dataset) for dataset in ("cub", "cars196", "sop")}
