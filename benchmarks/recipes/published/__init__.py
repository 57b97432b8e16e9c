"""Rows as their authors published them on data sets of image files, each with a budget of its own.

Under the protocol ``paper`` alone; under every other one the rows of a data set share its budget.
The potential field is not here: the shared budget is its own.

Left out, in all of them: what is not known, and schedules that look at the test classes for more
than the best epoch. Crops have the published geometry, and the colours that torchvision's weights
were trained with where those of the authors' weights, which are others, were published.
"""

from collections.abc import Mapping

from benchmarks.recipes.published import (
    generalized_sum_pooling,
    intra_batch_connections,
    lifted_structure,
    loss_ensemble,
)
from benchmarks.recipes.published.row import IMAGES, Row
from benchmarks.recipes.recipe import Recipe

PUBLISHED: Mapping[str, Mapping[str, Row]] = {
    dataset: {
        row.recipe.name: row
        for row in (
            *generalized_sum_pooling.ROWS[dataset],
            *(
                paper.ROWS[dataset]
                for paper in (intra_batch_connections, loss_ensemble, lifted_structure)
                if dataset in paper.ROWS
            ),
        )
    }
    for dataset in IMAGES
}
"""Data set -> recipe -> row."""


def row_of(recipe: Recipe, dataset: str) -> Row | None:
    """The row whose recipe this is; None for one under a shared budget, whatever its name."""
    row = PUBLISHED.get(dataset, {}).get(recipe.name)
    return row if row is not None and row.recipe == recipe else None


__all__ = ["PUBLISHED", "Row", "row_of"]
