"""Batches of image pairs, positive and negative, as released with the lifted structure loss."""

from typing import Any

import numpy as np

from pml_extras._checks import check_count, refuse
from pml_extras.samplers._batches import EpochBatches
from pml_extras.samplers._epochs import Integers, Labels, checksum, classes_of


class PairBatchSampler(EpochBatches):
    r"""Lists of B indices, B / 2 left images and then the right image of each, over all positives.

    An epoch holds each unordered pair of two images of a class once and each image with itself
    once; and q negative pairs for each image, whose partners are drawn from all images of other
    classes, without replacement within the class of the left image. Random negative pairs are left
    out until B / 2 divides the number of pairs, all are shuffled, and B / 2 in a row are a batch:

    .. math::
        P = \sum_c \frac{N_c (N_c + 1)}{2} \qquad q = \lceil P / N \rceil \qquad
        \mathrm{batches} = \Bigl\lfloor \frac{P + q N}{B / 2} \Bigr\rfloor

    So about half of the pairs are positive, and rows i and i + B / 2 are a pair. Two images with
    themselves in a pair differ by random crop and mirror alone. Losses that compare labels, as the
    lifted structure loss does, see every pair of the batch and not the B / 2 alone.

    Args:
        labels: (N,) integers of any values, one an image: tensor, array or list; two classes at
            least.
        batch_size: B, even, in images and of one process; 128 as released.
        seed: >= 0. Epoch e depends on (seed, e) alone, for one release of numpy; global random
            states are neither read nor written. The same in all processes.
        num_replicas: R processes.
        rank: r < R: this process takes the batches r, r + R, ... of one process; where R does not
            divide their number, the first occur again.

    ``len``, epochs, state and what a trainer of pml needs are those of
    :class:`~pml_extras.samplers.MPerClassBatchSampler`. Memory: 16 bytes a pair and as much again
    while it is shuffled, with the square of the size of a class: 460,000 pairs for Stanford Online
    Products.

    Raises:
        ValueError: labels that are empty or no integers, or of one class; an odd ``batch_size``, or
            one above twice the number of pairs; ``rank`` not below ``num_replicas``.

    Source: released code (https://github.com/rksltnl/Deep-Metric-Learning-CVPR16) of Oh Song et
    al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, whose text adds
    hard negatives (:class:`~pml_extras.samplers.HardNeighbourBatchSampler`). Departures: that code
    writes the pairs once and reads them in this order again and again, here each epoch draws anew;
    ``set_epoch(0)`` before each gives the same. A class that needs more partners than there are
    images of others goes round them again, where that code has no answer.

    >>> sampler = PairBatchSampler([0, 0, 1, 1, 1], batch_size=4)
    >>> len(sampler)  # 4 pairs in the class and 5 with themselves, 2 negative ones an image
    9
    """

    setting_of = "labels, batch_size and num_replicas"

    def __init__(
        self,
        labels: Labels,
        batch_size: int = 128,
        *,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        check_count(1, batch_size=batch_size)
        if batch_size % 2:
            raise refuse("batch_size", "an even number of images", batch_size)
        super().__init__(batch_size, False, seed, num_replicas, rank)
        self._class_of, self._sizes = classes_of(labels)  # (N,), (C,)
        if len(self._sizes) < 2:
            raise refuse("labels", "at least two classes", "one", "Negative pairs need another.")
        num_positive = int((self._sizes * (self._sizes + 1) // 2).sum())
        self._negatives_per_image = -(-num_positive // len(self._class_of))
        self._num_pairs = num_positive + self._negatives_per_image * len(self._class_of)
        if self._num_batches == 0:
            expected = f"at most twice the {self._num_pairs} pairs of these labels"
            raise refuse("batch_size", expected, batch_size)

    @property
    def _num_batches(self) -> int:
        return self._num_pairs // (self.batch_size // 2)

    def _plan(self, rng: np.random.Generator) -> Integers:
        by_class = np.argsort(self._class_of, kind="stable")  # (N,)
        positive = _positive_pairs(self._sizes)
        negative = _negative_pairs(rng, self._sizes, self._negatives_per_image)
        num = self._num_batches * (self.batch_size // 2) - positive.shape[1]
        kept = rng.permutation(negative.shape[1])[:num]
        pairs = np.concatenate([positive, negative[:, kept]], axis=1)  # (2, pairs)
        pairs = by_class[rng.permutation(pairs, axis=1)]
        planned: Integers = pairs.reshape(2, self._num_batches, -1).transpose(1, 0, 2)
        return planned  # (batches, 2, B / 2)

    def _setting(self) -> tuple[Any, ...]:
        return checksum(self._class_of), self.batch_size, self.num_replicas


def _positive_pairs(sizes: Integers) -> Integers:
    """(2, P) places among images in order of class: each pair within a class once, i <= j."""
    place = np.arange(sizes.sum())
    num_right = np.repeat(sizes.cumsum(), sizes) - place  # (N,) itself and what follows
    left = np.repeat(place, num_right)  # (P,)
    steps = np.arange(len(left)) - np.repeat(num_right.cumsum() - num_right, num_right)
    return np.stack([left, left + steps])


def _negative_pairs(rng: np.random.Generator, sizes: Integers, per_image: int) -> Integers:
    """(2, N per_image) places among images in order of class: right is of another class."""
    num = int(sizes.sum())
    right = []
    for begin, size in zip((sizes.cumsum() - sizes).tolist(), sizes.tolist(), strict=True):
        others = num - size
        if size * per_image <= others:
            drawn = rng.choice(others, size * per_image, replace=False)
        else:
            drawn = np.resize(rng.permutation(others), size * per_image)
        right.append(np.where(drawn < begin, drawn, drawn + size))  # past the class itself
    return np.stack([np.repeat(np.arange(num), per_image), np.concatenate(right)])
