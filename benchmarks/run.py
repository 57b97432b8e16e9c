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
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import common_functions as pml_globals
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from benchmarks.backbones import ImageTrunk
from benchmarks.best import Best, Point, criterion_of
from benchmarks.checkpoint import Checkpoint, RandomStates, Rest
from benchmarks.datasets import AnyData, ImageFiles
from benchmarks.datasets.image_files import Files
from benchmarks.datasets.split import Split
from benchmarks.evaluate import Evaluation, evaluate
from benchmarks.kinds import check_kind, image_trunk, training_set
from benchmarks.label_noise import with_label_noise
from benchmarks.linear_trunk import LinearTrunk
from benchmarks.measure import PeakMemory, StepClock
from benchmarks.neighbours import nearest
from benchmarks.processes import Parts, share_buffers, wrapped_loss, wrapped_miner, wrapped_trunk
from benchmarks.protocols import QUICK, Protocol
from benchmarks.provenance import provenance
from benchmarks.quadrants import WEIGHT_ON_TARGET
from benchmarks.quiet import quiet_pml
from benchmarks.recipes import Budget, Recipe, digest
from benchmarks.recipes.budget import OPTIMIZERS
from benchmarks.records import Record
from benchmarks.trunk import GREY, MapTrunk, Retrieval, Trunk

CURVE_METRICS = ("recall_at_1", "mean_average_precision_at_r", WEIGHT_ON_TARGET)


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
    """The small network for images in memory, the budget's backbone for image files."""
    check_kind(data, budget)
    pooling = recipe.pooling and partial(recipe.pooling, **recipe.pooling_args)
    if isinstance(data, ImageFiles):
        return image_trunk(budget, seed, pooling)
    return seeded_trunk(budget.embedding_size, seed, data.train.images.shape[1:], pooling)


def seeded_sampler(data: AnyData, budget: Budget, seed: int) -> MPerClassSampler:
    """The same batches for every recipe of a seed: one pass of the sampler is the whole training.

    pml's sampler draws from a generator that is global to pml.
    """
    pml_globals.NUMPY_RANDOM = np.random.default_rng(seed)
    return MPerClassSampler(
        data.train.labels,
        m=budget.images_per_class,
        batch_size=budget.batch_size,
        length_before_new_iter=budget.batch_size * budget.steps,
    )


def run(
    recipe: Recipe,
    data: AnyData,
    seed: int,
    budget: Budget,
    *,
    device: torch.device,
    nmi: bool = False,
    workers: int = 0,
    on_step: Callable[[], None] = lambda: None,
    unfinished: Path | None = None,
    protocol: Protocol = QUICK,
) -> Result:
    """Train and evaluate one recipe; ``on_step`` is called after every training step.

    ``unfinished`` is where the state after each epoch is kept. If it is there already, of the same
    code on the same device, the run goes on from there and ends as it would have without a break.
    ``workers`` processes read image files; how many does not change the result.

    Raises:
        ValueError: the recipe selects on validation classes that the data has not, or pools
            features.
    """
    began = time.perf_counter()
    settings = protocol.settings_of(recipe, data.name, budget)
    data = with_label_noise(data, budget.label_noise, seed)
    made_by = provenance(device)
    checkpoint = Checkpoint(unfinished, {**made_by, "nmi": nmi})
    state = checkpoint.read()
    trunk = (
        trunk_of(recipe, data, budget, seed).to(device) if state is None else state["trained"].trunk
    )
    watch = _Watch(recipe, trunk, data, budget, device, nmi, workers, on_step, protocol)
    if state is None:
        watch.evaluate_untrained()
        trained = _begin(recipe, trunk, data, budget, device)
    else:
        trained = state["trained"]
        began -= watch.take_up(state)
    watch.keep = lambda: checkpoint.write(
        {"trained": trained, **watch.state(time.perf_counter() - began)}
    )
    if trained.loss is not None:
        sampler = (
            seeded_sampler(data, budget, seed)
            if recipe.sampler is None
            else recipe.sampler(data.train.labels, budget, seed)
        )
        dataset, sampler = training_set(data, budget, seed, sampler)
        batches: BatchSampler = Parts(sampler, budget.batch_size)
        if state is not None:
            batches = Rest(batches, watch.epochs_done * budget.iterations, state["random"])
        _train(trained, dataset, batches, budget, watch)
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
        selected_epoch=best.epoch,
        selected_on=best.criterion.classes,
    )


@dataclass
class _Trained:
    """All that a training changes."""

    trunk: nn.Module
    loss: nn.Module | None
    miners: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]


def _begin(
    recipe: Recipe,
    trunk: nn.Module,
    data: AnyData,
    budget: Budget,
    device: torch.device,
) -> _Trained:
    loss = recipe.make_loss(len(data.train.classes), budget.embedding_size)
    if loss is None:
        return _Trained(trunk, None, {}, {})
    loss = loss.to(device)
    make = OPTIMIZERS[budget.optimizer]
    of_trunk = {
        "params": list(trunk.parameters()),
        "lr": budget.trunk_lr,
        "weight_decay": budget.weight_decay,
    }
    optimizers = {"trunk_optimizer": make([of_trunk])}
    if groups := recipe.groups(loss, budget):
        optimizers["metric_loss_optimizer"] = make(groups)
    return _Trained(trunk, loss, recipe.make_miners(), optimizers)


def _train(
    trained: _Trained,
    dataset: Dataset[Any],
    batches: BatchSampler,
    budget: Budget,
    watch: "_Watch",
) -> None:
    assert trained.loss is not None
    with quiet_pml():
        trainer = MetricLossOnly(
            models={"trunk": wrapped_trunk(trained.trunk)},
            optimizers=trained.optimizers,
            batch_size=budget.batch_size,
            loss_funcs={"metric_loss": wrapped_loss(trained.loss)},
            mining_funcs={
                name: _of_embeddings(wrapped_miner(miner), budget.embedding_size)
                for name, miner in trained.miners.items()
            },
            dataset=dataset,
            data_device=watch.device,
            sampler=batches,
            iterations_per_epoch=budget.iterations,
            dataloader_num_workers=watch.workers,
            gradient_clippers={"trunk_grad_clipper": watch.warm_up},
            end_of_iteration_hook=watch.after_step,
            end_of_epoch_hook=watch.after_epoch,
        )
        watch.loss = trained.loss
        watch.start()
        trainer.train(start_epoch=watch.epochs_done + 1, num_epochs=budget.epochs)


def _of_embeddings(miner: nn.Module, width: int) -> Callable[[Tensor, Tensor], Any]:
    """The miner, which sees the first ``width`` columns and not what a pooling appends."""
    return lambda rows, labels: miner(rows[:, :width], labels)


class _Watch:
    """Writes the learning curve and the costs down, from pml's two hooks; keeps the epoch that
    counts, and reloads it where the recipe's schedule says so."""

    def __init__(
        self,
        recipe: Recipe,
        trunk: nn.Module,
        data: AnyData,
        budget: Budget,
        device: torch.device,
        nmi: bool,
        workers: int,
        on_step: Callable[[], None],
        protocol: Protocol,
    ) -> None:
        self.device = device
        self.workers = workers if isinstance(data, ImageFiles) else 0
        self.clock, self.memory = StepClock(device), PeakMemory(device)
        self._trunk, self._data, self._nmi, self._on_step = trunk, data, nmi, on_step
        self._unit_rows = recipe.unit_rows
        self._schedule, self._budget = recipe.schedule, budget
        self._steps: list[dict[str, float]] = []  # of this epoch
        self._criterion = criterion_of(recipe.schedule, data, protocol)
        self._once = protocol.evaluates_once and recipe.loss is not None
        self.best: Best | None = None
        self.loss: nn.Module
        self.curve: list[Point] = []
        self.keep: Callable[[], None] = lambda: None

    @property
    def epochs_done(self) -> int:
        return len(self.curve) - 1

    def evaluate_untrained(self) -> None:
        """The point of epoch 0."""
        if self._once:
            self.curve.append({"epoch": 0})
            return
        evaluation, point = self._evaluate(0, self._trunk)
        self.best = Best(self._criterion, evaluation)
        self.curve.append(point)

    def state(self, seconds: float) -> Record:
        """After an epoch that took, with all before it, so many seconds."""
        return {
            "best": self.best,
            "curve": self.curve,
            "step_seconds": self.clock.seconds,
            "peak_mib": self.memory.mib,
            "seconds": seconds,
            "random": RandomStates.now(),
        }

    def take_up(self, state: Record) -> float:
        """Where ``state`` was taken; the seconds until then."""
        self.best, self.curve = state["best"], state["curve"]
        self.clock.seconds, self.memory.mib = state["step_seconds"], state["peak_mib"]
        for _ in range(len(self.clock.seconds)):
            self._on_step()
        return float(state["seconds"])

    def start(self) -> None:
        """Evaluations are no part of the costs."""
        self.memory.start()
        self.clock.resume()

    def warm_up(self) -> None:
        """Between backward and step: in the first epochs of a budget that says so, a backbone has
        no gradient. It keeps asking for one, as several processes agree on that once."""
        if isinstance(self._trunk, ImageTrunk) and self.epochs_done < self._budget.warm_up_epochs:
            self._trunk.features.zero_grad(set_to_none=True)

    def after_step(self, trainer: MetricLossOnly) -> None:
        self.clock.step()
        total = trainer.losses["total_loss"].detach()
        trainer.losses["total_loss"] = total  # pml formats it next; with a gradient torch warns
        loss = self.loss
        recorded = {name: float(getattr(loss, name)) for name in _statistics(loss)}
        self._steps.append({"loss": float(total), **recorded})
        self._on_step()
        self.clock.resume()

    def after_epoch(self, trainer: MetricLossOnly) -> None:
        self.memory.stop()
        means = {
            name: sum(step[name] for step in self._steps) / len(self._steps)
            for name in self._steps[0]
        }
        self._steps.clear()
        loss: Any = self.loss
        share_buffers(self._trunk, loss)
        for module in loss.modules():
            if hasattr(module, "step_epoch"):  # weights that follow from whole epochs
                module.step_epoch()
        retrieval = Retrieval(self._trunk, loss) if hasattr(loss, "embed") else self._trunk
        point: Point = {"epoch": trainer.epoch}
        if not self._once or trainer.epoch == self._budget.epochs:
            evaluation, point = self._evaluate(trainer.epoch, retrieval)
            self.best = self.best or Best(self._criterion, evaluation)
            self.best.offer(point, evaluation, [self._trunk, loss] if self._schedule else [])
        self.curve.append({**point, "loss": means.pop("loss"), "statistics": means})
        if (
            self.best
            and self._schedule
            and self._schedule.is_due(trainer.epoch, self._budget.epochs)
        ):
            self.best.reload()
            for optimizer in trainer.optimizers.values():
                self._schedule.drop(optimizer)
        self.keep()
        self.start()

    def _evaluate(self, epoch: int, model: nn.Module) -> tuple[Evaluation, Point]:
        """Of the test classes, and the point of the curve."""
        data = self._data

        def of(split: Split | Files, nmi: bool = False) -> tuple[Evaluation, dict[str, float]]:
            evaluation = evaluate(
                model,
                split,
                device=self.device,
                nmi=nmi,
                unit_rows=self._unit_rows or model is self._trunk,
                gallery=data.gallery if split is data.test else None,
                recall_at=data.recall_at,
                crops=self._budget.crops,
                workers=self.workers,
            )
            metrics = evaluation.metrics
            return evaluation, {name: metrics[name] for name in CURVE_METRICS if name in metrics}

        evaluation, metrics = of(data.test, self._nmi)
        point: Point = {"epoch": epoch, **metrics}
        if data.validation is not None:
            point["validation"] = of(data.validation)[1]
        return evaluation, point


def _statistics(loss: nn.Module) -> list[str]:
    """Names that a pml module records when it was built with ``collect_stats=True``."""
    return list(getattr(loss, "_record_these_stats", []))
