"""Losses straight from pml, at pml's defaults, and the floor: a trunk that nobody trained."""

from pytorch_metric_learning.losses import (
    ContrastiveLoss,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner

from benchmarks.recipes.recipe import Recipe
from benchmarks.recipes.space import RATE, RATES, Range

MLRC = "A Metric Learning Reality Check"
UNIT = Range(0, 1, f"{MLRC}, scripts and documentation")
STRENGTH = Range(0.01, 100, f"{MLRC}, documentation", log=True)

RECIPES = (
    Recipe(
        "contrastive",
        "Contrastive",
        ContrastiveLoss,
        space={**RATE, "loss.pos_margin": UNIT, "loss.neg_margin": UNIT},
    ),
    Recipe(
        "triplet_semihard",
        "Triplet margin, semi-hard",
        TripletMarginLoss,
        miner=TripletMarginMiner,
        miner_args={"type_of_triplets": "semihard"},
        space={**RATE, "loss.margin": UNIT},
    ),
    Recipe(
        "multi_similarity",
        "Multi-similarity + miner",
        MultiSimilarityLoss,
        miner=MultiSimilarityMiner,
        space={
            **RATE,
            "loss.alpha": STRENGTH,
            "loss.beta": STRENGTH,
            "loss.base": UNIT,
            "miner.epsilon": UNIT,
        },
    ),
    Recipe(
        "proxy_anchor",
        "Proxy Anchor",
        ProxyAnchorLoss,
        has_classes=True,
        space={
            **RATES,
            "loss.margin": Range(0, 0.5, "ours"),
            "loss.alpha": Range(4, 128, "ours", log=True),
        },
    ),
    Recipe(
        "normalized_softmax",
        "Normalized softmax",
        NormalizedSoftmaxLoss,
        has_classes=True,
        space={**RATES, "loss.temperature": Range(0.01, 1, "ours", log=True)},
    ),
    Recipe("untrained", "Untrained trunk", space={}),
)
