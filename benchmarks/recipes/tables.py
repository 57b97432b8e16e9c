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
from benchmarks.recipes.recipe import Recipe


@dataclass(frozen=True)
class Claim:
    """That each of some rows has a higher Recall@1 than every one of others.

    Args:
        text: who says so, as the beginning of a sentence.
        better: recipes of which it is said.
        worse: recipes that each of them is compared with.
    """

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The rows of a data set.

    Args:
        recipes: their names.
        seeds: of every row.
        said: pairs of recipes whose difference is put in words below the table.
        best_of: recipes of which the best by mean Recall@1 is what all rows are compared with, or
            a single one; without any it is the first row.
        claim: judged below the table.
    """

    recipes: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    said: tuple[tuple[str, str], ...] = ()
    best_of: tuple[str, ...] = ()
    claim: Claim | None = None


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
    claim=Claim(
        "The paper's claim that an ensemble beats every one of its members",
        better=tuple(
            recipe.name
            for recipe in (
                loss_ensemble.SIMPLEX,
                loss_ensemble.SQUARED,
                loss_ensemble.HEADS,
                loss_ensemble.COMPRESSED,
            )
        ),
        worse=MEMBERS,
    ),
)
AVERAGE = generalized_sum_pooling.AVERAGE.name
GSP = generalized_sum_pooling.GSP.name
ZERO_SHOT = generalized_sum_pooling.ZERO_SHOT.name
POOLINGS = Table(
    tuple(recipe.name for recipe in generalized_sum_pooling.RECIPES),
    seeds=(0, 1, 2, 3, 4),
    said=(
        (GSP, AVERAGE),
        (ZERO_SHOT, AVERAGE),
        (ZERO_SHOT, GSP),
        (GSP, "max_pooling"),
        (GSP, "gem_pooling"),
    ),
    best_of=(AVERAGE,),
)
TEXTS = Table(
    tuple(recipe.name for recipe in (*potential_field.RECIPES, *baselines.RECIPES)),
    seeds=(0, 1, 2, 3, 4),
)
PFML = potential_field.RECIPES[0].name
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


def _of_files(published: str) -> Table:
    return Table(
        (published, "proxy_anchor", "multi_similarity", "contrastive", "untrained"),
        seeds=(0, 1, 2, 3, 4),
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
        said=(
            ("ibc", "ibc_auxiliary"),
            ("ibc", "ibc_no_attention"),
            ("ibc", "ibc_network_only"),
            ("ibc", "contrastive"),
        ),
    ),
    "omniglot_ensemble": ENSEMBLES,
    "flowers": ENSEMBLES,
    "pets": ENSEMBLES,
    "omniglot_collage": POOLINGS,
    "cifar_collage": POOLINGS,
    "clinc150": TEXTS,
    "clinc150_tfidf": TEXTS,
    "banking77": TEXTS,
    "banking77_tfidf": TEXTS,
    "clinc150_tfidf_noise": NOISE,
    "clinc150_tfidf_alpha": _sweep(potential_field.ALPHA_SWEEP),
    "clinc150_tfidf_proxies": _sweep(potential_field.PROXIES_SWEEP),
    "cub": _of_files(image_files.PUBLISHED.name),
    "cars196": _of_files(image_files.PUBLISHED.name),
    "sop": _of_files(image_files.MANY_CLASSES.name),
    "in_shop": _of_files(image_files.MANY_CLASSES.name),
}
