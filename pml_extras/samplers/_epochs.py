"""What samplers share: epochs that depend on a seed and a number alone, and a place in them."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pml_extras._checks import check_count, refuse

T = TypeVar("T")
Labels = Tensor | npt.NDArray[Any] | Sequence[int]
Integers = npt.NDArray[np.int64]


@dataclass
class _Place:
    epoch: int
    position: int  # of the next item
    begun: bool = False  # by an iterator
    loaded: bool = False  # from a state


class Epochs(ABC, Generic[T]):
    """Epochs one after the other, each from its start or from the place in a state.

    A subclass says what an epoch holds; ``setting_of`` names the arguments that a state depends on.
    """

    setting_of = "labels, batch_size and m"

    def __init__(self, seed: int) -> None:
        check_count(0, seed=seed)
        self.seed = int(seed)
        self._place = _Place(epoch=0, position=0)

    @abstractmethod
    def _length(self, seed: int, epoch: int) -> int:
        """Items of an epoch."""

    @abstractmethod
    def _items(self, epoch: int, begin: int) -> Iterator[T]:
        """Those of an epoch from number ``begin`` on."""

    @abstractmethod
    def _setting(self) -> tuple[Any, ...]:
        """What the items depend on beside the seed, in a form that prints the same everywhere."""

    def __len__(self) -> int:
        return self._length(self.seed, self._place.epoch)

    def __iter__(self) -> Iterator[T]:
        last = self._place
        at = _Place(last.epoch + 1, 0) if last.begun else _Place(last.epoch, last.position)
        at.begun = True
        self._place = at  # an older iterator keeps its own and counts no longer
        length = self._length(self.seed, at.epoch)
        for item in self._items(at.epoch, at.position):
            at.position += 1
            if at.position == length:
                at.epoch, at.position, at.begun = at.epoch + 1, 0, False
            yield item

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter`` give this epoch, from its start; without it, the following one.

        Right after :meth:`load_state_dict` the epoch of the state goes on where it was, so that a
        loop which sets each epoch needs no exception for the one that was interrupted.
        """
        check_count(0, epoch=epoch)
        if not (self._place.loaded and self._place.epoch == epoch):
            self._place = _Place(int(epoch), 0)

    def state_dict(self) -> dict[str, Any]:
        """Plain integers: the next item is number ``position``, from 0, of ``epoch``.

        ``setting`` is a checksum of the arguments.
        """
        return {
            "seed": self.seed,
            "epoch": self._place.epoch,
            "position": self._place.position,
            "setting": self._checksum(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next ``iter`` go on from ``state``, seed included; ValueError if it cannot."""
        keys = ["seed", "epoch", "position", "setting"]
        if not isinstance(state, Mapping) or set(state) != set(keys):
            raise refuse("state", f"a mapping with the keys {keys}", repr(state))
        check_count(0, **state)
        seed, epoch, position, setting = (int(state[key]) for key in keys)
        way_out = f"Construct the sampler with {self.setting_of} as they were."
        if setting != self._checksum():
            raise refuse("setting", f"{self._checksum()}, that of this sampler", setting, way_out)
        length = self._length(seed, epoch)
        if position > length:
            raise refuse("position", f"at most {length}, the end of its epoch", position, way_out)
        self.seed = seed
        self._place = _Place(epoch, position) if position < length else _Place(epoch + 1, 0)
        self._place.loaded = True

    def _checksum(self) -> int:
        return zlib.crc32(repr(self._setting()).encode())


def classes_of(labels: Labels) -> tuple[Integers, Integers]:
    """(N,) the class of each image, numbered from 0, and (C,) their sizes; refuses what is none."""
    values = np.asarray(labels.tolist() if isinstance(labels, Tensor) else labels)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        came = f"{getattr(labels, 'dtype', values.dtype)} {values.shape}"
        way_out = "np.unique(names, return_inverse=True)[1] numbers the classes."
        raise refuse("labels", "at least one integer, in shape (images,)", came, way_out)
    _, class_of, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return class_of, sizes


def checksum(class_of: Integers) -> int:
    """Of which images are of one class, in the order that the labels have."""
    return zlib.crc32(class_of.astype("<i8").tobytes())


def shuffled_groups(
    rng: np.random.Generator, class_of: Integers, sizes: Integers, counts: Integers, m: int
) -> Integers:
    """(G, m) images, ``counts`` (C,) groups of each class, class by class.

    The images of a class are shuffled and gone round and round: a group holds none twice if the
    class has m, and all of the class occur if its groups have the room.
    """
    shuffled = rng.permutation(len(class_of))  # (N,)
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]  # (N,)
    c = np.repeat(np.arange(len(counts)), counts * m)  # (G * m,), the class of each place
    # From where a class starts to go round is no matter, its images are shuffled.
    image = np.arange(len(c)) % sizes[c] + (sizes.cumsum() - sizes)[c]
    groups: Integers = by_class[image].reshape(-1, m)
    return groups
