"""Data sets that do not fit in memory: paths and labels, and a picture where it is asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.datasets import photographs
from benchmarks.datasets.split import RECALL_AT, check_disjoint, check_labels
from pml_extras._checks import refuse


def open_rgb(path: Path | str) -> Image.Image:
    """The picture in RGB, decoded.

    Raises:
        ValueError: it is missing, cut off or no picture.
    """
    try:
        with Image.open(path) as picture:
            rgb: Image.Image = picture.convert("RGB")
            return rgb
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of PIL
        way_out = "Take the file from the official archive again."
        raise refuse(str(path), "a picture that can be read", error, way_out) from error


class RgbFiles:
    """In front of a data set of pml: pictures in RGB whatever the file holds, and errors that name
    the file; pml hands grey ones on as they are, which networks for colour refuse."""

    paths: list[str]
    labels: list[int]
    transform: Callable[[Image.Image], Any] | None
    target_transform: Callable[[int], Any] | None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """(picture, label), after the transforms."""
        picture, label = open_rgb(self.paths[index]), self.labels[index]
        return (
            picture if self.transform is None else self.transform(picture),
            label if self.target_transform is None else self.target_transform(label),
        )


@dataclass(frozen=True)
class Files:
    """One part of a data set.

    Args:
        paths: N files of pictures.
        labels: (N,) int64 into ``classes``.
        classes: names that are unique over parts that share none.
    """

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, paths: Iterable[str], names: Sequence[str]) -> "Files":
        """From the name of the class of each file; classes in the order of their names."""
        classes, labels = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        return cls(tuple(paths), torch.from_numpy(labels), tuple(map(str, classes)))

    def only(self, chosen: Callable[[str], bool]) -> "Files":
        """The classes whose names are chosen, numbered anew."""
        kept = torch.tensor([chosen(name) for name in self.classes])  # (C,)
        number = kept.cumsum(0) - 1
        file_idx = kept[self.labels].nonzero()[:, 0]
        return Files(
            tuple(self.paths[index] for index in file_idx.tolist()),
            number[self.labels[file_idx]],
            tuple(name for name in self.classes if chosen(name)),
        )

    def shown(self, file_idx: Tensor) -> Tensor:
        """(...) indices to (..., 3, 64, 64) in [0, 1], for a look at them."""
        small = photographs.transform()
        pictures = [small(open_rgb(self.paths[index])) for index in file_idx.flatten().tolist()]
        return torch.stack(pictures).view(*file_idx.shape, *pictures[0].shape)


@dataclass(frozen=True)
class ImageFiles:
    """Training and test half with disjoint classes and no file in common; refuses anything else.

    Args:
        name: as in the results.
        train: what is trained on.
        test: queries, each against all others, or against ``gallery``.
        gallery: of the classes of ``test``; None where it has no files of its own.
        validation: classes to select on, where there are any.
        recall_at: the K that papers report.
    """

    name: str
    train: Files
    test: Files
    gallery: Files | None = None
    validation: Files | None = None
    recall_at: tuple[int, ...] = RECALL_AT

    def __post_init__(self) -> None:
        parts = {"train": self.train, "test": self.test}
        if self.validation is not None:
            parts["validation"] = self.validation
        check_disjoint(self.name, parts)
        if self.gallery is not None:
            parts["gallery"] = self.gallery
            if lone := set(self.test.classes) ^ set(self.gallery.classes):
                raise refuse(
                    f"{self.name} gallery", "the classes of the queries",
                    f"{len(lone)} in one of the two alone, e.g. {min(lone)!r}",
                    "Use the official files.",
                )  # fmt: skip
        for part, files in parts.items():
            check_labels(f"{self.name} {part}", files)
        listed = Counter(chain.from_iterable(files.paths for files in parts.values()))
        if twice := [path for path, times in listed.items() if times > 1]:
            raise refuse(
                self.name, "each picture once, in one part",
                f"{len(twice)} more often, e.g. {twice[0]}", "Use the official files.",
            )  # fmt: skip

    def names(self, folder: Path) -> tuple[str, ...]:
        """Every file as it is called in this folder: those that train, then those that test, then
        the gallery."""
        parts = (self.train, self.test, *([self.gallery] if self.gallery else []))
        return tuple(Path(path).relative_to(folder).as_posix() for f in parts for path in f.paths)


class Pictures(Dataset[tuple[Tensor, int]]):
    """(picture, label) of each file, the same at every call.

    Args:
        files: the part.
        transform: RGB picture -> (3, H, W).
    """

    def __init__(self, files: Files, transform: Callable[[Image.Image], Tensor]) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self._transform(open_rgb(self._files.paths[index]))
        return picture, int(self._files.labels[index])


class RandomPictures(Pictures):
    """(picture, label) by (file, draw), from :class:`Numbered`.

    What a random transform draws depends on ``seed`` and draw alone: neither on the number of
    workers, nor on where a run was broken off. torch's generator is put back.
    """

    def __init__(self, files: Files, transform: Callable[[Image.Image], Tensor], seed: int) -> None:
        super().__init__(files, transform)
        self._seed = seed

    def __getitem__(self, drawn: int | tuple[int, int]) -> tuple[Tensor, int]:
        index, draw = cast("tuple[int, int]", drawn)
        state = torch.get_rng_state()
        try:
            seed = np.random.SeedSequence((self._seed, draw)).generate_state(1)
            torch.default_generator.manual_seed(int(seed[0]))
            return super().__getitem__(index)
        finally:
            torch.set_rng_state(state)


class Numbered:
    """The indices of a sampler, each with its number in the whole training."""

    def __init__(self, sampler: Iterable[int]) -> None:
        self._sampler, self._next = sampler, 0

    def __iter__(self) -> Any:
        for index in self._sampler:
            number, self._next = self._next, self._next + 1
            yield int(index), number


def where(root: Path | None, folder: str) -> Path | None:
    """``folder`` in ``--data-root`` or PML_EXTRAS_DATA; None where neither is named."""
    named = photographs.root_of(root)
    return None if named is None else named / folder
