"""Batches of m images a class, and every image in every epoch."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Sampler

from pml_extras._checks import check_count, refuse


class EpochMPerClassSampler(Sampler[int]):
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
    :meth:`load_state_dict` goes on in the middle. The state counts indices handed out, and workers
    of a DataLoader fetch ahead of what was trained on: save it with ``num_workers=0`` (in pml's
    trainers ``dataloader_num_workers=0``, which is 2 by default), or through torchdata's
    ``StatefulDataLoader``, which finds the two methods. A new DataLoader draws from the global
    generator of torch: for the same masks of dropout after a break, give it a ``generator``.

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
        labels: Tensor | npt.NDArray[Any] | Sequence[int],
        batch_size: int,
        m: int | Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count(1, batch_size=batch_size)
        check_count(0, seed=seed)
        self.batch_size, self.m, self.seed = int(batch_size), m, int(seed)
        self._choices = _choices_of_m(m, self.batch_size)
        unique = np.unique(_integers(labels), return_inverse=True, return_counts=True)
        _, self._class_of, self._sizes = unique  # (N,), (C,)
        self._place = _Place(epoch=0, position=0)

    def __len__(self) -> int:
        return self._length(self.m_of_epoch(self._place.epoch))

    def __iter__(self) -> Iterator[int]:
        last = self._place
        at = _Place(last.epoch + 1, 0) if last.begun else _Place(last.epoch, last.position)
        at.begun = True
        self._place = at  # an older iterator keeps its own and counts no longer
        indices = self._indices(at.epoch)
        for index in indices[at.position : -1]:
            at.position += 1
            yield index
        at.epoch, at.position, at.begun = at.epoch + 1, 0, False
        yield indices[-1]

    def m_of_epoch(self, epoch: int) -> int:
        """Images of a class in the batches of this epoch."""
        check_count(0, epoch=epoch)
        return self._begin(self.seed, epoch)[1]

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter`` give this epoch, from its start; without it, the following one."""
        check_count(0, epoch=epoch)
        self._place = _Place(int(epoch), 0)

    def state_dict(self) -> dict[str, int]:
        """Plain integers: the next index is number ``position``, from 0, of ``epoch``.

        ``setting`` is a checksum of the sizes of classes, of B and of what m is drawn from.
        """
        return {
            "seed": self.seed,
            "epoch": self._place.epoch,
            "position": self._place.position,
            "setting": self._setting(),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next ``iter`` go on from ``state``, seed included; ValueError if it cannot."""
        keys = ["seed", "epoch", "position", "setting"]
        if not isinstance(state, Mapping) or set(state) != set(keys):
            raise refuse("state", f"a mapping with the keys {keys}", repr(state))
        check_count(0, **state)
        seed, epoch, position, setting = (int(state[key]) for key in keys)
        if setting != self._setting():
            way_out = "Construct the sampler with labels, batch_size and m as they were."
            raise refuse("setting", f"{self._setting()}, that of this sampler", setting, way_out)
        length = self._length(self._begin(seed, epoch)[1])
        if position > length:
            way_out = "Construct the sampler with labels, batch_size and m as they were."
            raise refuse("position", f"at most {length}, the end of its epoch", position, way_out)
        self.seed = seed
        self._place = _Place(epoch, position) if position < length else _Place(epoch + 1, 0)

    def _setting(self) -> int:
        return zlib.crc32(repr((self._sizes.tolist(), self.batch_size, self._choices)).encode())

    def _begin(self, seed: int, epoch: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng((seed, int(epoch)))  # its first number chooses m
        return rng, self._choices[rng.integers(len(self._choices))]

    def _length(self, m: int) -> int:
        num_groups = int((-(-self._sizes // m)).sum())
        return self.batch_size * -(-num_groups // (self.batch_size // m))

    def _indices(self, epoch: int) -> list[int]:
        rng, m = self._begin(self.seed, epoch)
        shuffled = rng.permutation(len(self._class_of))  # (N,)
        by_class = shuffled[np.argsort(self._class_of[shuffled], kind="stable")]  # (N,)
        num_places = -(-self._sizes // m) * m  # (C,)
        c = np.repeat(np.arange(len(num_places)), num_places)  # (G * m,), the class of each place
        # A class goes round and round its images; from where is no matter, they are shuffled.
        image = np.arange(len(c)) % self._sizes[c] + (self._sizes.cumsum() - self._sizes)[c]
        groups = by_class[image].reshape(-1, m)  # (G, m)
        order = np.resize(rng.permutation(len(groups)), self._length(m) // m)  # and round again
        indices: list[int] = groups[order].ravel().tolist()
        return indices


@dataclass
class _Place:
    epoch: int
    position: int  # of the next index
    begun: bool = False  # by an iterator


def _integers(labels: Any) -> npt.NDArray[Any]:
    values = np.asarray(labels.tolist() if isinstance(labels, Tensor) else labels)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        came = f"{getattr(labels, 'dtype', values.dtype)} {values.shape}"
        way_out = "np.unique(names, return_inverse=True)[1] numbers the classes."
        raise refuse("labels", "at least one integer, in shape (images,)", came, way_out)
    return values


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
