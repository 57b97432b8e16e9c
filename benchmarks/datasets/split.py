"""The parts of a data set, and the checks that every data set passes."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, compress

import torch
from torch import Tensor

IMAGE_SIZE = 28


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
    refuses anything else."""

    name: str
    train: Split
    test: Split
    validation: Split | None = None

    def __post_init__(self) -> None:
        parts = {"train": self.train, "test": self.test}
        if self.validation is not None:
            parts["validation"] = self.validation
        for (one, first), (other, second) in combinations(parts.items(), 2):
            if shared := sorted(set(first.classes) & set(second.classes)):
                raise ValueError(
                    f"{self.name}: expected disjoint {one} and {other} classes; got {len(shared)} "
                    f"in both, e.g. {shared[0]!r}. Check the split rule."
                )
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
            if torch.unique(split.labels).tolist() != list(range(len(split.classes))):
                raise ValueError(
                    f"{self.name} {part} labels: expected each of 0..{len(split.classes) - 1} at "
                    f"least once; got {torch.unique(split.labels).tolist()}."
                )


def check_counts(what: str, split: Split, *, classes: int, images: int) -> None:
    """Refuse a part that has not the published number of classes and images, or texts."""
    if (len(split.classes), len(split.labels)) != (classes, images):
        raise ValueError(
            f"{what}: expected {classes} classes and {images} "
            f"{'images' if split.texts is None else 'texts'}; "
            f"got {len(split.classes)} and {len(split.labels)}. Use the official files."
        )
