"""The methods of the tables, in the order of their rows."""

from benchmarks.recipes import baselines, lifted_structure, potential_field
from benchmarks.recipes.recipe import BUDGETS, Budget, Recipe, digest

RECIPES = {
    recipe.name: recipe
    for recipe in (*potential_field.RECIPES, *lifted_structure.RECIPES, *baselines.RECIPES)
}

__all__ = ["BUDGETS", "RECIPES", "Budget", "Recipe", "digest"]
