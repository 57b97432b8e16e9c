"""One small instance of everything public in pml_extras, with a bad value for each argument."""

import math

from pml_extras import losses
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES, Entry, indexed_by_labels

_MARGINS = {"neg_margin": math.nan, "pos_margin": math.inf}

LOSSES = {
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
    "LiftedStructureLoss": Entry(losses.LiftedStructureLoss, check={"out_of_range": _MARGINS}),
    "GeneralizedLiftedStructureLoss": Entry(
        losses.GeneralizedLiftedStructureLoss, check={"out_of_range": _MARGINS}
    ),
}

# Public names for which there is no checker yet, as "miners.Name".
NOT_LOSSES: tuple[str, ...] = (
    "inference.reciprocal_batches",
    "inference.refine_with_neighbours",
    "nn.MessagePassingNetwork",
    "samplers.EpochMPerClassSampler",
)
