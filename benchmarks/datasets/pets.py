"""Cats and dogs of 37 breeds, photographed.

Source: O. Parkhi, A. Vedaldi, A. Zisserman, C. Jawahar, "Cats and dogs", CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/, through torchvision.
Licence: CC BY-SA 4.0.
Split rule: breeds 1-19 train, 20-37 test, in the order of their official numbers, all 7,349
photographs of the published parts.
Made of it: see :mod:`benchmarks.datasets.photographs`.
"""

from pathlib import Path

from torchvision.datasets import OxfordIIITPet

from benchmarks.datasets import photographs
from benchmarks.datasets.split import Data

NEEDS = "oxford-iiit-pet/ in --data-root or PML_EXTRAS_DATA; never downloaded unasked"
NAMES = tuple(f"breed {number}" for number in range(1, 38))
PARTS = ("trainval", "test")


def place(root: Path | None = None) -> str | None:
    """Its folder, or None."""
    root = photographs.root_of(root)
    return (
        str(root) if root is not None and (root / "oxford-iiit-pet" / "images").is_dir() else None
    )


def load(root: Path | None = None, *, download: bool = False, images: int = 7349) -> Data:
    """Both halves.

    Raises:
        ValueError: no folder is named, it lacks the files, or the counts are others.
    """
    return photographs.load(
        "pets",
        root,
        lambda folder: [
            OxfordIIITPet(folder, part, transform=photographs.transform(), download=download)
            for part in PARTS
        ],
        NAMES,
        images=images,
    )
