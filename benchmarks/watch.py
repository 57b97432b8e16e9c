"""What happens beside a training: its learning curve, its costs, and the epoch that counts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.backbones import ImageTrunk
from benchmarks.best import LAST, Best, Point, criterion_of
from benchmarks.checkpoint import RandomStates
from benchmarks.datasets import AnyData, ImageFiles
from benchmarks.datasets.image_files import Files
from benchmarks.datasets.split import Split
from benchmarks.evaluate import Evaluation, evaluate
from benchmarks.measure import PeakMemory, StepClock
from benchmarks.processes import share_buffers
from benchmarks.protocols import Protocol
from benchmarks.quadrants import WEIGHT_ON_TARGET
from benchmarks.recipes import Budget, Recipe
from benchmarks.records import Record
from benchmarks.trainer import Trainer
from benchmarks.trunk import Retrieval

if TYPE_CHECKING:  # needs an extra of its own
    from benchmarks.tensorboard import Drawn

CURVE_METRICS = ("recall_at_1", "mean_average_precision_at_r", WEIGHT_ON_TARGET)


class Watch:
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
        self._batches: list[dict[str, float]] = []  # of this epoch
        self._criterion = criterion_of(recipe.schedule, data, protocol)
        self._once = protocol.evaluates_once and recipe.loss is not None
        self.best: Best | None = None
        self.loss: nn.Module
        self.curve: list[Point] = []
        self.keep: Callable[[], None] = lambda: None
        self.drawn: Drawn | None = None

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
        """After an epoch that took, with all before it, so many seconds. Its evaluation, which
        holds all embeddings, only where it may be what the run ends with."""
        ended = self.epochs_done == self._budget.epochs
        return {
            "best": None if self._criterion is LAST and not ended else self.best,
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

    def after_batch(self, trainer: Trainer) -> None:
        if trainer.at_a_step:
            self.clock.step()
        total = trainer.losses["total_loss"].detach()
        trainer.losses["total_loss"] = total  # pml formats it next; with a gradient torch warns
        loss = self.loss
        recorded = {name: float(getattr(loss, name)) for name in _statistics(loss)}
        self._batches.append({"loss": float(total) * self._budget.accumulate, **recorded})
        if self.drawn is not None:
            self.drawn.after_batch(trainer)
        if trainer.at_a_step:
            self._on_step()
            self.clock.resume()

    def after_epoch(self, trainer: Trainer) -> None:
        self.memory.stop()
        means = {
            name: sum(batch[name] for batch in self._batches) / len(self._batches)
            for name in self._batches[0]
        }
        self._batches.clear()
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
        if self.drawn is not None:
            self.drawn.after_epoch(self.curve[-1])
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
