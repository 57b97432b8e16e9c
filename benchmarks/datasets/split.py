"""The parts of a data set, and the checks that every data set passes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, compress
from typing import ClassVar, Protocol

import torch
from torch import Tensor

IMAGE_SIZE = 28
RECALL_AT = (1, 2, 4, 8)


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        images: (N, channels, H, W) float32 in [0, 1]; of drawings one channel, ink is 1. Or
            (N, D) float32, features of images or texts that a linear trunk takes.
        labels: (N,) int64 into ``classes``.
        classes: names that are unique over all parts.
        target_quadrant: of collages, (N,) int64 in 0..3 in reading order; see
            :mod:`benchmarks.datasets.collage`.
        texts: N of them, where the features are of texts.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    target_quadrant: Tensor | None = None
    texts: tuple[str, ...] | None = None

    def shown(self, image_idx: Tensor) -> Tensor:
        """(...) indices to (..., channels, H, W) in [0, 1], for a look at them."""
        return self.images[image_idx]

    def only(self, chosen: Callable[[str], bool]) -> "Split":
        """The classes whose names are chosen, numbered anew."""
        kept = torch.tensor([chosen(name) for name in self.classes])  # (C,)
        number = kept.cumsum(0) - 1
        of_kept = kept[self.labels]  # (N,)
        return Split(
            self.images[of_kept],
            number[self.labels[of_kept]],
            tuple(name for name in self.classes if chosen(name)),
            None if self.target_quadrant is None else self.target_quadrant[of_kept],
            None if self.texts is None else tuple(compress(self.texts, of_kept.tolist())),
        )


@dataclass(frozen=True)
class Data:
    """Training and test half, and where there is one a part to select on, with disjoint classes;
    refuses anything else.

    Args:
        name: as in the results.
        train: what is trained on.
        test: each image against all others.
        validation: classes to select on, where there are any.
        refit: of features that were fitted on the texts that train: (texts, which of them may be
            fitted on) -> features anew, for each fold; None keeps them.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    refit: Callable[[Sequence[str], Sequence[bool]], Tensor] | None = None
    gallery: ClassVar[None] = None
    recall_at: ClassVar[tuple[int, ...]] = RECALL_AT

    def __post_init__(self) -> None:
        parts = {"train": self.train, "test": self.test}
        if self.validation is not None:
            parts["validation"] = self.validation
        check_disjoint(self.name, parts)
        for part, split in parts.items():
            expected = (len(split.labels), *self.train.images.shape[1:])
            if split.images.ndim not in (2, 4) or tuple(split.images.shape) != expected:
                raise ValueError(
                    f"{self.name} {part} images: expected shape (N, channels, H, W) or "
                    f"(N, features), {expected}; got {tuple(split.images.shape)}."
                )
            if split.texts is not None and len(split.texts) != len(split.labels):
                raise ValueError(
                    f"{self.name} {part} texts: expected {len(split.labels)}, one a label; "
                    f"got {len(split.texts)}."
                )
            check_labels(f"{self.name} {part}", split)


class Part(Protocol):
    """What the parts of all data sets have."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


class Shown(Part, Protocol):
    """And those that are trained on and evaluated."""

    def shown(self, index: Tensor, /) -> Tensor: ...


def check_disjoint(name: str, parts: Mapping[str, Part]) -> None:
    """Refuse parts of a data set that share a class."""
    for (one, first), (other, second) in combinations(parts.items(), 2):
        if shared := sorted(set(first.classes) & set(second.classes)):
            raise ValueError(
                f"{name}: expected disjoint {one} and {other} classes; got {len(shared)} "
                f"in both, e.g. {shared[0]!r}. Check the split rule."
            )


def check_labels(what: str, part: Part) -> None:
    """Refuse labels that are no classes of their part, and classes without a label."""
    found = torch.unique(part.labels).tolist()
    if found != (expected := list(range(len(part.classes)))):
        wrong = sorted(set(found) ^ set(expected))[:10]
        raise ValueError(
            f"{what} labels: expected each of 0..{len(expected) - 1} at least once and no other; "
            f"missing or others: {wrong}."
        )


def check_counts(what: str, split: Part, *, classes: int, images: int) -> None:
    """Refuse a part that has not the published number of classes and images, or texts."""
    unit = "images" if getattr(split, "texts", None) is None else "texts"
    if (len(split.classes), len(split.labels)) != (classes, images):
        raise ValueError(
            f"{what}: expected {classes} classes and {images} {unit}; "
            f"got {len(split.classes)} and {len(split.labels)}. Use the official files."
        )
