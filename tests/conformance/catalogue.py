"""One small instance of everything public in pml_extras, with a bad value for each argument."""

import math

from pytorch_metric_learning.distances import LpDistance
from torch import nn

from pml_extras import losses
from pml_extras.testing import promises
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES, Entry, indexed_by_labels

_MARGINS = {"neg_margin": math.nan, "pos_margin": math.inf}
_TILES = {"tile": (1, 4)}


def ensemble(**arguments):
    """Two losses on heads of their own, the classes of one of which labels index."""
    members = {
        "pairs": losses.LiftedStructureLoss(),
        "classes": losses.ClassificationLoss(NUM_CLASSES, 4),
    }
    return losses.WeightedLossEnsemble(
        **{
            "losses": members,
            "heads": {name: nn.Linear(EMBEDDING_SIZE, 4) for name in members},
            "diversity_weight": 0.1,
            **arguments,
        }
    )


def zero_shot_beside_classes(**arguments):
    """Labels index the vectors of both."""
    return losses.ZeroShotPredictionLoss(
        **{
            "num_classes": NUM_CLASSES,
            "embedding_size": 5,
            "num_attributes": EMBEDDING_SIZE - 5,
            "inner": losses.SmoothedProxyNCALoss(NUM_CLASSES, 5),
            **arguments,
        }
    )


LOSSES = {
    "BinomialDevianceLoss": Entry(
        losses.BinomialDevianceLoss,
        check={
            "out_of_range": {
                "scale_pos": 0.0,
                "scale_neg": -1.0,
                "threshold": math.nan,
                "per_anchor": 1,
            }
        },
    ),
    "BinomialDevianceLoss by pairs": Entry(
        losses.BinomialDevianceLoss,
        {"scale_neg": 4.0, "per_anchor": False},
        {"out_of_range": {"scale_pos": math.inf}},
    ),
    "ClassificationLoss": indexed_by_labels(
        losses.ClassificationLoss,
        out_of_range={
            "num_classes": 1,
            "embedding_size": 0,
            "label_smoothing": 0.8,
            "hidden_size": 0,
        },
    ),
    "ClassificationLoss with a hidden layer": indexed_by_labels(
        losses.ClassificationLoss,
        {"num_classes": NUM_CLASSES, "embedding_size": EMBEDDING_SIZE, "hidden_size": 4},
        out_of_range={"label_smoothing": -0.1},
    ),
    "SmoothedProxyNCALoss": indexed_by_labels(
        losses.SmoothedProxyNCALoss,
        out_of_range={
            "num_classes": 1,
            "embedding_size": 0,
            "softmax_scale": 0.0,
            "label_smoothing": 0.8,
        },
    ),
    "WeightedLossEnsemble": indexed_by_labels(
        ensemble,
        {},
        out_of_range={
            "losses": [],
            "heads": [4],
            "miners": {"triplets": nn.Identity()},
            "weighting": "uniform",
            "scale": "mean",
            "max_scale": 0.5,
            "diversity_weight": -0.1,
            "diversity_margin": 0.0,
        },
    ),
    "zabihzadeh_ensemble": indexed_by_labels(
        losses.zabihzadeh_ensemble,
        {"num_classes": NUM_CLASSES, "feature_size": EMBEDDING_SIZE, "embedding_size": 6},
        out_of_range={
            "num_classes": 1,
            "feature_size": 0,
            "embedding_size": 0,
            "diversity_weight": -1.0,
            "weighting": "squared",
            "scale": 1.0,
            "max_scale": 0.5,
        },
        promises=promises(without="memory"),  # pml's triplet miner and loss are cubic
    ),
    "PotentialFieldLoss": indexed_by_labels(
        losses.PotentialFieldLoss,
        {
            "num_classes": NUM_CLASSES,
            "embedding_size": EMBEDDING_SIZE,
            "proxies_per_class": 2,
        },
        out_of_range={
            "num_classes": 0,
            "embedding_size": 0,
            "proxies_per_class": -1,
            "alpha": -1.0,
            "delta": 0.0,
            "delta_rep": 0.0,
            "reduction": "median",
            "core_radius": -1.0,
        },
    ),
    "PotentialFieldLoss without proxies": Entry(
        losses.PotentialFieldLoss,
        {
            "num_classes": NUM_CLASSES,
            "embedding_size": EMBEDDING_SIZE,
            "proxies_per_class": 0,
            "delta": 1.0,
        },
        {"out_of_range": {"core_radius": 2.0}},
    ),
    "IntraBatchConnectionsLoss": indexed_by_labels(
        losses.IntraBatchConnectionsLoss,
        out_of_range={
            "num_classes": 0,
            "embedding_size": 0,
            "num_heads": 3,
            "num_layers": 0,
            "feedforward_size": 0,
            "dropout": 1.0,
            "temperature": 0.0,
            "label_smoothing": 1.0,
            "mpn_weight": -1.0,
            "aux_weight": math.nan,
            "add_zero_attn": "no",
            "concat_layers": 1,
            "attention_dropout": -0.1,
        },
    ),
    "IntraBatchConnectionsLoss as released": indexed_by_labels(
        losses.IntraBatchConnectionsLoss,
        {
            "num_classes": NUM_CLASSES,
            "embedding_size": EMBEDDING_SIZE,
            "num_layers": 2,
            "aux_weight": 0.0,
            "add_zero_attn": True,
            "concat_layers": True,
        },
        out_of_range={"mpn_weight": 0.0},
    ),
    "IntraBatchConnectionsLoss, auxiliary only": indexed_by_labels(
        losses.IntraBatchConnectionsLoss,
        {"num_classes": NUM_CLASSES, "embedding_size": EMBEDDING_SIZE, "mpn_weight": 0.0},
        out_of_range={"aux_weight": 0.0},
    ),
    "DelayedMemoryLoss": Entry(
        losses.DelayedMemoryLoss,
        {"embedding_size": EMBEDDING_SIZE, "memory_size": 24, "start_after": 1},
        {
            "out_of_range": {
                "embedding_size": 0,
                "memory_size": 0,
                "start_after": -1,
                "loss": losses.LiftedStructureLoss,
            }
        },
    ),
    "ZeroShotPredictionLoss": indexed_by_labels(
        losses.ZeroShotPredictionLoss,
        {"num_classes": NUM_CLASSES, "embedding_size": 3, "num_attributes": EMBEDDING_SIZE},
        out_of_range={
            "num_classes": 1,
            "embedding_size": 0,
            "num_attributes": 0,
            "ridge": 0.0,
            "logit_scale": math.inf,
            "weight": 0.1,
        },
    ),
    "ZeroShotPredictionLoss beside a proxy loss": indexed_by_labels(
        zero_shot_beside_classes,
        {},
        out_of_range={"inner": losses.ClassificationLoss, "weight": 1.0},
    ),
    "NTXentLoss": Entry(
        losses.NTXentLoss,
        check={"out_of_range": {"temperature": 0.0, "tile": 0}, "cost_only": _TILES},
    ),
    "NTXentLoss by tiles of distances": Entry(
        losses.NTXentLoss,
        {"temperature": 0.5, "tile": 3, "distance": LpDistance()},
        {"out_of_range": {"temperature": math.inf}},
    ),
    "TupletMarginLoss": Entry(
        losses.TupletMarginLoss,
        check={
            "out_of_range": {
                "margin": math.nan,
                "scale": 0.0,
                "tile": 1.5,
                "distance": LpDistance(),
            },
            "cost_only": _TILES,
        },
    ),
    "TupletMarginLoss by tiles": Entry(
        losses.TupletMarginLoss, {"tile": 3}, {"out_of_range": {"scale": -1.0}}
    ),
    "SmoothAPLoss": Entry(
        losses.SmoothAPLoss,
        check={
            "out_of_range": {"temperature": 0.0, "tile": 0, "distance": LpDistance()},
            "cost_only": _TILES,
        },
    ),
    "SmoothAPLoss by tiles": Entry(
        losses.SmoothAPLoss,
        {"temperature": 0.1, "tile": 5},
        {"out_of_range": {"temperature": math.nan}},
    ),
    "PNPLoss": Entry(
        losses.PNPLoss,
        check={
            "out_of_range": {
                "b": 0.0,
                "alpha": -1.0,
                "anneal": 0.0,
                "variant": "Dx",
                "tile": 0,
                "distance": LpDistance(),
            },
            "cost_only": _TILES,
        },
    ),
    "PNPLoss by tiles": Entry(
        losses.PNPLoss,
        {"anneal": 0.1, "variant": "Dq", "tile": 5},
        {"out_of_range": {"b": math.inf}},
    ),
    "SignalToNoiseRatioContrastiveLoss": Entry(
        losses.SignalToNoiseRatioContrastiveLoss,
        check={"out_of_range": {**_MARGINS, "distance": LpDistance()}},
    ),
    "LiftedStructureLoss": Entry(losses.LiftedStructureLoss, check={"out_of_range": _MARGINS}),
    "GeneralizedLiftedStructureLoss": Entry(
        losses.GeneralizedLiftedStructureLoss, check={"out_of_range": _MARGINS}
    ),
}

# Public names for which there is no checker yet, as "miners.Name".
NOT_LOSSES: tuple[str, ...] = (
    "evaluation.RetrievalAccuracyCalculator",
    "losses.DistancePreservingLoss",
    "losses.zabihzadeh_ensemble",
    "losses.zabihzadeh_param_groups",
    "nn.CompressionHead",
    "weighting.DynamicWeightAverage",
    "weighting.FixedWeights",
    "weighting.GradNorm",
    "weighting.HomoscedasticUncertainty",
    "weighting.LearnedSimplex",
    "weighting.LossWeighting",
    "weighting.MultipleGradientDescent",
    "weighting.NonNegativeUncertainty",
    "weighting.RandomWeights",
    "weighting.SquaredWeights",
    "weighting.Weighted",
    "inference.reciprocal_batches",
    "inference.refine_with_neighbours",
    "nn.MessagePassingNetwork",
    "pooling.GeneralizedSumPooling",
    "pooling.replace_pooling",
    "miners.HardNeighbourMiner",
    "miners.RelationMiner",
    "reducers.BatchSizeReducer",
    "samplers.EpochMPerClassSampler",
    "samplers.HardNeighbourBatchSampler",
    "samplers.MPerClassBatchSampler",
    "samplers.PairBatchSampler",
    "training.Diagnostics",
    "training.GradCache",
    "training.cached_embeddings",
    "wrappers.CrossBatchMemory",
    "wrappers.DistributedLossWrapper",
    "wrappers.DistributedMinerWrapper",
    "wrappers.SelfSupervisedLoss",
)
