"""Lifted structure from this package and from pml: equal in value, unequal in cost.

At pml's default, unit vectors, but for "raw rows", the distance of the paper. The generalized loss
is that of a later paper.
"""

from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import LiftedStructureLoss as PmlLiftedStructureLoss

from benchmarks.recipes.recipe import Recipe
from pml_extras.losses import GeneralizedLiftedStructureLoss, LiftedStructureLoss

RAW = Recipe(
    "lifted_structure_raw",
    "Lifted structure (ours), raw rows",
    LiftedStructureLoss,
    distance=LpDistance,
    distance_args={"normalize_embeddings": False},
)
RECIPES = (
    Recipe("lifted_structure", "Lifted structure (ours)", LiftedStructureLoss),
    Recipe("lifted_structure_pml", "Lifted structure (pml)", PmlLiftedStructureLoss),
    RAW,
    Recipe(
        "generalized_lifted_structure",
        "Generalized lifted structure (ours)",
        GeneralizedLiftedStructureLoss,
    ),
)
