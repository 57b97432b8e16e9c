"""Losses on pytorch-metric-learning's base class."""

from pml_extras.losses.binomial_deviance import BinomialDevianceLoss
from pml_extras.losses.classification import ClassificationLoss
from pml_extras.losses.delayed_memory import DelayedMemoryLoss
from pml_extras.losses.distance_preserving import DistancePreservingLoss
from pml_extras.losses.intra_batch_connections import IntraBatchConnectionsLoss
from pml_extras.losses.lifted_structure import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from pml_extras.losses.loss_ensemble import WeightedLossEnsemble
from pml_extras.losses.ntxent import NTXentLoss
from pml_extras.losses.pnp import PNPLoss
from pml_extras.losses.potential_field import PotentialFieldLoss
from pml_extras.losses.signal_to_noise_ratio import SignalToNoiseRatioContrastiveLoss
from pml_extras.losses.smooth_ap import SmoothAPLoss
from pml_extras.losses.smoothed_proxy_nca import SmoothedProxyNCALoss
from pml_extras.losses.tuplet_margin import TupletMarginLoss
from pml_extras.losses.zabihzadeh_ensemble import zabihzadeh_ensemble, zabihzadeh_param_groups
from pml_extras.losses.zero_shot_prediction import ZeroShotPredictionLoss

__all__ = [
    "BinomialDevianceLoss",
    "ClassificationLoss",
    "DelayedMemoryLoss",
    "DistancePreservingLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraBatchConnectionsLoss",
    "LiftedStructureLoss",
    "NTXentLoss",
    "PNPLoss",
    "PotentialFieldLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SmoothedProxyNCALoss",
    "TupletMarginLoss",
    "WeightedLossEnsemble",
    "ZeroShotPredictionLoss",
    "zabihzadeh_ensemble",
    "zabihzadeh_param_groups",
]
