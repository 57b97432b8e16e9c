"""Batches of a plan that all processes draw alike, each taking its own."""

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from torch.utils.data import BatchSampler

from pml_extras._checks import check_count, refuse
from pml_extras.samplers._epochs import Epochs, Integers, shuffled_groups


class EpochBatches(Epochs[list[int]], BatchSampler):
    """Epochs of batches; process ``rank`` takes every ``num_replicas``-th batch of the plan.

    All processes have as many batches: where the plan is no multiple of ``num_replicas`` its first
    batches occur again, or with ``drop_last`` its last ones are left out. A subclass has a plan of
    ``_num_batches``. ``BatchSampler`` is what pml's trainers ask for, nothing of it is used.
    """

    def __init__(
        self, batch_size: int, drop_last: bool, seed: int, num_replicas: int, rank: int
    ) -> None:
        check_count(1, num_replicas=num_replicas)
        check_count(0, rank=rank)
        if rank >= num_replicas:
            raise refuse("rank", f"below num_replicas = {num_replicas}", rank, "Ranks begin at 0.")
        super().__init__(seed)
        self.batch_size, self.drop_last = int(batch_size), drop_last
        self.num_replicas, self.rank = int(num_replicas), int(rank)

    @property
    @abstractmethod
    def _num_batches(self) -> int:
        """Batches of the plan, the same for each epoch."""

    @abstractmethod
    def _plan(self, rng: np.random.Generator) -> Integers:
        """(``_num_batches``, ...) images."""

    def _length(self, seed: int, epoch: int) -> int:
        rounded = self._num_batches if self.drop_last else self._num_batches + self.num_replicas - 1
        return rounded // self.num_replicas

    def _own_batches(self, epoch: int) -> Integers:
        """(len, ...) the part of this process."""
        plan = self._plan(np.random.default_rng((self.seed, epoch)))
        numbers = np.arange(self._length(self.seed, epoch)) * self.num_replicas + self.rank
        own: Integers = plan[numbers % len(plan)]
        return own

    def _items(self, epoch: int, begin: int) -> Iterator[list[int]]:
        for batch in self._own_batches(epoch)[begin:]:
            yield batch.ravel().tolist()


def raised_counts(rng: np.random.Generator, counts: Integers, total: int, most: int) -> Integers:
    """(C,) counts with the sum ``total``, raised evenly, at random in the end, up to ``most``."""
    counts = counts.copy()
    while (missing := total - int(counts.sum())) > 0:
        low = np.flatnonzero(counts < most)
        if missing < len(low):
            low, step = rng.choice(low, missing, replace=False), 1
        else:
            step = min(missing // len(low), most - int(counts[low].max()))
        counts[low] += step
    return counts


def class_batches(
    rng: np.random.Generator,
    class_of: Integers,
    sizes: Integers,
    counts: Integers,
    num_batches: int,
    m: int,
) -> Integers:
    r"""(K, n, m) images: in K batches n groups each, of m images of a class, no class twice.

    ``counts`` (C,) are the groups of each class, none above K, with the sum n K. The groups are
    laid in n rows of K, class by class in random order, and each row is spread over the batches at
    random. A class that goes on in the next row is spread first there, over the batches that it is
    not in yet: there are enough, since it has K groups or fewer. Time and memory: O(n K m + N).
    """
    groups = shuffled_groups(rng, class_of, sizes, counts, m)  # (n K, m), class by class
    classes = np.repeat(np.arange(len(counts)), counts)  # (n K,)
    laid = np.argsort(rng.permutation(len(counts))[classes], kind="stable")
    rows = laid.reshape(-1, num_batches)  # (n, K) groups
    table = np.empty_like(rows)
    last = -1  # the class that the row before ended with
    batches = rows[:0].ravel()  # those of that row
    for k, row in enumerate(rows):
        goes_on = classes[row] == last
        taken = batches[classes[rows[k - 1]] == last] if goes_on[0] else batches[:0]
        batches = rng.permutation(num_batches)
        if len(taken):
            open_ = np.setdiff1d(batches, taken)
            first = rng.choice(open_, int(goes_on.sum()), replace=False)
            batches = np.concatenate([first, rng.permutation(np.setdiff1d(batches, first))])
        table[k, batches] = row
        last = int(classes[row[-1]])
    planned: Integers = groups[table.T]
    return planned
