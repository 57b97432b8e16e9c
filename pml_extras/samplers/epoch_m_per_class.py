"""Batches of m images a class, and every image in every epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from pml_extras._checks import check_count, refuse
from pml_extras.samplers._epochs import (
    Epochs,
    Integers,
    Labels,
    checksum,
    classes_of,
    shuffled_groups,
)


class EpochMPerClassSampler(Epochs[int], Sampler[int]):
    r"""Indices whose batches are groups of m images of one class, with all images in each epoch.

    The :math:`N_c` images of class c are shuffled and cut into groups of m, the groups of all
    classes are shuffled together, and n = B / m groups in a row are a batch. A last group that is
    not full takes images of its class again, a last batch that is not full takes groups again:

    .. math::
        G = \sum_c \lceil N_c / m \rceil \qquad \mathrm{len} = B \lceil G / n \rceil

    So every image occurs at least once an epoch, and a class may occur twice in a batch.

    Args:
        labels: (N,) integers of any values, one an image: tensor, array or list.
        batch_size: B, that of the DataLoader, which cuts the indices into batches.
        m: images of a class in a batch, a divisor of B; of several, each epoch draws one; None
            draws from all divisors but 1 and B, as the released recipe for CUB does (B = 54).
        seed: >= 0. Epoch e depends on (seed, e) alone, for one release of numpy; global random
            states are neither read nor written. Several processes need a seed each, or they give
            the same images.

    ``len`` is of the epoch that the next index comes from, so it varies where m does: pml's
    trainers read it once, when training starts, unless given ``iterations_per_epoch``. Each
    ``iter`` is a new epoch, also where the last one was abandoned; but the first one after
    :meth:`load_state_dict` goes on in the middle, also where :meth:`set_epoch` names the same epoch
    in between. The state counts indices handed out, and workers of a DataLoader fetch ahead of what
    was trained on: save it with ``num_workers=0`` (in pml's trainers ``dataloader_num_workers=0``,
    which is 2 by default), or through torchdata's ``StatefulDataLoader``, which finds the two
    methods. A new DataLoader draws from the global generator of torch: for the same masks of
    dropout after a break, give it a ``generator``.

    Raises:
        ValueError: labels that are empty or no integers; m that does not divide ``batch_size``, or
            None where there is no divisor to draw; ``seed`` < 0.

    Source: released code (https://github.com/dvl-tum/intra_batch) of Seidenschwarz et al.,
    "Learning Intra-Batch Connections for Deep Metric Learning", ICML 2021, whose text draws n
    classes, then m images of each. Departures from that code, which draws each repeat on its own: a
    class whose size is a multiple of m repeats nothing (there m images), and repeats come from
    going round the shuffled order, a random choice too. So a group holds no image twice if its
    class has m (else all equally often, up to one), and a batch no group twice if there are n.

    >>> sampler = EpochMPerClassSampler([7, 7, 7, -1, -1, -1, -1, 5], batch_size=4, m=2)
    >>> len(sampler)  # 2 + 2 + 1 groups, and one again
    12
    >>> sorted(set(sampler))
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def __init__(
        self,
        labels: Labels,
        m: int | Sequence[int] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        check_count(1, batch_size=batch_size)
        super().__init__(seed)
        self.batch_size, self.m = int(batch_size), m
        self._choices = _choices_of_m(m, self.batch_size)
        self._class_of, self._sizes = classes_of(labels)  # (N,), (C,)

    def m_of_epoch(self, epoch: int) -> int:
        """Images of a class in the batches of this epoch."""
        check_count(0, epoch=epoch)
        return self._begin(self.seed, epoch)[1]

    def _setting(self) -> tuple[Any, ...]:
        return checksum(self._class_of), self.batch_size, self._choices

    def _begin(self, seed: int, epoch: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng((seed, int(epoch)))  # its first number chooses m
        return rng, self._choices[rng.integers(len(self._choices))]

    def _groups(self, m: int) -> Integers:
        counts: Integers = -(-self._sizes // m)
        return counts  # (C,)

    def _length(self, seed: int, epoch: int) -> int:
        return self._places(self._begin(seed, epoch)[1])

    def _places(self, m: int) -> int:
        return self.batch_size * -(-int(self._groups(m).sum()) // (self.batch_size // m))

    def _items(self, epoch: int, begin: int) -> Iterator[int]:
        rng, m = self._begin(self.seed, epoch)
        groups = shuffled_groups(rng, self._class_of, self._sizes, self._groups(m), m)  # (G, m)
        order = np.resize(rng.permutation(len(groups)), self._places(m) // m)  # and round again
        yield from groups[order].ravel()[begin:].tolist()


def _choices_of_m(m: Any, batch_size: int) -> tuple[int, ...]:
    divisors = [d for d in range(1, batch_size + 1) if batch_size % d == 0]
    way_out = f"The divisors of batch_size = {batch_size} are {divisors}."
    choices = divisors[1:-1] if m is None else list(m) if isinstance(m, Sequence) else [m]
    if not choices:
        raise refuse("m", "something to draw from", repr(m), f"{way_out} Pass one of them.")
    for choice in choices:
        check_count(1, m=choice)
        if batch_size % choice:
            raise refuse("m", "a divisor of batch_size", choice, way_out)
    return tuple(int(choice) for choice in choices)
