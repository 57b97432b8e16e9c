"""Omniglot with a part to select on: classes that are neither trained nor tested.

Source, licence, files and what is made of them: :mod:`benchmarks.datasets.omniglot`.
Split rule: of the five alphabets of small1, four train (110 classes, 2,200 images) and Latin
validates (26 classes, 520 images); test as in omniglot (106 classes, 2,120 images).
Why: whoever picks the best of several epochs by the classes that are reported reports luck as well;
and images of trained classes would pick the epoch that fits those best, where retrieval is of
classes that nobody trained on. Hence an alphabet of its own, given up for training.
"""

from pathlib import Path

from benchmarks.datasets import omniglot
from benchmarks.datasets.split import Data, check_counts

VALIDATION_ALPHABET = "Latin"


def load(root: Path | None = None) -> Data:
    """All three parts; see :func:`benchmarks.datasets.omniglot.load`."""
    whole = omniglot.load(root)
    validation = whole.train.only(_validates)
    train = whole.train.only(lambda name: not _validates(name))
    check_counts("omniglot_validation train", train, classes=110, images=2200)
    check_counts("omniglot_validation validation", validation, classes=26, images=520)
    return Data("omniglot_validation", train=train, test=whole.test, validation=validation)


def _validates(name: str) -> bool:
    return name.split("/")[0] == VALIDATION_ALPHABET
