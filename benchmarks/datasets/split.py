"""The two halves of a data set, and the checks that every data set passes."""

from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_SIZE = 28


@dataclass(frozen=True)
class Split:
    """One half of a data set.

    Args:
        images: (N, 1, 28, 28) float32 in [0, 1]; ink is 1.
        labels: (N,) int64 into ``classes``.
        classes: names that are unique over both halves.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """Training half and test half with disjoint classes; refuses anything else."""

    name: str
    train: Split
    test: Split

    def __post_init__(self) -> None:
        shared = sorted(set(self.train.classes) & set(self.test.classes))
        if shared:
            raise ValueError(
                f"{self.name}: expected disjoint train and test classes; got {len(shared)} in both,"
                f" e.g. {shared[0]!r}. Check the split rule."
            )
        for half, split in (("train", self.train), ("test", self.test)):
            expected = (len(split.labels), 1, IMAGE_SIZE, IMAGE_SIZE)
            if tuple(split.images.shape) != expected:
                raise ValueError(
                    f"{self.name} {half} images: expected shape {expected}; "
                    f"got {tuple(split.images.shape)}."
                )
            if torch.unique(split.labels).tolist() != list(range(len(split.classes))):
                raise ValueError(
                    f"{self.name} {half} labels: expected each of 0..{len(split.classes) - 1} at "
                    f"least once; got {torch.unique(split.labels).tolist()}."
                )


def check_counts(what: str, split: Split, *, classes: int, images: int) -> None:
    """Refuse a half that has not the published number of classes and images."""
    if (len(split.classes), len(split.labels)) != (classes, images):
        raise ValueError(
            f"{what}: expected {classes} classes and {images} images; "
            f"got {len(split.classes)} and {len(split.labels)}. Use the official files."
        )
