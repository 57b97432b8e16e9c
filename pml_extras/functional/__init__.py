"""Formulas: tensors in, tensors out. Imports torch, never pytorch-metric-learning."""

from pml_extras.functional.binomial_deviance import binomial_deviance, mean_binomial_deviance
from pml_extras.functional.distance_preserving import distance_preserving
from pml_extras.functional.farthest_first import farthest_first
from pml_extras.functional.generalized_sum_pooling import (
    sum_pooling_plan,
    sum_pooling_weights,
)
from pml_extras.functional.lifted_structure import generalized_lifted_structure, lifted_structure
from pml_extras.functional.loss_ensemble import (
    head_diversity,
    scale_factors,
    weighted_concatenation,
)
from pml_extras.functional.loss_weighting import minimum_norm_weights
from pml_extras.functional.masked import masked_logsumexp, segment_logsumexp
from pml_extras.functional.message_passing import (
    explicit_neighbour_attention,
    neighbour_attention,
)
from pml_extras.functional.ntxent import ntxent
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.potential_field import (
    FieldEnergy,
    dense_potential_field_energy,
    potential_field_energy,
)
from pml_extras.functional.ranking import pnp, smooth_precision, soft_count
from pml_extras.functional.smoothed_cross_entropy import smoothed_cross_entropy, smoothing_over_all
from pml_extras.functional.snr import snr_distance
from pml_extras.functional.tuplet_margin import tuplet_margin
from pml_extras.functional.unit_ball import unit_ball, unit_ball_cost
from pml_extras.functional.zero_shot_prediction import (
    alternate_classes,
    ridge_regressor,
    zero_shot_prediction,
    zero_shot_targets,
)

__all__ = [
    "FieldEnergy",
    "alternate_classes",
    "binomial_deviance",
    "dense_potential_field_energy",
    "distance_preserving",
    "euclidean_distance",
    "explicit_neighbour_attention",
    "farthest_first",
    "generalized_lifted_structure",
    "head_diversity",
    "lifted_structure",
    "masked_logsumexp",
    "mean_binomial_deviance",
    "minimum_norm_weights",
    "neighbour_attention",
    "ntxent",
    "pnp",
    "potential_field_energy",
    "ridge_regressor",
    "scale_factors",
    "segment_logsumexp",
    "smooth_precision",
    "smoothed_cross_entropy",
    "smoothing_over_all",
    "snr_distance",
    "soft_count",
    "sum_pooling_plan",
    "sum_pooling_weights",
    "tuplet_margin",
    "unit_ball",
    "unit_ball_cost",
    "weighted_concatenation",
    "zero_shot_prediction",
    "zero_shot_targets",
]
