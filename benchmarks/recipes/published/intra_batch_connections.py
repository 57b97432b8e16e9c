"""Intra-batch connections: the released configurations, number by number.

That of Stanford Online Products has no message passing, though its README says that configurations
are the paper's; and that of Cars196 concatenates its two layers, which its configuration for tests
does not. As released, each run reports its best epoch by Recall@1 of the test classes, which also
chose the weights that it was reloaded with. An epoch, 70 as released, has as many steps as would
hold every image once; a pass of the released sampler repeats images and takes more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from benchmarks.backbones import Backbone
from benchmarks.crops import INTRA_BATCH
from benchmarks.recipes.budget import Budget
from benchmarks.recipes.intra_batch_connections import AS_RELEASED, IBC, every_image_a_pass
from benchmarks.recipes.published.row import IMAGES, RELEASED, Row
from pml_extras.samplers import EpochMPerClassSampler


def every_image_in_groups(labels: Tensor, budget: Budget, seed: int) -> EpochMPerClassSampler:
    """All images in each pass, in groups of one class."""
    return EpochMPerClassSampler(
        labels, m=budget.images_per_class, batch_size=budget.batch_size, seed=seed
    )


def maximum_and_linear(in_channels: int, embedding_size: int) -> nn.Module:
    """Largest value of each channel, then a linear layer with bias."""
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(in_channels, embedding_size)
    )


def _row(
    dataset: str,
    batch: tuple[int, int],
    *,
    rate: float,
    decay: float,
    loss_args: Mapping[str, Any] | None = None,
    sampler: Callable[[Tensor, Budget, int], Iterable[int]] = every_image_in_groups,
) -> Row:
    """``batch`` is (classes, images of each)."""
    size = batch[0] * batch[1]
    recipe = replace(
        AS_RELEASED,
        name=IBC.name,
        loss_args={"add_zero_attn": True, **(loss_args or {})},
        sampler=sampler,
        pooling=maximum_and_linear,
    )
    budget = Budget(
        epochs=70,
        iterations=-(-IMAGES[dataset] // size),
        batch_size=size,
        images_per_class=batch[1],
        embedding_size=512,
        trunk_lr=rate,
        optimizer="radam",
        weight_decay=decay,
        backbone=Backbone("resnet50", frozen_batch_norm=False),
        crops=INTRA_BATCH,
    )
    return Row(recipe, budget, RELEASED)


ROWS = {
    "cub": _row(
        "cub",
        (6, 9),
        rate=0.0001563663718906821,
        decay=6.059722614369727e-06,
        sampler=every_image_a_pass,
    ),
    "cars196": _row(
        "cars196",
        (10, 7),
        rate=0.00036683239911604993,
        decay=2.551918610962277e-09,
        loss_args={"temperature": 1 / 9, "num_heads": 8, "num_layers": 2, "concat_layers": True},
    ),
    "sop": _row(
        "sop",
        (15, 6),
        rate=0.0002472471515853406,
        decay=2.7650277063275255e-13,
        loss_args={"temperature": 0.6046908988578005, "num_heads": 8, "mpn_weight": 0.0},
    ),
    "in_shop": _row(
        "in_shop",
        (14, 4),
        rate=0.00011265974954242144,
        decay=1.0554824926510768e-07,
        loss_args={"temperature": 0.18591347176280537, "num_heads": 4},
    ),
}
