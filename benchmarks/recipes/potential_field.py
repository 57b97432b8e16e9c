"""Potential field with its published 15 proxies a class, and with 4, 1 and none."""

from benchmarks.recipes.recipe import Recipe
from pml_extras.losses import PotentialFieldLoss


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
    )


RECIPES = (
    _recipe("potential_field", 15),
    _recipe("potential_field_4", 4),
    _recipe("potential_field_1", 1),
    _recipe("potential_field_0", 0),
)
