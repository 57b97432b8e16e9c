"""Lifted structure: the released solver and batches, of Stanford Online Products.

20,000 steps, cut here into 20 epochs, on pairs of which half are positive, at the largest of four
widths. The rate, which would be lowered after 32,000 steps, is constant. Biases have the rate and
the decay of weights, where there they have twice the rate and no decay. GoogLeNet has frozen batch
norm here and no dropout before the embedding, where there it has none and 0.4.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from torch import Tensor

from benchmarks.backbones import Backbone
from benchmarks.crops import IMAGENET, LIFTED
from benchmarks.recipes.budget import Budget
from benchmarks.recipes.lifted_structure import RAW
from benchmarks.recipes.published.row import RELEASED, Row
from pml_extras.samplers import PairBatchSampler


class InARow:
    """The indices of batches, one after another."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._batches)


def image_pairs(labels: Tensor, budget: Budget, seed: int) -> InARow:
    """Positive and negative pairs, the left images of a batch and then the right ones."""
    return InARow(PairBatchSampler(labels, budget.batch_size, seed=seed))


def _row() -> Row:
    recipe = replace(
        RAW,
        title="Lifted structure, as released",
        sampler=image_pairs,
        unit_rows=False,
    )
    budget = Budget(
        epochs=20,
        iterations=1000,
        batch_size=128,
        images_per_class=2,
        embedding_size=512,
        trunk_lr=1e-4,
        optimizer="sgd",
        weight_decay=2e-4,
        backbone=Backbone("googlenet"),
        crops=replace(LIFTED, colours=IMAGENET),
        head_multiple=10.0,
    )
    return Row(recipe, budget, RELEASED - {"epochs", "backbone", "crops", "images_per_class"})


ROWS = dict.fromkeys(("cub", "cars196", "sop"), _row())
