"""The methods of the tables, in the order of their rows."""

from benchmarks.recipes import (
    baselines,
    generalized_sum_pooling,
    image_files,
    intra_batch_connections,
    lifted_structure,
    loss_ensemble,
    potential_field,
)
from benchmarks.recipes.budget import BUDGETS, Budget
from benchmarks.recipes.recipe import Recipe, digest
from benchmarks.recipes.schedule import ReloadAndDrop
from benchmarks.recipes.tables import TABLES

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *potential_field.RECIPES,
        *potential_field.MORE_PROXIES,
        *potential_field.ALPHA_SWEEP,
        *lifted_structure.RECIPES,
        intra_batch_connections.IBC,
        *intra_batch_connections.VARIANTS,
        *loss_ensemble.ENSEMBLES,
        *loss_ensemble.MEMBERS.values(),
        *generalized_sum_pooling.RECIPES,
        *baselines.RECIPES,
        *image_files.RECIPES,
    )
}

__all__ = ["BUDGETS", "RECIPES", "TABLES", "Budget", "Recipe", "ReloadAndDrop", "digest"]
