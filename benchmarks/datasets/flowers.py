"""Flowers of 102 kinds, photographed.

Source: M.-E. Nilsback, A. Zisserman, "Automated flower classification over a large number of
classes", ICVGIP 2008; https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, through
torchvision, which checks MD5 sums.
Licence: see that page.
Split rule: classes 1-51 train, 52-102 test, all 8,189 photographs of the published parts. (Of the
paper's files only one part was used: its numbers are of 3,745 test photographs.)
Made of it: see :mod:`benchmarks.datasets.photographs`.
"""

from pathlib import Path

from torchvision.datasets import Flowers102

from benchmarks.datasets import photographs
from benchmarks.datasets.split import Data

NEEDS = "flowers-102/ in --data-root or PML_EXTRAS_DATA; never downloaded unasked"
NAMES = tuple(f"flower {number}" for number in range(1, 103))
PARTS = ("train", "val", "test")


def place(root: Path | None = None) -> str | None:
    """Its folder, or None."""
    root = photographs.root_of(root)
    return str(root) if root is not None and (root / "flowers-102" / "jpg").is_dir() else None


def load(root: Path | None = None, *, download: bool = False, images: int = 8189) -> Data:
    """Both halves.

    Raises:
        ValueError: no folder is named, it lacks the files, or the counts are others.
    """
    return photographs.load(
        "flowers",
        root,
        lambda folder: [
            Flowers102(folder, part, transform=photographs.transform(), download=download)
            for part in PARTS
        ],
        NAMES,
        images=images,
    )
