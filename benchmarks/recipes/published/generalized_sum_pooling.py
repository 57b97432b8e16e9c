"""Generalized sum pooling: the released configuration of its conventional protocol, for ResNet-50.

Evaluated every 25 or 250 steps, as released, for a number of steps that is ours, at one rate: there
training stops, and the rate is halved, when Recall@1 of the test classes stands still. Batch norm
is frozen as in its other protocol. What is released is the zero-shot loss around a memory; the rows
without the memory, and without both, are parts of that.
"""

from dataclasses import replace

from benchmarks.backbones import Backbone
from benchmarks.crops import IMAGENET, SUM_POOLING
from benchmarks.recipes.budget import Budget
from benchmarks.recipes.generalized_sum_pooling import GSP, MEMORY, ZERO_SHOT
from benchmarks.recipes.published.row import IMAGES, RELEASED, Row
from benchmarks.recipes.recipe import Recipe


def _row(base: Recipe, dataset: str) -> Row:
    few = dataset in ("cub", "cars196")
    prototypes = 64 if few else 128
    in_memory = 25 if few else {"sop": 1400, "in_shop": 400}[dataset]  # batches
    of_loss = {
        "num_attributes": prototypes,
        "memory_size": 112 * in_memory,
        "start_after": in_memory + (100 if few else 1000),
    }
    recipe = replace(
        base,
        title=f"{base.title}, as released",
        loss_args={
            **base.loss_args,
            **{name: value for name, value in of_loss.items() if name in base.loss_args},
        },
        pooling_args={
            **base.pooling_args,
            "num_prototypes": prototypes,
            **({"gem": True} if few else {"max_pool_branch": True}),
        },
    )
    budget = Budget(
        epochs=200 if few else 100,
        iterations=25 if few else 250,
        batch_size=112,
        images_per_class=4,
        embedding_size=512,
        trunk_lr=1e-5 if few else 1e-4,
        weight_decay=4e-4,
        backbone=Backbone("resnet50"),
        crops=replace(SUM_POOLING, colours=IMAGENET),
    )
    return Row(recipe, budget, RELEASED - {"epochs", "backbone", "crops"} | {"iterations"})


ROWS = {
    dataset: tuple(_row(base, dataset) for base in (GSP, ZERO_SHOT, MEMORY)) for dataset in IMAGES
}
