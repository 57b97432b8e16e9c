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

RECIPES = (
    Recipe("contrastive", "Contrastive", ContrastiveLoss),
    Recipe(
        "triplet_semihard",
        "Triplet margin, semi-hard",
        TripletMarginLoss,
        miner=TripletMarginMiner,
        miner_args={"type_of_triplets": "semihard"},
    ),
    Recipe(
        "multi_similarity",
        "Multi-similarity + miner",
        MultiSimilarityLoss,
        miner=MultiSimilarityMiner,
    ),
    Recipe("proxy_anchor", "Proxy Anchor", ProxyAnchorLoss, has_classes=True),
    Recipe("normalized_softmax", "Normalized softmax", NormalizedSoftmaxLoss, has_classes=True),
    Recipe("untrained", "Untrained trunk"),
)
