"""The four losses of the published ensemble, each alone, and what makes one of them.

On one embedding: weights that are equal, learned, or found from gradients or epochs. With a head a
loss: linear layers on the trunk's output, divided by their norm; a quarter of its width each, so
that the concatenation is as wide as every other row's embedding. Compressed: heads of half the
width, as published 4 x 64, squeezed into one vector of the full width, as published 128.

Every ensemble scales its losses by their cumulative means, by a factor of 10 at most: the triplet
loss is often 0, since few triplets are as semi-hard as its miner wants them. Rates: proxies, class
weights, heads and compression as all parameters of losses, weights of the losses that of the trunk,
which is the published ratio; nothing of a loss decays.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn

from benchmarks.recipes.budget import Budget, Groups
from benchmarks.recipes.recipe import Recipe, own_parameters
from benchmarks.recipes.space import RATE, RATES, Range
from pml_extras.losses import (
    BinomialDevianceLoss,
    ClassificationLoss,
    DistancePreservingLoss,
    SmoothedProxyNCALoss,
    WeightedLossEnsemble,
    zabihzadeh_ensemble,
)
from pml_extras.nn import CompressionHead
from pml_extras.weighting import (
    DynamicWeightAverage,
    FixedWeights,
    GradNorm,
    HomoscedasticUncertainty,
    LearnedSimplex,
    LossWeighting,
    MultipleGradientDescent,
    NonNegativeUncertainty,
    RandomWeights,
    SquaredWeights,
)

Weighting = Callable[[], LossWeighting]
PRIOR = {"classification": 2, "triplet": 1, "binomial": 2, "proxy_nca": 3}  # published
LEARNED = partial(LearnedSimplex, prior=PRIOR)
MAX_SCALE = 10.0
MEMBERS = {
    "classification": Recipe(
        "classification",
        "Classification",
        ClassificationLoss,
        has_classes=True,
        space=RATES,
    ),
    "triplet": Recipe(
        "triplet_margin_1",
        "Triplet, margin 1, mined at 0.1",
        TripletMarginLoss,
        loss_args={"margin": 1.0},
        miner=TripletMarginMiner,
        miner_args={"margin": 0.1, "type_of_triplets": "semihard"},
        space={**RATE, "loss.margin": Range(0, 1, "A Metric Learning Reality Check, scripts")},
    ),
    "binomial": Recipe("binomial_deviance", "Binomial deviance", BinomialDevianceLoss),
    "proxy_nca": Recipe(
        "smoothed_proxy_nca",
        "Proxy-NCA, smoothed",
        SmoothedProxyNCALoss,
        loss_args={"softmax_scale": 3.0, "label_smoothing": 0.1},
        has_classes=True,
        space={**RATES, "loss.softmax_scale": Range(1, 30, "ours", log=True)},
    ),
}


def on_one_embedding(
    num_classes: int,
    embedding_size: int,
    weighting: Weighting = LEARNED,
    members: Mapping[str, Recipe] = MEMBERS,
    max_scale: float = MAX_SCALE,
) -> WeightedLossEnsemble:
    """All members see the trunk's output."""
    return WeightedLossEnsemble(
        {
            name: loss
            for name, member in members.items()
            if (loss := member.make_loss(num_classes, embedding_size))
        },
        miners={name: m for name, member in members.items() for m in member.make_miners().values()},
        weighting=weighting(),
        max_scale=max_scale,
        collect_stats=True,
    )


def on_heads(
    num_classes: int,
    embedding_size: int,
    weighting: Weighting = LEARNED,
    max_scale: float = MAX_SCALE,
    diversity_weight: float = 0.01,
    heads_to_width: int = 4,
) -> WeightedLossEnsemble:
    """Each member sees its own layer of width ``embedding_size // heads_to_width``."""
    return zabihzadeh_ensemble(
        num_classes,
        embedding_size,
        embedding_size // heads_to_width,
        diversity_weight=diversity_weight,
        weighting=weighting(),
        max_scale=max_scale,
        collect_stats=True,
    )


HALF_WIDTH = partial(on_heads, heads_to_width=2)


class Compressed(nn.Module):
    """An ensemble on heads of half the width, and a network that compresses their concatenation.

    The network is trained by one more term of the same sum. It has parameters of its own, and what
    it sees is detached: under Adam that is the separate optimizer of the released code, but for its
    second forward pass, through the trunk as just updated.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        ensemble: Callable[..., WeightedLossEnsemble] = HALF_WIDTH,
    ) -> None:
        super().__init__()
        self.ensemble = ensemble(num_classes, embedding_size)
        width = len(PRIOR) * (embedding_size // 2)
        self.compression = CompressionHead(width, embedding_size)
        self.keep_distances = DistancePreservingLoss()

    def forward(self, embeddings: Tensor, labels: Tensor, indices_tuple: None = None) -> Tensor:
        concatenation = self.ensemble.embed(embeddings).detach()
        distances = self.keep_distances(self.compression(concatenation), ref_emb=concatenation)
        total: Tensor = self.ensemble(embeddings, labels, indices_tuple) + distances
        return total

    def embed(self, features: Tensor) -> Tensor:
        """(B, embedding_size), to be compared by Euclidean distance as it is."""
        compressed: Tensor = self.compression(self.ensemble.embed(features))
        return compressed


def drawn_weights() -> RandomWeights:
    """Of a seed that the run's own seed decides."""
    return RandomWeights(seed=int(torch.randint(2**31, ())))


def weights_at_the_rate_of_the_trunk(loss: nn.Module, budget: Budget) -> Groups:
    """All parameters as those of other losses, but for the weights of the losses."""
    weights = [
        parameter
        for module in loss.modules()
        if isinstance(module, LossWeighting)
        for parameter in module.parameters()
    ]
    (own,) = own_parameters(loss, budget)
    own["params"] = [p for p in own["params"] if all(p is not weight for weight in weights)]
    learned = {"params": weights, "lr": budget.trunk_lr, "weight_decay": 0.0}
    return [own, learned] if weights else [own]


def _recipe(name: str, title: str, weighting: Weighting | None = None, **changed: object) -> Recipe:
    return Recipe(
        f"ensemble_{name}",
        title,
        **{
            "loss": on_one_embedding,
            "loss_args": {} if weighting is None else {"weighting": weighting},
            "has_classes": True,
            "groups": weights_at_the_rate_of_the_trunk,
            "space": RATES,
            **changed,
        },  # type: ignore[arg-type]
    )


SIMPLEX = _recipe("simplex", "Ensemble of losses")
SQUARED = _recipe(
    "squared", "Ensemble, squared weights (published)", partial(SquaredWeights, prior=PRIOR)
)
HEADS = _recipe("heads", "Ensemble, a head a loss", loss=on_heads)
COMPRESSED = _recipe("compressed", "Ensemble, heads compressed", loss=Compressed, unit_rows=False)
ENSEMBLES = (
    SIMPLEX,
    SQUARED,
    HEADS,
    COMPRESSED,
    _recipe("uniform", "Ensemble, equal weights", FixedWeights),
    _recipe("uncertainty", "Ensemble, uncertainty", HomoscedasticUncertainty),
    _recipe(
        "non_negative_uncertainty", "Ensemble, non-negative uncertainty", NonNegativeUncertainty
    ),
    _recipe("gradnorm", "Ensemble, GradNorm", GradNorm),
    _recipe("dwa", "Ensemble, dynamic weight average", DynamicWeightAverage),
    _recipe("random", "Ensemble, random weights", drawn_weights),
    _recipe("mgda", "Ensemble, multiple gradient descent", MultipleGradientDescent),
)
