"""(recipe, data, seed) -> Result: trains with pml's trainer; prints and plots nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as pml_globals
from torch import nn

from benchmarks.checkpoint import Checkpoint, Rest
from benchmarks.datasets import AnyData, ImageFiles, Loaded
from benchmarks.kinds import image_trunk, readable, text_trunk, training_set
from benchmarks.label_noise import with_label_noise
from benchmarks.linear_trunk import LinearTrunk
from benchmarks.neighbours import nearest
from benchmarks.plane import plane
from benchmarks.processes import Batches, Parts, rank_and_number
from benchmarks.protocols import QUICK, Protocol
from benchmarks.provenance import provenance
from benchmarks.recipes import Budget, Recipe, digest
from benchmarks.trainer import check_parts
from benchmarks.training import begin, train
from benchmarks.trunk import GREY, MapTrunk, Trunk
from benchmarks.watch import Watch


@dataclass(frozen=True)
class Result:
    """One run; a line of a results file.

    Args:
        settings_hash: of ``settings``, which leave the seed out.
        metrics: of the test half at the selected epoch.
        curve: per epoch, from 0 (the untrained trunk alone): test metrics, those of the validation
            classes if there are any, mean training loss, recorded statistics. A protocol that
            evaluates once has metrics at the last epoch alone.
        seconds_per_training_step_median: the whole step, after warm-up; None without a step.
        training_peak_mib: see :class:`benchmarks.measure.PeakMemory`; None where unknown.
        neighbours: see :func:`benchmarks.neighbours.nearest`; at the selected epoch.
        plane: see :func:`benchmarks.plane.plane`; at the selected epoch.
        selected_epoch: whose weights the metrics are of.
        selected_on: classes that selected it, "validation" or "test"; None: it is the last one.
    """

    recipe: str
    title: str
    dataset: str
    seed: int
    settings_hash: str
    settings: dict[str, Any]
    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    device: str
    finished_at: str
    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    seconds_per_training_step_median: float | None
    seconds_total: float
    training_peak_mib: float | None
    neighbours: dict[str, Any]
    plane: dict[str, Any]
    selected_epoch: int
    selected_on: str | None


def seeded_trunk(
    embedding_size: int,
    seed: int,
    image: Sequence[int] = GREY,
    pooling: Callable[[int, int], nn.Module] | None = None,
) -> nn.Module:
    """For images of this (channels, H, W), the same weights for every recipe of a seed, but for
    what a pooling adds; for (features,) a linear layer.

    Raises:
        ValueError: features are to be pooled.
    """
    torch.manual_seed(seed)
    if len(image) == 1:
        if pooling is not None:
            raise ValueError(
                f"pooling: expected images, whose maps it pools; got ({image[0]},) features. Take "
                "recipes without a pooling."
            )
        return LinearTrunk(image[0], embedding_size)
    if pooling is None:
        return Trunk(embedding_size, image)
    return MapTrunk(embedding_size, image, pooling)


def trunk_of(recipe: Recipe, data: AnyData, budget: Budget, seed: int) -> nn.Module:
    """The budget's encoder or backbone where it has one; else the small network."""
    pooling = recipe.pooling and partial(recipe.pooling, **recipe.pooling_args)
    if isinstance(data, ImageFiles):
        trunk: nn.Module = image_trunk(budget, seed, pooling)
    elif budget.encoder is not None:
        trunk = text_trunk(budget, seed, pooling)
    else:
        trunk = seeded_trunk(budget.embedding_size, seed, data.train.images.shape[1:], pooling)
    check_parts(trunk, budget)
    return trunk


def seeded_sampler(data: AnyData, budget: Budget, seed: int) -> MPerClassSampler:
    """The same batches for every recipe of a seed: one pass of the sampler is the whole training.

    pml's sampler draws from a generator that is global to pml.
    """
    pml_globals.NUMPY_RANDOM = np.random.default_rng(seed)
    return MPerClassSampler(
        data.train.labels,
        m=budget.images_per_class,
        batch_size=budget.batch_size,
        length_before_new_iter=budget.batch_size * budget.epochs * budget.batches,
    )


def run(
    recipe: Recipe,
    data: Loaded,
    seed: int,
    budget: Budget,
    *,
    device: torch.device,
    nmi: bool = False,
    workers: int = 0,
    on_step: Callable[[], None] = lambda: None,
    unfinished: Path | None = None,
    protocol: Protocol = QUICK,
    tensorboard: Path | None = None,
) -> Result:
    """Train and evaluate one recipe; ``on_step`` is called after every training step.

    ``unfinished`` is where the state after each epoch is kept. If it is there already, of the same
    code on the same device, the run goes on from there and ends as it would have without a break.
    ``workers`` processes read image files; how many does not change the result. ``tensorboard`` is
    a folder for :class:`benchmarks.tensorboard.Drawn`.

    Raises:
        ValueError: the recipe selects on validation classes that the data has not, or pools
            features.
    """
    began = time.perf_counter()
    settings = protocol.settings_of(recipe, data.name, budget)
    data = with_label_noise(readable(data, budget), budget.label_noise, seed)
    made_by = provenance(device)
    checkpoint = Checkpoint(unfinished, {**made_by, "nmi": nmi})
    state = checkpoint.read()
    trunk = (
        trunk_of(recipe, data, budget, seed).to(device) if state is None else state["trained"].trunk
    )
    watch = Watch(recipe, trunk, data, budget, device, nmi, workers, on_step, protocol)
    if state is None:
        watch.evaluate_untrained()
        trained = begin(recipe, trunk, data, budget, device)
    else:
        trained = state["trained"]
        began -= watch.take_up(state)
    watch.keep = lambda: checkpoint.write(
        {"trained": trained, **watch.state(time.perf_counter() - began)}
    )
    if tensorboard is not None and rank_and_number()[0] == 0:
        from benchmarks.tensorboard import Drawn  # only this needs the extra

        watch.drawn = Drawn(tensorboard, watch.curve, watch.epochs_done * budget.batches)
    if trained.loss is not None:
        sampler = (
            seeded_sampler(data, budget, seed)
            if recipe.sampler is None
            else recipe.sampler(data.train.labels, budget, seed)
        )
        dataset, sampler = training_set(data, budget, seed, sampler)
        batches: Batches = Parts(sampler, budget.batch_size)
        if state is not None:
            batches = Rest(batches, watch.epochs_done * budget.batches, state["random"])
        train(trained, dataset, batches, budget, watch)
    if watch.drawn is not None:
        watch.drawn.close()
    best = watch.best
    assert best is not None  # of the last epoch at the latest
    return Result(
        recipe=recipe.name,
        title=recipe.title,
        dataset=data.name,
        seed=seed,
        settings_hash=digest(settings),
        settings=settings,
        **made_by,
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics=best.evaluation.metrics,
        curve=watch.curve,
        seconds_per_training_step_median=watch.clock.median(),
        seconds_total=time.perf_counter() - began,
        training_peak_mib=watch.memory.mib,
        neighbours=nearest(
            data.test, best.evaluation.embeddings, data.gallery, best.evaluation.gallery
        ),
        plane=plane(data.test, best.evaluation.embeddings),
        selected_epoch=best.epoch,
        selected_on=best.criterion.classes,
    )
