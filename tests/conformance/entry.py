"""One line of a catalogue: how to make a loss, and what the checker has to know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pml_extras.testing import Report, check_loss

NUM_CLASSES = 5
EMBEDDING_SIZE = 8


@dataclass(frozen=True)
class Entry:
    """A class, constructor arguments that keep it small, and arguments of ``check_loss``."""

    cls: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)

    def make(self, **others: Any) -> nn.Module:
        return self.cls(**{**self.arguments, **others})

    def report(self, **others: Any) -> Report:
        return check_loss(self.make, embedding_size=EMBEDDING_SIZE, **{**self.check, **others})


def indexed_by_labels(
    cls: Callable[..., nn.Module],
    arguments: Mapping[str, Any] | None = None,
    **check: Any,
) -> Entry:
    """An entry for a loss whose parameters the labels index."""
    sizes = {"num_classes": NUM_CLASSES, "embedding_size": EMBEDDING_SIZE}
    return Entry(
        cls,
        sizes if arguments is None else arguments,
        {"labels_index_classes": True, "num_classes": NUM_CLASSES, **check},
    )
