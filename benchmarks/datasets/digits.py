"""Handwritten digits that scikit-learn carries: nothing to download.

Source: UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak), the 1,797 test
scans, 8 x 8 pixels with 17 grey levels, as ``sklearn.datasets.load_digits``.
Licence: CC BY 4.0 (UCI); bundled with scikit-learn.
Split rule: digits 0-4 (901 images) train, digits 5-9 (896 images) test.
Made of it: bilinear to 28 x 28, ink = 1.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from benchmarks.datasets.split import IMAGE_SIZE, Data, Split, check_counts

NEEDS = "nothing (bundled with scikit-learn)"
TRAIN_DIGITS = range(5)
TEST_DIGITS = range(5, 10)


def place(root: Path | None = None) -> str | None:
    """Always there."""
    return "bundled"


def load(root: Path | None = None) -> Data:
    """Both halves; ``root`` is not needed and not read."""
    raw = load_digits()
    images = torch.as_tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    images = interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
    labels = torch.as_tensor(raw.target, dtype=torch.int64)

    def half(digits: range) -> Split:
        chosen = (labels >= digits.start) & (labels < digits.stop)
        return Split(images[chosen], labels[chosen] - digits.start, tuple(map(str, digits)))

    data = Data("digits", train=half(TRAIN_DIGITS), test=half(TEST_DIGITS))
    check_counts("digits train", data.train, classes=5, images=901)
    check_counts("digits test", data.test, classes=5, images=896)
    return data
