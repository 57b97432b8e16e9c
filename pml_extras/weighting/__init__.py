"""How several losses become one objective."""

from pml_extras.weighting.base import LossWeighting, Weighted
from pml_extras.weighting.dynamic_average import DynamicWeightAverage
from pml_extras.weighting.fixed import FixedWeights
from pml_extras.weighting.gradnorm import GradNorm
from pml_extras.weighting.learned_simplex import LearnedSimplex
from pml_extras.weighting.mgda import MultipleGradientDescent
from pml_extras.weighting.random import RandomWeights
from pml_extras.weighting.squared import SquaredWeights
from pml_extras.weighting.uncertainty import HomoscedasticUncertainty, NonNegativeUncertainty

__all__ = [
    "DynamicWeightAverage",
    "FixedWeights",
    "GradNorm",
    "HomoscedasticUncertainty",
    "LearnedSimplex",
    "LossWeighting",
    "MultipleGradientDescent",
    "NonNegativeUncertainty",
    "RandomWeights",
    "SquaredWeights",
    "Weighted",
]
