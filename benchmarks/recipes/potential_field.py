"""Potential field with its published 15 proxies a class, and with 4, 1 and none; and the two sweeps
of the paper's ablation, over the number of proxies and over the exponent of decay."""

from dataclasses import replace

from benchmarks.recipes.recipe import Recipe
from benchmarks.recipes.space import RATE, RATES, Range
from pml_extras.losses import PotentialFieldLoss

FIELD = {
    "loss.alpha": Range(0, 6, "the paper: cross-validated in 0, ..., 6", whole=True),
    "loss.delta": Range(0.1, 0.3, "the paper: cross-validated between 0.1 and 0.3"),
}


def _recipe(name: str, proxies: int) -> Recipe:
    return Recipe(
        name,
        f"Potential field, {proxies} prox{'y' if proxies == 1 else 'ies'}",
        PotentialFieldLoss,
        loss_args={
            "proxies_per_class": proxies,
            "reduction": "batch_mean",
            "collect_stats": True,
        },
        has_classes=True,
        groups=lambda loss, budget: loss.param_groups(budget.proxy_base_lr),
        space={**(RATES if proxies else RATE), **FIELD},
    )


RECIPES = (
    _recipe("potential_field", 15),
    _recipe("potential_field_4", 4),
    _recipe("potential_field_1", 1),
    _recipe("potential_field_0", 0),
)
MORE_PROXIES = tuple(_recipe(f"potential_field_{proxies}", proxies) for proxies in (5, 10, 30))
PROXIES_SWEEP = tuple(
    recipe
    for proxies in (0, 1, 5, 10, 15, 30)
    for recipe in (*RECIPES, *MORE_PROXIES)
    if recipe.loss_args["proxies_per_class"] == proxies
)
ALPHA_SWEEP = tuple(
    replace(
        RECIPES[0],
        name=f"potential_field_alpha_{alpha}",
        title=f"Potential field, decay exponent {alpha}",
        loss_args={**RECIPES[0].loss_args, "alpha": float(alpha)},
    )
    for alpha in (0, 0.5, 1, 2, 4, 5, 6)
)
"""Beside 3, which is the first recipe. The paper has 0 to 6 in steps of 1, and no 0.5."""
