"""Potential field as published, for image files: Eq. 6, a plain sum over all charges.

15 proxies a class, and 2 where there are thousands of classes. Silent in the paper, ours: proxies
are normalised and start from a normal distribution.
"""

from benchmarks.recipes.potential_field import FIELD
from benchmarks.recipes.recipe import Recipe
from benchmarks.recipes.space import RATES
from pml_extras.losses import PotentialFieldLoss


def _recipe(name: str, title: str, proxies: int) -> Recipe:
    return Recipe(
        name,
        title,
        PotentialFieldLoss,
        loss_args={"proxies_per_class": proxies, "collect_stats": True},
        has_classes=True,
        groups=lambda loss, budget: loss.param_groups(budget.proxy_base_lr),
        space={**RATES, **FIELD},
    )


PUBLISHED = _recipe("pfml", "Potential field as published", 15)
MANY_CLASSES = _recipe("pfml_2", "Potential field as published, 2 proxies", 2)
RECIPES = (PUBLISHED, MANY_CLASSES)
