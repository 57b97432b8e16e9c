"""Losses on pytorch-metric-learning's base class.

``torch.compile(loss, fullgraph=True)`` gives the values and gradients of eager mode, for batches of
any size and with a miner's tuple. A graph does not read values from the device, so in it neither
classes nor positions of a tuple are checked, and nothing is tiled: losses of pairs take a mask over
the (B, R) matrix, ``SmoothAPLoss`` and ``PNPLoss`` arrays (P, B) for P positive pairs, Euclidean
distances their (B, R, D) differences (:func:`pml_extras.functional.euclidean_distance`). For large
batches compile the trunk alone.

In several graphs, without ``fullgraph``: ``DelayedMemoryLoss``, whose memory keeps its place in a
number; ensembles with a loss, miner or strategy that reads values or takes gradients (most losses
of pairs and miners of pml, ``GradNorm``, ``MultipleGradientDescent``, ``RandomWeights``);
statistics (``collect_stats``); and reducers other than ``MeanReducer``, ``SumReducer``,
``AvgNonZeroReducer``, ``ThresholdReducer`` and ``BatchSizeReducer``, which list what they are
given. Before torch 2.7 the same may be needed for any loss; torch 2.7 has one graph of
``SmoothAPLoss`` and ``PNPLoss`` where ``torch._dynamo.config.capture_dynamic_output_shape_ops`` is
True.
"""

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
