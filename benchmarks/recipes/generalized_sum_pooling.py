"""Generalized sum pooling (GSP), alone and with its zero-shot loss, and the poolings that it is
compared with, all under one loss.

All rows start from the same convolutions and the same projection, without bias, and all that they
train has the trunk's rate, as published. The loss is the published one-margin contrastive loss on
cosines, averaged over the pairs that it is not 0 for, which is pml's default; it was chosen on
average pooling with seed 0. The prototypes of GSP are found after 1,024 training images, before
which it is average pooling.
"""

from dataclasses import replace

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss

from benchmarks.poolings import AveragePooling, GeneralizedMeanPooling, MaxPooling
from benchmarks.recipes.recipe import Recipe, at_the_rate_of_the_trunk
from pml_extras.losses import DelayedMemoryLoss, ZeroShotPredictionLoss
from pml_extras.pooling import GeneralizedSumPooling

NUM_PROTOTYPES = 64


def zero_shot_with_memory(
    num_classes: int, embedding_size: int, num_attributes: int, memory_size: int, start_after: int
) -> ZeroShotPredictionLoss:
    """The published loss as a whole: zero-shot around contrastive around memory, over the batch
    size where the other rows have a mean of pairs. The memory holds embeddings alone.

    Args:
        num_classes: of training.
        embedding_size: of the slice that is stored.
        num_attributes: m.
        memory_size: rows; published are 25 batches for small sets.
        start_after: batches; published are 100 for small sets, and those in memory.
    """
    memory = DelayedMemoryLoss(embedding_size, memory_size, start_after)
    return ZeroShotPredictionLoss(num_classes, embedding_size, num_attributes, inner=memory)


AVERAGE = Recipe(
    "average_pooling",
    "Average pooling",
    ContrastiveLoss,
    loss_args={"pos_margin": 1.0, "neg_margin": 0.5},
    distance=CosineSimilarity,
    pooling=AveragePooling,
)
GSP = replace(
    AVERAGE,
    name="gsp",
    title="Generalized sum pooling (GSP)",
    pooling=GeneralizedSumPooling,
    pooling_args={"num_prototypes": NUM_PROTOTYPES, "mass": 0.3, "sharpness": 5.0},
)
ZERO_SHOT = Recipe(
    "gsp_zero_shot",
    "GSP with zero-shot loss",
    ZeroShotPredictionLoss,
    loss_args={"num_attributes": NUM_PROTOTYPES, "inner": AVERAGE, "weight": 0.1},
    has_classes=True,
    groups=at_the_rate_of_the_trunk,
    pooling=GeneralizedSumPooling,
    pooling_args={**GSP.pooling_args, "concatenate_attributes": True},
)
MEMORY = replace(
    ZERO_SHOT,
    name="gsp_zero_shot_memory",
    title="GSP with zero-shot loss and memory",
    loss=zero_shot_with_memory,
    loss_args={"num_attributes": NUM_PROTOTYPES, "memory_size": 1600, "start_after": 125},
)
RECIPES = (
    GSP,
    ZERO_SHOT,
    AVERAGE,
    replace(AVERAGE, name="max_pooling", title="Max pooling", pooling=MaxPooling),
    replace(
        AVERAGE,
        name="gem_pooling",
        title="Generalized mean pooling (GeM)",
        pooling=GeneralizedMeanPooling,
    ),
    MEMORY,
    Recipe("untrained_pooling", "Untrained, average pooling", pooling=AveragePooling, space={}),
)
