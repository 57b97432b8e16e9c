"""What a recipe is: a loss with its own arguments, under a budget that all recipes share."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.recipes.budget import Budget, Groups
from benchmarks.recipes.schedule import TEST_SELECTED, ReloadAndDrop
from benchmarks.recipes.space import RATE, Space

COST_ONLY = ("tile", "neighbour_lists")  # arguments that change time and memory, and no result
FROM_BUDGET = ("num_classes", "embedding_size")
PROXY_MULTIPLE = 100  # of the trunk's learning rate: the published rate of Proxy Anchor


def own_parameters(loss: nn.Module, budget: Budget) -> Groups:
    """Proxies or class weights at 100 times their base rate, without decay; [] where there are
    none."""
    parameters = list(loss.parameters())
    group = {
        "params": parameters,
        "lr": PROXY_MULTIPLE * budget.proxy_base_lr,
        "weight_decay": 0.0,
    }
    return [group] if parameters else []


def at_the_rate_of_the_trunk(loss: Any, budget: Budget) -> Groups:
    """As the loss itself groups its parameters, at the trunk's rate and weight decay."""
    groups: Groups = loss.param_groups(budget.trunk_lr, weight_decay=budget.weight_decay)
    return groups


@dataclass(frozen=True)
class Recipe:
    """A method of the table: its loss and miner at their documented defaults.

    Args:
        name: as in ``--recipes`` and in the records.
        title: as in the table.
        loss: its class, or a function that makes one; None leaves the trunk as it was initialised.
            With an ``embed`` method it has a say in what is retrieved with: that method's rows.
        loss_args: what differs from its defaults; a recipe stands for its loss.
        has_classes: True where the loss takes ``num_classes`` and ``embedding_size``.
        distance: its class; None is the default of the loss.
        distance_args: what differs from the defaults of the class.
        miner: its class, or None.
        miner_args: what differs from the defaults of the class.
        groups: (loss, budget) -> optimizer groups of the loss's own parameters.
        sampler: (training labels, budget, seed) -> image indices of batch after batch; started
            again when it ends. None is the one that recipes of a seed share.
        schedule: None keeps the learning rates as they are.
        unit_rows: whether rows are divided by their norm before they are compared.
        pooling: (channels, embedding_size) -> module that makes embeddings of maps, at the end of
            :class:`benchmarks.trunk.MapTrunk`; None is the trunk that keeps every place of them.
        pooling_args: what differs from its defaults.
        space: where a search may look, by names such as "budget.trunk_lr", "loss.margin" and
            "miner.epsilon"; no part of the settings.

    Raises:
        ValueError: the schedule selects on the test classes, and the title does not say so.
    """

    name: str
    title: str
    loss: Callable[..., nn.Module] | None = None
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    has_classes: bool = False
    distance: type[nn.Module] | None = None
    distance_args: Mapping[str, Any] = field(default_factory=dict)
    miner: type[nn.Module] | None = None
    miner_args: Mapping[str, Any] = field(default_factory=dict)
    groups: Callable[[Any, Budget], Groups] = own_parameters
    sampler: Callable[[Tensor, Budget, int], Iterable[int]] | None = None
    schedule: ReloadAndDrop | None = None
    unit_rows: bool = True
    pooling: Callable[..., nn.Module] | None = None
    pooling_args: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=lambda: RATE)

    def __post_init__(self) -> None:
        on_test = self.schedule is not None and self.schedule.select_on == "test"
        if on_test != (TEST_SELECTED in self.title):
            raise ValueError(
                f"title: expected {TEST_SELECTED!r} in it where the schedule selects on the test "
                f"classes, and only there; got {self.title!r}."
            )

    def make_loss(self, num_classes: int, embedding_size: int) -> nn.Module | None:
        """A fresh loss for the training half."""
        if self.loss is None:
            return None
        arguments = {
            name: value.make_loss(num_classes, embedding_size)
            if isinstance(value, Recipe)
            else value
            for name, value in self.loss_args.items()
        }
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
            "budget": budget.settings(),
            "loss": _described(self.loss, self.loss_args),
            "distance": _described(self.distance, self.distance_args),
            "miner": _described(self.miner, self.miner_args),
            **({"sampler": self.sampler.__name__} if self.sampler else {}),
            **({"schedule": asdict(self.schedule)} if self.schedule else {}),
            **({} if self.unit_rows else {"unit_rows": False}),
            **({"pooling": _described(self.pooling, self.pooling_args)} if self.pooling else {}),
        }


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting, and not with their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _described(
    made: Callable[..., Any] | None, changed: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Class or function and every argument it was given, the unchanged defaults too."""
    if made is None:
        return None
    if isinstance(made, partial):
        return _described(made.func, {**made.keywords, **changed})
    package = made.__module__.split(".")[0]
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.default is not parameter.empty and name not in (*FROM_BUDGET, *COST_ONLY)
    }
    arguments = {name: _plain(value) for name, value in {**defaults, **changed}.items()}
    return {"class": f"{package}.{made.__qualname__}", **arguments}


def _plain(value: Any) -> Any:
    """An argument as JSON: what makes a part, and a recipe as a part, with all that they say."""
    if isinstance(value, Recipe):
        return {
            "loss": _described(value.loss, value.loss_args),
            "miner": _described(value.miner, value.miner_args),
            **(
                {"distance": _described(value.distance, value.distance_args)}
                if value.distance
                else {}
            ),
        }
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return _described(value, {}) if callable(value) else value
