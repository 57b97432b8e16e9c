"""What is measured of cost: computations that stand beside each other, by name.

Losses: beside pml's own, 4 rows a class, 128 dimensions, float32; a memory is full. Attention: a
message passing network of 512 dimensions and 8 heads, as it is computed, with its weights held, and
with dropout of its weights. Ensemble: three losses of pml under each strategy of weighting, beside
their bare sum. Pooling: generalized sum pooling of two shapes of feature maps, its weights alone,
the whole layer, and a training step of a network that has it. Large batches: a network
and a loss in one pass, and in chunks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from benchmarks import large_batch_cost, pooling_cost
from pml_extras import losses as ours
from pml_extras import weighting
from pml_extras.nn import MessagePassingNetwork

DIM, PER_CLASS, CLASSES, WARM_UP_ROWS = 128, 4, 100, 64
MEMORY_SIZE = 4096
BATCHES = (64, 128, 256, 512, 1024, 2048)
ATTENTION, NODE_SIZE, HEADS, ATTENTION_BATCHES = "attention", 512, 8, (1024, 2048, 4096)
ENSEMBLE, BARE_SUM = "ensemble", "sum"
POOLINGS = {"pooling_49": (112, 49, 512, 128), "pooling_196": (32, 196, 512, 64)}  # B, n, d, m
POOLING_STEP = "pooling_step"
LARGE_BATCH = "large_batch"
CPU = torch.device("cpu")

Make = Callable[[], torch.nn.Module]
Pass = Callable[[int], None]  # forward and backward of so many rows


class Pair(NamedTuple):
    """One of our losses and the nearest one of pml, if any."""

    ours: Make
    theirs: Make | None = None
    nearest: str = ""


class Side(NamedTuple):
    """One of the computations that are measured beside each other."""

    title: str
    make: Callable[[torch.device], Pass]


class Subject(NamedTuple):
    """What is measured together.

    Args:
        sides: by name.
        batches: rows, if nothing else is asked for.
        growth: of peak memory for a doubled batch, at the worst.
        about: part of its records.
        warm_up: rows of the pass that is not measured.
    """

    sides: dict[str, Side]
    batches: tuple[int, ...]
    growth: float
    about: dict[str, int]
    warm_up: int = WARM_UP_ROWS


PAIRS: dict[str, Pair] = {
    "LiftedStructureLoss": Pair(
        ours.LiftedStructureLoss, pml.LiftedStructureLoss, "LiftedStructureLoss"
    ),
    "GeneralizedLiftedStructureLoss": Pair(
        ours.GeneralizedLiftedStructureLoss,
        pml.GeneralizedLiftedStructureLoss,
        "GeneralizedLiftedStructureLoss",
    ),
    **{
        name: Pair(getattr(ours, name), getattr(pml, name, None), name)  # pml 2.8 lacks one
        for name in (
            "NTXentLoss",
            "TupletMarginLoss",
            "PNPLoss",
            "SmoothAPLoss",
            "SignalToNoiseRatioContrastiveLoss",
        )
    },
    "PotentialFieldLoss": Pair(
        lambda: ours.PotentialFieldLoss(CLASSES, DIM, reduction="batch_mean"),
        lambda: pml.SoftTripleLoss(CLASSES, DIM, centers_per_class=15),
        "SoftTripleLoss, 15 centres a class",
    ),
    "IntraBatchConnectionsLoss": Pair(
        lambda: ours.IntraBatchConnectionsLoss(CLASSES, DIM, dropout=0.0),
        lambda: pml.NormalizedSoftmaxLoss(CLASSES, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "WeightedLossEnsemble": Pair(
        lambda: ours.WeightedLossEnsemble(three_losses()),
        lambda: pml.MultipleLosses(three_losses()),
        "MultipleLosses, same three",
    ),
    "BinomialDevianceLoss": Pair(
        ours.BinomialDevianceLoss, pml.MultiSimilarityLoss, "MultiSimilarityLoss"
    ),
    "ClassificationLoss": Pair(
        lambda: ours.ClassificationLoss(CLASSES, DIM),
        lambda: pml.NormalizedSoftmaxLoss(CLASSES, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "SmoothedProxyNCALoss": Pair(
        lambda: ours.SmoothedProxyNCALoss(CLASSES, DIM),
        lambda: pml.ProxyNCALoss(CLASSES, DIM),
        "ProxyNCALoss",
    ),
    "ZeroShotPredictionLoss": Pair(
        lambda: ours.ZeroShotPredictionLoss(CLASSES, DIM, DIM),
        lambda: pml.NormalizedSoftmaxLoss(CLASSES, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "DelayedMemoryLoss": Pair(
        lambda: of_full_memory(ours.DelayedMemoryLoss(DIM, MEMORY_SIZE, 0)),
        lambda: of_full_memory(
            pml.CrossBatchMemory(
                pml.ContrastiveLoss(
                    pos_margin=1, neg_margin=0.5, distance=CosineSimilarity(), reducer=MeanReducer()
                ),
                DIM,
                MEMORY_SIZE,
            )
        ),
        "CrossBatchMemory, its memory term",
    ),
    "DistancePreservingLoss": Pair(lambda: OfTeacher(ours.DistancePreservingLoss())),
}


def of_full_memory(loss: torch.nn.Module) -> torch.nn.Module:
    """``loss``, whose memory holds as many rows as it can: random ones, of all classes."""
    memory: Any = loss.memory if isinstance(loss, ours.DelayedMemoryLoss) else loss
    memory.embedding_memory.normal_()
    memory.label_memory.copy_(torch.arange(MEMORY_SIZE) // PER_CLASS % CLASSES)
    memory.has_been_filled = True
    return loss


class OfTeacher(torch.nn.Module):
    """A loss that compares with rows of twice the width instead of labels."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        teacher = torch.randn(len(embeddings), 2 * DIM, device=embeddings.device)
        value: Tensor = self.loss(embeddings, ref_emb=teacher)
        return value


class BareSum(torch.nn.Module):
    """The three losses without anything around them."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = torch.nn.ModuleList(three_losses())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        first, second, third = (loss(embeddings, labels) for loss in self.losses)
        total: Tensor = first + second + third
        return total


STRATEGIES: dict[str, type[weighting.LossWeighting]] = {
    "simplex": weighting.LearnedSimplex,
    "squared": weighting.SquaredWeights,
    "fixed": weighting.FixedWeights,
    "uncertainty": weighting.HomoscedasticUncertainty,
    "non_negative_uncertainty": weighting.NonNegativeUncertainty,
    "random": weighting.RandomWeights,
    "dwa": weighting.DynamicWeightAverage,
    "gradnorm": weighting.GradNorm,
    "mgda": weighting.MultipleGradientDescent,
}


def three_losses() -> list[torch.nn.Module]:
    """One of pairs, two of proxies."""
    return [
        pml.MultiSimilarityLoss(),
        pml.ProxyAnchorLoss(CLASSES, DIM),
        pml.NormalizedSoftmaxLoss(CLASSES, DIM),
    ]


def of_loss(make: Make, device: torch.device = CPU) -> Pass:
    """A batch of its own for each pass, in training mode."""
    loss = make().to(device).train()

    def one_pass(rows: int) -> None:
        embeddings = torch.randn(rows, DIM, device=device, requires_grad=True)
        labels = torch.arange(rows, device=device) // PER_CLASS % CLASSES
        loss(embeddings, labels).backward()

    return one_pass


def of_network(*, explicit: bool, dropout: float, device: torch.device) -> Pass:
    """``explicit`` holds the (heads, rows, rows) weights; ``dropout`` is of them alone."""
    network = MessagePassingNetwork(NODE_SIZE, HEADS, dropout=0.0, attention_dropout=dropout)
    network.to(device).train()

    def one_pass(rows: int) -> None:
        x = torch.randn(rows, NODE_SIZE, device=device, requires_grad=True)
        refined = network.forward_with_attention(x)[0] if explicit else network(x)
        refined.square().sum().backward()

    return one_pass


def _losses(name: str, pair: Pair) -> Subject:
    sides = {"ours": Side(name, partial(of_loss, pair.ours))}
    if pair.theirs is not None:
        sides["theirs"] = Side(pair.nearest, partial(of_loss, pair.theirs))
    return Subject(sides, BATCHES, growth=8, about={"dim": DIM, "rows_per_class": PER_CLASS})


def _network(title: str, *, explicit: bool = False, dropout: float = 0.0) -> Side:
    return Side(title, lambda device: of_network(explicit=explicit, dropout=dropout, device=device))


def _ensembles() -> Subject:
    def made(strategy: type[weighting.LossWeighting]) -> torch.nn.Module:
        return ours.WeightedLossEnsemble(three_losses(), weighting=strategy())

    sides = {BARE_SUM: Side("bare sum of the three losses", partial(of_loss, BareSum))}
    for name, strategy in STRATEGIES.items():
        sides[name] = Side(f"`{strategy.__name__}`", partial(of_loss, partial(made, strategy)))
    return Subject(sides, (128, 512), growth=8, about={"dim": DIM, "rows_per_class": PER_CLASS})


def _pooling(images: int, locations: int, size: int, prototypes: int) -> Subject:
    closed, unrolled = pooling_cost.closed_form, pooling_cost.unrolled

    def weights(how: pooling_cost.Weights) -> Callable[[torch.device], Pass]:
        return partial(pooling_cost.of_weights, how, images, locations, prototypes)

    def layer(how: pooling_cost.Weights | None) -> Callable[[torch.device], Pass]:
        return partial(pooling_cost.of_layer, how, locations, size, prototypes)

    return Subject(
        {
            "weights": Side("weights from given costs, closed form", weights(closed)),
            "weights_unrolled": Side("weights, autograd through 100 steps", weights(unrolled)),
            "layer": Side("`GeneralizedSumPooling`", layer(None)),
            "layer_unrolled": Side("its layer, autograd through 100 steps", layer(unrolled)),
            "average": Side(
                "average pooling and linear", partial(pooling_cost.of_average, locations, size)
            ),
        },
        (images,),
        growth=2,
        about={"locations": locations, "dim": size, "prototypes": prototypes},
        warm_up=2,
    )


def _training_step() -> Subject:
    def step(pooled: bool) -> Callable[[torch.device], Pass]:
        return lambda device: pooling_cost.of_training_step(pooled=pooled, device=device)

    sides = {
        "average": Side("resnet50, average pooling and linear", step(pooled=False)),
        "layer": Side("resnet50, `GeneralizedSumPooling`", step(pooled=True)),
    }
    return Subject(sides, (8,), growth=2, about={"pixels": pooling_cost.PIXELS}, warm_up=2)


def _large_batch() -> Subject:
    sides = {
        "one_pass": Side("in one pass", partial(large_batch_cost.of_network, 1)),
        "chunks_8": Side("`cached_embeddings`, 8 chunks", partial(large_batch_cost.of_network, 8)),
        "chunks_32": Side("the same, 32 chunks", partial(large_batch_cost.of_network, 32)),
    }
    return Subject(sides, (512, 1024, 2048), growth=2, about={"dim": large_batch_cost.DIM})


SUBJECTS = {
    **{name: _losses(name, pair) for name, pair in PAIRS.items()},
    ATTENTION: Subject(
        {
            "fused": _network("fused"),
            "explicit": _network("explicit, weights held", explicit=True),
            "dropout": _network("fused, attention dropout 0.1", dropout=0.1),
        },
        ATTENTION_BATCHES,
        growth=4,
        about={"dim": NODE_SIZE, "heads": HEADS},
    ),
    ENSEMBLE: _ensembles(),
    **{name: _pooling(*shape) for name, shape in POOLINGS.items()},
    POOLING_STEP: _training_step(),
    LARGE_BATCH: _large_batch(),
}
