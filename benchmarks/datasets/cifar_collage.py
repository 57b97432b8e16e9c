"""Collages of small photographs: one of a super-class to find, three that are in the way.

The toy set of Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023,
as their code makes it, as far as that is known.
Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, CIFAR-100;
https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision, which checks MD5 sums.
Licence: none is stated; see that page.
Split rule: of each of the 20 super-classes the first 3 sub-classes train and the last 2 test, in
the order of ``fine_label_names`` of the official file ``meta`` (the alphabet). Photographs that
train come from the official file ``train``, those that test from ``test``: ours, since which files
the authors used is not known. Targets are 16 super-classes (24,000 and 3,200 photographs),
backgrounds the other 4, of large outdoor things and scenes and of plants (6,000 and 800).
A label is the super-class of a target; both halves have the same 16 of them and share no sub-class,
which is what a class of :class:`benchmarks.datasets.split.Data` is here: its name says which half.
Made of it: quadrants of 32 x 32, collages of 64 x 64, RGB in [0, 1]; see
:mod:`benchmarks.datasets.collage`. The paper subtracts 0.5, which the first batch norm does too,
but for the border that convolutions pad with 0.
"""

import pickle
from collections import Counter
from pathlib import Path

import torch
from torchvision.datasets import CIFAR100

from benchmarks.datasets import photographs
from benchmarks.datasets.collage import collage
from benchmarks.datasets.split import Data, Split, check_counts

NEEDS = "cifar-100-python/ in --data-root or PML_EXTRAS_DATA; never downloaded unasked"
BACKGROUNDS = (
    "flowers",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "trees",
)
TRAIN_SUB_CLASSES = 3
TRAIN_SEED, TEST_SEED = 0, 1


def place(root: Path | None = None) -> str | None:
    """Its folder, or None."""
    root = photographs.root_of(root)
    there = root is not None and (root / CIFAR100.base_folder / "meta").is_file()
    return str(root) if there else None


def load(
    root: Path | None = None,
    *,
    download: bool = False,
    train_images: int = 500,
    test_images: int = 100,
) -> Data:
    """Both halves.

    Args:
        root: ``--data-root``, or the folder in PML_EXTRAS_DATA.
        download: fetch what is missing.
        train_images: of each sub-class in the file ``train``.
        test_images: the same of ``test``.

    Raises:
        ValueError: no folder is named, it lacks the files, or the counts are others.
    """
    train, test = photographs.read(
        "cifar_collage",
        root,
        lambda folder: [
            _sub_classes(CIFAR100(folder, train=trains, download=download))
            for trains in (True, False)
        ],
    )
    return Data(
        "cifar_collage",
        train=_half(train, "train", train_images, TRAIN_SEED),
        test=_half(test, "test", test_images, TEST_SEED),
    )


def _sub_classes(part: CIFAR100) -> Split:
    """One official file, in bytes, its classes named super-class/sub-class in the order of
    ``meta``."""
    folder = Path(part.root) / part.base_folder
    labels, meta = (
        pickle.loads((folder / name).read_bytes(), encoding="latin1")
        for name in ("train" if part.train else "test", "meta")
    )
    super_of = dict(zip(labels["fine_labels"], labels["coarse_labels"], strict=True))
    names = tuple(
        f"{meta['coarse_label_names'][super_of[fine]]}/{name}"
        for fine, name in enumerate(meta["fine_label_names"])
    )
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2)  # (N, 3, 32, 32)
    return Split(images.contiguous(), torch.tensor(part.targets), names)


def _super(name: str) -> str:
    return name.split("/")[0]


def _half(photographed: Split, half: str, images: int, seed: int) -> Split:
    """Collages of the sub-classes of one half, with ``images`` photographs of each."""
    seen: Counter[str] = Counter()
    rank: dict[str, int] = {}  # of a sub-class in its super-class
    for name in photographed.classes:
        rank[name] = seen[_super(name)]
        seen[_super(name)] += 1

    def chosen(background: bool) -> Split:
        part = photographed.only(
            lambda name: (
                (_super(name) in BACKGROUNDS) == background
                and (rank[name] < TRAIN_SUB_CLASSES) == (half == "train")
            )
        )
        what = f"cifar_collage {half} {'backgrounds' if background else 'targets'}"
        classes = (4 if background else 16) * (3 if half == "train" else 2)
        check_counts(what, part, classes=classes, images=classes * images)
        return _super_classes(part, half)

    return collage(chosen(False), chosen(True), seed=seed)


def _super_classes(part: Split, half: str) -> Split:
    """The same photographs, as float32 in [0, 1], labelled by super-class."""
    names = [_super(name) for name in part.classes]
    classes = sorted(set(names))
    number = torch.tensor([classes.index(name) for name in names])
    return Split(
        part.images.float() / 255,
        number[part.labels],
        tuple(f"{name} ({half} sub-classes)" for name in classes),
    )
