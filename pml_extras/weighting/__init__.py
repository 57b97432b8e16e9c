"""How several losses become one objective.

=========================== ============================================ ========== ===========
strategy                    favours                                      weights    learned
                                                                         sum to     parameters
=========================== ============================================ ========== ===========
LearnedSimplex (default)    the loss that has improved most              1          yes
SquaredWeights              the same, as published                       about 1    yes
FixedWeights                none                                         any        no
HomoscedasticUncertainty    none: it evens out magnitudes                any        yes
NonNegativeUncertainty      none, likewise                               any        yes
GradNorm                    the loss that has improved least             m          yes
DynamicWeightAverage        the same, by epochs: call ``step_epoch()``   m          no
RandomWeights               none: new weights each batch                 1          no
MultipleGradientDescent     small gradients                              1          no
=========================== ============================================ ========== ===========

"Most" and "least" are against a loss's own history, where the ensemble scales losses by it. Learned
parameters go to the optimizer without weight decay; ``WeightedLossEnsemble.param_groups`` does so.
HomoscedasticUncertainty, NonNegativeUncertainty and GradNorm need values >= 0; GradNorm and
MultipleGradientDescent take gradients at the embeddings in training mode. Totals that hold an extra
term, of SquaredWeights, the two uncertainties and GradNorm, are not comparable over steps: look at
the values of the losses.
"""

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
