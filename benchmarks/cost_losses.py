"""Costs of losses: ours beside pml's nearest, and what a product of matrices takes.

One rule for all: 4 rows a class at every size, so rows // 4 classes in the batch, and as many in a
loss that has proxies or weights of classes; a full memory holds 4 rows of each of its classes. 128
dimensions. ``product`` is the floor of every loss of pairs: its two matrix products alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from pml_extras import losses as ours
from pml_extras import weighting

DIM, PER_CLASS, WARM_UP_ROWS, MEMORY_SIZE = 128, 4, 64, 4096
BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
ENSEMBLE, BARE_SUM = "ensemble", "sum"
PRODUCT, FLOOR = "product", "floor"
CPU = torch.device("cpu")

Make = Callable[[int], torch.nn.Module]  # a loss for so many classes
Pass = Callable[[int], None]  # forward and backward of so many rows


class Setting(NamedTuple):
    """Where and on what a pass runs: ``rows`` is what it is made for."""

    rows: int = WARM_UP_ROWS
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    @property
    def classes(self) -> int:
        """Of the batch and of the loss; enough for the warm-up."""
        return -(-max(self.rows, WARM_UP_ROWS) // PER_CLASS)


class Pair(NamedTuple):
    """One of our losses and the nearest one of pml, if any, for such batches."""

    ours: Make
    theirs: Make | None = None
    nearest: str = ""
    batches: tuple[int, ...] = BATCHES


class Side(NamedTuple):
    """One of the computations that are measured beside each other."""

    title: str
    make: Callable[[Setting], Pass]


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


def of_any_classes(make: Callable[[], torch.nn.Module]) -> Make:
    """A loss that need not know how many classes there are."""
    return lambda classes: make()


PAIRS: dict[str, Pair] = {
    **{
        name: Pair(
            of_any_classes(getattr(ours, name)),
            of_any_classes(getattr(pml, name)) if hasattr(pml, name) else None,  # 2.8 lacks one
            name,
        )
        for name in (
            "LiftedStructureLoss",
            "GeneralizedLiftedStructureLoss",
            "NTXentLoss",
            "TupletMarginLoss",
            "PNPLoss",
            "SmoothAPLoss",
            "SignalToNoiseRatioContrastiveLoss",
        )
    },
    "PotentialFieldLoss": Pair(
        lambda classes: ours.PotentialFieldLoss(classes, DIM, reduction="batch_mean"),
        lambda classes: pml.SoftTripleLoss(classes, DIM, centers_per_class=15),
        "SoftTripleLoss, 15 centres a class",
    ),
    "IntraBatchConnectionsLoss": Pair(
        lambda classes: ours.IntraBatchConnectionsLoss(classes, DIM, dropout=0.0),
        lambda classes: pml.NormalizedSoftmaxLoss(classes, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "WeightedLossEnsemble": Pair(
        lambda classes: ours.WeightedLossEnsemble(three_losses(classes)),
        lambda classes: pml.MultipleLosses(three_losses(classes)),
        "MultipleLosses, same three",
    ),
    "BinomialDevianceLoss": Pair(
        of_any_classes(ours.BinomialDevianceLoss),
        of_any_classes(pml.MultiSimilarityLoss),
        "MultiSimilarityLoss",
    ),
    "ClassificationLoss": Pair(
        lambda classes: ours.ClassificationLoss(classes, DIM),
        lambda classes: pml.NormalizedSoftmaxLoss(classes, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "SmoothedProxyNCALoss": Pair(
        lambda classes: ours.SmoothedProxyNCALoss(classes, DIM),
        lambda classes: pml.ProxyNCALoss(classes, DIM),
        "ProxyNCALoss",
    ),
    "ZeroShotPredictionLoss": Pair(
        lambda classes: ours.ZeroShotPredictionLoss(classes, DIM, DIM),
        lambda classes: pml.NormalizedSoftmaxLoss(classes, DIM),
        "NormalizedSoftmaxLoss",
    ),
    "DelayedMemoryLoss": Pair(
        lambda _: of_full_memory(ours.DelayedMemoryLoss(DIM, MEMORY_SIZE, 0)),
        lambda _: of_full_memory(
            pml.CrossBatchMemory(
                pml.ContrastiveLoss(
                    pos_margin=1, neg_margin=0.5, distance=CosineSimilarity(), reducer=MeanReducer()
                ),
                DIM,
                MEMORY_SIZE,
            )
        ),
        "CrossBatchMemory, its memory term",
        tuple(rows for rows in BATCHES if rows <= MEMORY_SIZE),
    ),
    "DistancePreservingLoss": Pair(lambda _: OfTeacher(ours.DistancePreservingLoss())),
}


def of_full_memory(loss: torch.nn.Module) -> torch.nn.Module:
    """``loss``, whose memory holds as many rows as it can: random ones, 4 a class."""
    memory: Any = loss.memory if isinstance(loss, ours.DelayedMemoryLoss) else loss
    memory.embedding_memory.normal_()
    memory.label_memory.copy_(torch.arange(MEMORY_SIZE) // PER_CLASS)
    memory.has_been_filled = True
    return loss


class OfTeacher(torch.nn.Module):
    """A loss that compares with rows of twice the width instead of labels."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        teacher = embeddings.new_empty(len(embeddings), 2 * DIM).normal_()
        value: Tensor = self.loss(embeddings, ref_emb=teacher)
        return value


class BareSum(torch.nn.Module):
    """The three losses without anything around them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.losses = torch.nn.ModuleList(three_losses(classes))

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


def three_losses(classes: int) -> list[torch.nn.Module]:
    """One of pairs, two of proxies."""
    return [
        pml.MultiSimilarityLoss(),
        pml.ProxyAnchorLoss(classes, DIM),
        pml.NormalizedSoftmaxLoss(classes, DIM),
    ]


def of_loss(make: Make, setting: Setting) -> Pass:
    """A batch of its own for each pass, in training mode."""
    device, dtype = setting.device, setting.dtype
    loss = make(setting.classes).to(device).train()

    def one_pass(rows: int) -> None:
        embeddings = torch.randn(rows, DIM, device=device, dtype=dtype, requires_grad=True)
        labels = torch.arange(rows, device=device) // PER_CLASS
        loss(embeddings, labels).backward()

    return one_pass


def of_product(setting: Setting) -> Pass:
    """What similarities of all pairs and a gradient through them take at the least."""

    def one_pass(rows: int) -> None:
        x = torch.randn(rows, DIM, device=setting.device, dtype=setting.dtype)
        (x @ x.T) @ x

    return one_pass


def _subject(sides: dict[str, Side], batches: tuple[int, ...] = BATCHES) -> Subject:
    return Subject(sides, batches, growth=8, about={"dim": DIM, "rows_per_class": PER_CLASS})


def _of_pair(name: str, pair: Pair) -> Subject:
    sides = {"ours": Side(name, partial(of_loss, pair.ours))}
    if pair.theirs is not None:
        sides["theirs"] = Side(pair.nearest, partial(of_loss, pair.theirs))
    return _subject(sides, pair.batches)


def _product() -> Subject:
    """The products beside the loss whose work is nearest to them, turn by turn."""
    lifted = "LiftedStructureLoss"
    sides = {
        FLOOR: Side("`X @ X.T`, then `S @ X`", of_product),
        "lifted": Side(lifted, partial(of_loss, PAIRS[lifted].ours)),
    }
    return _subject(sides)


def _ensembles() -> Subject:
    def made(strategy: type[weighting.LossWeighting], classes: int) -> torch.nn.Module:
        return ours.WeightedLossEnsemble(three_losses(classes), weighting=strategy())

    sides = {BARE_SUM: Side("bare sum of the three losses", partial(of_loss, BareSum))}
    for name, strategy in STRATEGIES.items():
        sides[name] = Side(f"`{strategy.__name__}`", partial(of_loss, partial(made, strategy)))
    return _subject(sides, (128, 512))


LOSSES = {PRODUCT: _product(), **{name: _of_pair(name, pair) for name, pair in PAIRS.items()}}
OF_EMBEDDINGS = {**LOSSES, ENSEMBLE: _ensembles()}
