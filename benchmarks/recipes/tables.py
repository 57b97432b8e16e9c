"""What `run` makes of a data set when nothing else is asked for, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.recipes import (
    baselines,
    generalized_sum_pooling,
    image_files,
    intra_batch_connections,
    lifted_structure,
    loss_ensemble,
    potential_field,
)
from benchmarks.recipes.budget import TRANSFORMERS
from benchmarks.recipes.recipe import Recipe


@dataclass(frozen=True)
class Table:
    """The rows of a data set.

    Args:
        recipes: their names.
        seeds: of every row.
        best_of: recipes of which the best by mean Recall@1 is what all rows are compared with, or
            a single one; without any it is the first row.
    """

    recipes: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    best_of: tuple[str, ...] = ()


IBC = intra_batch_connections.IBC
EVERY_LOSS = Table(
    tuple(
        recipe.name
        for recipe in (
            *potential_field.RECIPES,
            *lifted_structure.RECIPES,
            IBC,
            loss_ensemble.SIMPLEX,
            *baselines.RECIPES,
        )
    )
)
MEMBERS = tuple(recipe.name for recipe in loss_ensemble.MEMBERS.values())
ENSEMBLES = Table(
    (*(recipe.name for recipe in loss_ensemble.ENSEMBLES), *MEMBERS, "untrained"),
    seeds=(0, 1, 2, 3, 4),
    best_of=MEMBERS,
)
PFML = potential_field.RECIPES[0].name
AVERAGE = generalized_sum_pooling.AVERAGE.name
GSP = generalized_sum_pooling.GSP.name
ZERO_SHOT = generalized_sum_pooling.ZERO_SHOT.name
POOLINGS = Table(
    tuple(recipe.name for recipe in generalized_sum_pooling.RECIPES),
    seeds=(0, 1, 2, 3, 4),
    best_of=(AVERAGE,),
)
ENCODER = Table(
    (GSP, ZERO_SHOT, AVERAGE, "multi_similarity", "proxy_anchor", PFML, "untrained"),
    best_of=(AVERAGE,),
)
"""An encoder of texts, trained: the first three under one loss."""
TEXTS = Table(
    tuple(recipe.name for recipe in (*potential_field.RECIPES, *baselines.RECIPES)),
    seeds=(0, 1, 2, 3, 4),
)
NOISE = Table(
    (
        PFML,
        "proxy_anchor",
        "smoothed_proxy_nca",
        "multi_similarity",
        "triplet_semihard",
        "untrained",
    ),
    seeds=(0, 1, 2, 3, 4),
)
"""The rows of the paper's table of 20 % label noise that there are here."""


def _sweep(recipes: Sequence[Recipe]) -> Table:
    """The published setting first, to which all others are compared."""
    others = (recipe.name for recipe in recipes if recipe.name != PFML)
    return Table((PFML, *others, "untrained"), best_of=(PFML,))


BASELINES = ("proxy_anchor", "multi_similarity", "contrastive", "untrained")


def _of_files(field: Recipe) -> Table:
    """The papers of this package beside baselines; under ``paper`` some with their own budgets."""
    papers = (
        field,
        lifted_structure.RAW,
        IBC,
        loss_ensemble.HEADS,
        generalized_sum_pooling.GSP,
        generalized_sum_pooling.ZERO_SHOT,
        generalized_sum_pooling.MEMORY,
    )
    return Table((*(recipe.name for recipe in papers), *BASELINES), seeds=(0, 1, 2, 3, 4))


def _of_transformers(field: Recipe) -> Table:
    """Networks of timm, which pool by themselves: rows of one head."""
    return Table((field.name, IBC.name, *BASELINES), seeds=(0, 1, 2, 3, 4))


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
    ),
    "omniglot_ensemble": ENSEMBLES,
    "flowers": ENSEMBLES,
    "pets": ENSEMBLES,
    "omniglot_collage": POOLINGS,
    "cifar_collage": POOLINGS,
    "clinc150": TEXTS,
    "clinc150_tfidf": TEXTS,
    "clinc150_text": ENCODER,
    "banking77": TEXTS,
    "banking77_tfidf": TEXTS,
    "banking77_text": ENCODER,
    "clinc150_tfidf_noise": NOISE,
    "clinc150_tfidf_alpha": _sweep(potential_field.ALPHA_SWEEP),
    "clinc150_tfidf_proxies": _sweep(potential_field.PROXIES_SWEEP),
    "clinc150_tfidf_refit": TEXTS,
    "cub": _of_files(image_files.PUBLISHED),
    "cars196": _of_files(image_files.PUBLISHED),
    "sop": _of_files(image_files.MANY_CLASSES),
    "in_shop": _of_files(image_files.MANY_CLASSES),
    **{
        name: _of_transformers(
            image_files.MANY_CLASSES if name.startswith("sop") else image_files.PUBLISHED
        )
        for name in TRANSFORMERS
    },
    "cub_features": TEXTS,
    "cars196_features": TEXTS,
}
