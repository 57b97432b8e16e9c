"""Which epoch of a training counts: the last one, or the best one for classes that select."""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.datasets import AnyData
from benchmarks.evaluate import Evaluation
from benchmarks.protocols import QUICK, Protocol
from benchmarks.recipes.schedule import ReloadAndDrop

Point = dict[str, Any]


@dataclass(frozen=True)
class Criterion:
    """What makes an epoch the best one: its score is the largest, the first of equals.

    Args:
        classes: whose metrics it looks at; None: it looks at none.
        score: of a point of the learning curve.
    """

    classes: str | None
    score: Callable[[Point], float]


def _epoch(point: Point) -> float:
    return float(point["epoch"])


def _precision_on_validation(point: Point) -> float:
    return float(point["validation"]["mean_average_precision_at_r"])


def _recall_on_test(point: Point) -> float:
    return float(point["recall_at_1"])


LAST = Criterion(None, _epoch)
VALIDATION = Criterion("validation", _precision_on_validation)
TEST = Criterion("test", _recall_on_test)


def criterion_of(
    schedule: ReloadAndDrop | None, data: AnyData, protocol: Protocol = QUICK
) -> Criterion:
    """Test classes only where a schedule or the protocol asks for them; else validation classes
    where there are any; else, or after a search that chose the number of epochs, the last epoch
    counts.

    Raises:
        ValueError: the schedule selects on validation classes, and there are none; or it selects
            and the protocol has selected already.
    """
    if protocol.selects_on == "validation":
        if schedule is not None:
            raise ValueError(
                f"schedule: expected none under {protocol.name}, whose final runs have no classes "
                f"to select on; got one that selects on the {schedule.select_on} classes. Leave "
                "this recipe out."
            )
        return LAST
    if protocol.selects_on == "test" or (schedule is not None and schedule.select_on == "test"):
        return TEST
    if data.validation is not None:
        return VALIDATION
    if schedule is not None:
        raise ValueError(
            f"schedule.select_on: expected data with validation classes; got {data.name}, which "
            "has none. Take omniglot_validation, or leave the schedule out."
        )
    return LAST


class Best:
    """The best epoch so far; the untrained trunk only as long as there is no other.

    Args:
        criterion: what the best one is.
        evaluation: of the test classes before training.
    """

    def __init__(self, criterion: Criterion, evaluation: Evaluation) -> None:
        self.criterion = criterion
        self.epoch, self.evaluation = 0, evaluation
        self._score = -math.inf
        self._weights: list[tuple[nn.Module, dict[str, Any]]] = []

    def offer(self, point: Point, evaluation: Evaluation, models: Iterable[nn.Module]) -> None:
        """Keep a finished epoch if it is the best one, with a copy of these models' weights."""
        score = self.criterion.score(point)
        if score > self._score:
            self._score, self.epoch, self.evaluation = score, point["epoch"], evaluation
            self._weights = [(model, deepcopy(model.state_dict())) for model in models]

    def reload(self) -> None:
        """Give the models the weights that they had in the best epoch."""
        for model, weights in self._weights:
            model.load_state_dict(weights)
