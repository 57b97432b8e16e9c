"""A row as its authors published it: a recipe and a budget of its own, on one data set."""

from dataclasses import dataclass, fields

from benchmarks.datasets import cars196, cub, in_shop, sop
from benchmarks.recipes.budget import Budget
from benchmarks.recipes.recipe import Recipe
from pml_extras._checks import refuse


@dataclass(frozen=True)
class Row:
    """A recipe and its budget on one data set.

    Args:
        recipe: of the name that it has under the shared budget, with what was published in place.
        budget: its own.
        released: settings of the budget that are from the authors' code; all others are ours.

    Raises:
        ValueError: ``released`` names something else.
    """

    recipe: Recipe
    budget: Budget
    released: frozenset[str]

    def __post_init__(self) -> None:
        if unknown := self.released - {field.name for field in fields(Budget)}:
            raise refuse("released", "settings of a budget", sorted(unknown))


RELEASED = frozenset(
    {
        "epochs",
        "batch_size",
        "images_per_class",
        "embedding_size",
        "trunk_lr",
        "optimizer",
        "weight_decay",
        "backbone",
        "crops",
        "head_multiple",
    }
)
"""What authors' code has, but for what a row leaves out. ``iterations`` make a pass over all
images, unless a row says otherwise; ``proxy_base_lr`` is of no effect in any of these rows."""
IMAGES = {
    official.name: official.counts["train"][1]
    for official in (cub.OFFICIAL, cars196.OFFICIAL, sop.OFFICIAL, in_shop.OFFICIAL)
}
"""That train."""
