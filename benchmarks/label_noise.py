"""Symmetric label noise: a share of the training labels is of another class, drawn uniformly."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets import AnyData, Data

_STREAM = 1  # beside the run's seed, so that no other draw of the run is the same


def with_label_noise(data: AnyData, share: float, seed: int) -> AnyData:
    """The same data with wrong training labels, fixed by the seed of the run.

    Every recipe of a seed sees the same wrong labels. Labels of validation and test classes stay.

    Raises:
        ValueError: no image of a training class keeps its label and none gets it.
    """
    if share == 0:
        return data
    labels = noisy(data.train.labels, share, len(data.train.classes), seed)
    if isinstance(data, Data):
        return replace(data, train=replace(data.train, labels=labels))
    return replace(data, train=replace(data.train, labels=labels))


def noisy(labels: Tensor, share: float, num_classes: int, seed: int) -> Tensor:
    """``round(share * N)`` of the labels replaced by one of the other classes, each as likely.

    Args:
        labels: (N,) int64 in 0..num_classes - 1.
        share: in [0, 1); exactly this part of the labels is wrong, but for rounding.
        num_classes: at least 2.
        seed: >= 0, of the run.

    Returns:
        (N,) int64; ``labels`` stay as they are.

    >>> noisy(torch.tensor([0, 0, 1, 1, 2]), 0.4, 3, seed=0)
    tensor([0, 0, 1, 0, 0])
    """
    generator = np.random.default_rng([seed, _STREAM])
    wrong = generator.permutation(len(labels))[: round(share * len(labels))]
    offset = generator.integers(1, num_classes, len(wrong))
    found = labels.clone()
    found[wrong] = (labels[wrong] + torch.from_numpy(offset)) % num_classes
    return found
