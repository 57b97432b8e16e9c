"""Milliseconds and peak MiB of one forward and backward pass, by batch size.

What is compared is timed in one process, turn by turn; peak memory is that of a fresh process each,
above its size after a warm-up at 64 rows: resident size on a CPU, what torch allocated on CUDA.
Losses: beside pml's own, 4 rows a class, 128 dimensions, float32. Attention: a message passing
network of 512 dimensions and 8 heads, as it is computed, with its weights held, and with dropout of
its weights. Ensemble: three losses of pml under each strategy of weighting, beside their bare sum.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor

from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import Record
from pml_extras import losses as ours
from pml_extras import weighting
from pml_extras.nn import MessagePassingNetwork

DIM, PER_CLASS, CLASSES, WARM_UP_ROWS = 128, 4, 100, 64
BATCHES = (64, 128, 256, 512, 1024, 2048)
ATTENTION, NODE_SIZE, HEADS, ATTENTION_BATCHES = "attention", 512, 8, (1024, 2048, 4096)
ENSEMBLE, BARE_SUM = "ensemble", "sum"
LIMIT_MIB = 4096.0  # a batch size that is expected to need more is left out
SECONDS_A_TURN, SECONDS_A_SIDE, MIN_TURNS, MAX_TURNS = 0.05, 2.5, 3, 50
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
    """

    sides: dict[str, Side]
    batches: tuple[int, ...]
    growth: float
    about: dict[str, int]


PAIRS: dict[str, Pair] = {
    "LiftedStructureLoss": Pair(
        ours.LiftedStructureLoss, pml.LiftedStructureLoss, "LiftedStructureLoss"
    ),
    "GeneralizedLiftedStructureLoss": Pair(
        ours.GeneralizedLiftedStructureLoss,
        pml.GeneralizedLiftedStructureLoss,
        "GeneralizedLiftedStructureLoss",
    ),
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
    "DistancePreservingLoss": Pair(lambda: OfTeacher(ours.DistancePreservingLoss())),
}


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
}


def peak_mib(passes: list[Pass], rows: int, device: torch.device = CPU) -> float | None:
    """Peak memory of one pass above the size after a warm-up; for a fresh process."""
    (one_pass,) = passes
    one_pass(WARM_UP_ROWS)
    memory = PeakMemory(device)
    memory.start()
    before = _held_mib(device)
    one_pass(rows)
    memory.stop()
    return None if memory.mib is None or before is None else memory.mib - before


def milliseconds(passes: list[Pass], rows: int, device: torch.device = CPU) -> list[float]:
    """Median time of one pass of each. They take turns, each with a warm-up pass and then passes
    for at least 50 ms, so that none pays for the caches that another one has filled."""
    timed: list[list[float]] = [[] for _ in passes]
    start = _now(device)
    for turn in range(MAX_TURNS):
        for one_pass, seconds in zip(passes, timed, strict=True):
            one_pass(rows)
            began = _now(device)
            while (since := _now(device)) - began < SECONDS_A_TURN:
                one_pass(rows)
                seconds.append(_now(device) - since)
        if turn + 1 >= MIN_TURNS and _now(device) - start > SECONDS_A_SIDE * len(passes):
            break
    return [1000 * statistics.median(seconds) for seconds in timed]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _held_mib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device)) / 2**20
    return resident_mib()


def sweep(
    batches: tuple[int, ...] = (), names: tuple[str, ...] = (), device: torch.device = CPU
) -> Iterator[Record]:
    """One record for each subject, side and batch size that fits, as soon as it is measured."""
    about = provenance(device)
    for name in names or tuple(SUBJECTS):
        subject = SUBJECTS[name]
        fits = list(subject.sides)
        for rows in sorted(batches or subject.batches):
            peaks = {side: _in_fresh_process("memory", name, [side], rows, device) for side in fits}
            times = _in_fresh_process("time", name, fits, rows, device)
            for side, ms in zip(list(fits), times, strict=True):
                yield {
                    "loss": name,
                    "side": side,
                    "title": subject.sides[side].title,
                    "rows": rows,
                    **subject.about,
                    "milliseconds": ms,
                    "peak_mib": peaks[side],
                    **about,
                }
                if subject.growth * (peaks[side] or 0.0) > LIMIT_MIB:
                    fits.remove(side)
            if not fits:
                break


def _in_fresh_process(
    what: str, name: str, sides: list[str], rows: int, device: torch.device
) -> Any:
    arguments = [what, name, ",".join(sides), str(rows), str(device)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(run.stdout)


def _main(what: str, name: str, sides: str, rows: str, device: str) -> None:
    torch.manual_seed(0)
    place = torch.device(device)
    passes = [SUBJECTS[name].sides[side].make(place) for side in sides.split(",")]
    measure: Callable[[list[Pass], int, torch.device], Any] = {
        "memory": peak_mib,
        "time": milliseconds,
    }[what]
    print(json.dumps(measure(passes, int(rows), place)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
