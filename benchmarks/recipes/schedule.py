"""A recipe's own schedule: go back to the best weights so far, and on at a lower rate."""

from dataclasses import dataclass
from typing import Literal

import torch

TEST_SELECTED = "(selected on the test classes)"


@dataclass(frozen=True)
class ReloadAndDrop:
    """Reload the best weights of trunk and loss, and divide the learning rates.

    The optimizers keep their state. Each time a rate becomes the one it began with / ``factor``,
    the second time no less than the first, as released.

    Args:
        at: parts of the epochs, each between 0 and 1, rounded to whole epochs. The released recipe
            reloads at the start of epochs 31 and 51 of 70.
        factor: > 1.
        select_on: the classes that say which epoch is the best one and is reported: "validation",
            by MAP@R; or "test", by Recall@1, which is what was released and flatters.
    """

    at: tuple[float, ...] = (30 / 70, 50 / 70)
    factor: float = 10.0
    select_on: Literal["validation", "test"] = "validation"

    def __post_init__(self) -> None:
        if not all(0 < part < 1 for part in self.at):
            raise ValueError(f"at: expected parts of the epochs between 0 and 1; got {self.at}.")
        if not self.factor > 1:
            raise ValueError(f"factor: expected more than 1; got {self.factor}.")
        if self.select_on not in ("validation", "test"):
            raise ValueError(f"select_on: expected validation or test; got {self.select_on!r}.")

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether to reload after this epoch; after the last one there is nothing left to train.

        >>> [epoch for epoch in range(1, 71) if ReloadAndDrop().is_due(epoch, 70)]
        [30, 50]
        """
        return epoch < epochs and epoch in {round(part * epochs) for part in self.at}

    def drop(self, optimizer: torch.optim.Optimizer) -> None:
        """Set every rate to its first value / ``factor``."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) / self.factor
