"""Collages of handwritten characters: one of a class to find, three of Latin that are in the way.

Source, licence (MIT) and files: :mod:`benchmarks.datasets.omniglot`.
Split rule: targets that train are Balinese, Early_Aramaic, Greek and Korean of small1 (110 classes,
2,200 images); targets that test are the three alphabets that omniglot tests (106 classes, 2,120
images). Backgrounds are Latin of small1: its first 16 of 26 characters (60 %, rounded; 320 images)
in training collages, the other 10 (200 images) in those of the test, as the paper divides the
sub-classes of its backgrounds.
Made of it: quadrants of 20 x 20 by area averaging, collages of 40 x 40, ink = 1; see
:mod:`benchmarks.datasets.collage`. Each drawing that trains is in 8 collages (17,600), each that
tests in one. All are made once, whatever the seed of a run.
"""

from pathlib import Path

from benchmarks.datasets import omniglot
from benchmarks.datasets.collage import collage
from benchmarks.datasets.split import Data, Split, check_counts

QUADRANT_SIZE = 20
BACKGROUND_ALPHABET = "Latin"
TRAIN_SEED, TEST_SEED = 0, 1
TRAIN_COPIES = 8


def load(root: Path | None = None) -> Data:
    """Both halves; see :func:`benchmarks.datasets.omniglot.load`."""
    whole = omniglot.load(root, size=QUADRANT_SIZE)
    train = whole.train.only(lambda name: not _is_background(name))
    of_train, of_test = backgrounds(whole.train)
    check_counts("omniglot_collage train", train, classes=110, images=2200)
    check_counts("omniglot_collage train backgrounds", of_train, classes=16, images=320)
    check_counts("omniglot_collage test backgrounds", of_test, classes=10, images=200)
    return Data(
        "omniglot_collage",
        train=collage(train, of_train, seed=TRAIN_SEED, copies=TRAIN_COPIES),
        test=collage(whole.test, of_test, seed=TEST_SEED),
    )


def backgrounds(drawings: Split) -> tuple[Split, Split]:
    """The first 60 % of Latin's characters, in the order of their numbers, and the others."""
    names = [name for name in drawings.classes if _is_background(name)]
    first = set(names[: round(0.6 * len(names))])
    return (
        drawings.only(lambda name: name in first),
        drawings.only(lambda name: _is_background(name) and name not in first),
    )


def _is_background(name: str) -> bool:
    return name.split("/")[0] == BACKGROUND_ALPHABET
