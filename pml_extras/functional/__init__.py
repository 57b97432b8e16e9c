"""Formulas: tensors in, tensors out. Imports torch, never pytorch-metric-learning."""

from pml_extras.functional.lifted_structure import generalized_lifted_structure, lifted_structure
from pml_extras.functional.masked import masked_logsumexp, segment_logsumexp
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.potential_field import (
    FieldEnergy,
    dense_potential_field_energy,
    potential_field_energy,
)

__all__ = [
    "FieldEnergy",
    "dense_potential_field_energy",
    "euclidean_distance",
    "generalized_lifted_structure",
    "lifted_structure",
    "masked_logsumexp",
    "potential_field_energy",
    "segment_logsumexp",
]
