"""What `run` makes of a data set when nothing else is asked for, and what is said of it."""

from dataclasses import dataclass

from benchmarks.recipes import (
    baselines,
    intra_batch_connections,
    lifted_structure,
    potential_field,
)


@dataclass(frozen=True)
class Table:
    """The rows of a data set.

    Args:
        recipes: their names.
        seeds: of every row.
        said: pairs of recipes whose difference is put in words below the table.
    """

    recipes: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    said: tuple[tuple[str, str], ...] = ()


IBC = intra_batch_connections.IBC
EVERY_LOSS = Table(
    tuple(
        recipe.name
        for recipe in (
            *potential_field.RECIPES,
            *lifted_structure.RECIPES,
            IBC,
            *baselines.RECIPES,
        )
    )
)
TABLES = {
    "digits": EVERY_LOSS,
    "omniglot": EVERY_LOSS,
    "omniglot_validation": Table(
        (
            IBC.name,
            *(recipe.name for recipe in intra_batch_connections.VARIANTS),
            "normalized_softmax",
            "proxy_anchor",
            "contrastive",
            "untrained",
        ),
        seeds=(0, 1, 2, 3, 4),
        said=(("ibc", "ibc_auxiliary"), ("ibc", "ibc_no_attention")),
    ),
}
