"""What the data sets of photographs share: where they lie, and the first half of the classes
trains.

Made of a photograph: shorter side to 72, central 64 x 64, RGB in [0, 1]; nearly the ratio of 256 to
227 of the paper of the ensemble. No augmentation: images lie in memory.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torchvision.transforms import v2

from benchmarks.datasets.omniglot import ENVIRONMENT
from benchmarks.datasets.split import Data, Split, check_counts

RESIZED, CROPPED = 72, 64
Pictures = Iterable[tuple[Any, int]]  # tensor, class
Files = TypeVar("Files")


def transform() -> Callable[[Any], Any]:
    """A photograph to (3, 64, 64) float32."""
    composed: Callable[[Any], Any] = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(RESIZED, antialias=True),
            v2.CenterCrop(CROPPED),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return composed


def root_of(root: Path | None) -> Path | None:
    """``--data-root``, or the folder in PML_EXTRAS_DATA, or None."""
    return root or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)


def read(name: str, root: Path | None, files: Callable[[Path], Files]) -> Files:
    """What ``files`` makes of the folder with the official files of this data set.

    Raises:
        ValueError: no folder is named, or ``files`` finds it incomplete.
    """
    folder = root_of(root)
    way_out = (
        f"Pass --data-root FOLDER (or set {ENVIRONMENT}); to fetch the files once: "
        f'python -c "from pathlib import Path; from benchmarks.datasets import {name}; '
        f"{name}.load(Path('FOLDER'), download=True)\"."
    )
    if folder is None:
        raise ValueError(f"{name}: expected a folder with the official files; got none. {way_out}")
    try:
        return files(folder)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{name}: expected the official files in {folder}; got {error}. {way_out}"
        ) from error


def load(
    name: str,
    root: Path | None,
    parts: Callable[[Path], Iterable[Pictures]],
    names: tuple[str, ...],
    *,
    images: int,
) -> Data:
    """All photographs of all published parts, split by class.

    Args:
        name: of the data set.
        root: see :func:`root_of`.
        parts: root -> the published parts, through torchvision.
        names: of the classes, in their order; the first half (rounded up) trains.
        images: of all parts together.

    Raises:
        ValueError: no folder is named, it lacks the files, or the counts are others.
    """
    pairs = read(name, root, lambda folder: [pair for part in parts(folder) for pair in part])
    pictures = torch.stack([picture for picture, _ in pairs])  # (N, 3, 64, 64)
    labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    whole = Split(pictures, labels, names)
    check_counts(name, whole, classes=len(labels.unique()), images=images)
    trained = set(names[: (len(names) + 1) // 2])
    return Data(
        name,
        train=whole.only(lambda one: one in trained),
        test=whole.only(lambda one: one not in trained),
    )
