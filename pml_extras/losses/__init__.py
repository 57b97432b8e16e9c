"""Losses on pytorch-metric-learning's base class."""

from pml_extras.losses.intra_batch_connections import IntraBatchConnectionsLoss
from pml_extras.losses.lifted_structure import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from pml_extras.losses.potential_field import PotentialFieldLoss

__all__ = [
    "GeneralizedLiftedStructureLoss",
    "IntraBatchConnectionsLoss",
    "LiftedStructureLoss",
    "PotentialFieldLoss",
]
