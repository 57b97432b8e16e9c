"""Batches of m images of each of B / m different classes, in one process or several."""

from typing import Any

import numpy as np

from pml_extras._checks import check_count, check_flag, refuse
from pml_extras.samplers._batches import EpochBatches, class_batches, raised_counts
from pml_extras.samplers._epochs import Integers, Labels, checksum, classes_of


class MPerClassBatchSampler(EpochBatches):
    r"""Lists of B indices, m of each of n = B / m different classes, with all images each epoch.

    The :math:`N_c` images of class c are shuffled and cut into :math:`g_c = \lceil N_c / m \rceil`
    groups of m (a last one that is not full takes images of its class again, and a class smaller
    than m takes each about equally often). K batches are the fewest that hold all groups with no
    class twice in a batch; places that remain are given to groups again, as evenly over the classes
    as K allows:

    .. math::
        K = \max\Bigl(\Bigl\lceil \frac{1}{n} \sum_c g_c \Bigr\rceil, \max_c g_c\Bigr)

    With ``drop_last`` no class has more than its groups: K is the largest number with
    :math:`\sum_c \min(g_c, K) \ge n K`, and the groups above n K, drawn at random, are left out;
    so are those that a class has above K.

    Args:
        labels: (N,) integers of any values, one an image: tensor, array or list.
        m: images of a class in a batch, a divisor of B.
        batch_size: B, of one process.
        drop_last: leave groups out, rather than give some again.
        seed: >= 0. Epoch e depends on (seed, e) alone, for one release of numpy; global random
            states are neither read nor written. The same in all processes.
        num_replicas: R processes, ``torch.distributed.get_world_size()``.
        rank: r < R, ``torch.distributed.get_rank()``: this process takes the batches r, r + R, ...
            of the K that one process would have. Where R does not divide K, the first batches occur
            again, or with ``drop_last`` the last ones are left out. At one step, processes may have
            images of the same class.

    ``len`` is the number of batches of a process, :math:`\lceil K / R \rceil`, or
    :math:`\lfloor K / R \rfloor` with ``drop_last``, in every epoch. Each ``iter`` is a new epoch,
    also where the last one was abandoned; but the first one after :meth:`load_state_dict` goes on
    in the middle, also where :meth:`set_epoch` names the same epoch in between. One state is good
    for all ranks.

    The state counts batches handed out. Without workers, and between two epochs, these are the
    batches trained on; workers of a DataLoader fetch ahead. With them, save the state of
    torchdata's ``StatefulDataLoader``, which knows what is on the way, or count the batches trained
    on, if no epoch was abandoned::

        state = sampler.state_dict()
        state["epoch"], state["position"] = divmod(num_trained_on, len(sampler))

    Give it to a DataLoader as ``batch_sampler``, and to a trainer of pml as ``sampler``, which asks
    whether that is a ``BatchSampler`` of torch, and then does not use its own ``batch_size``. The
    trainer sets no epoch, and need not; it reads ``len`` once, unless ``iterations_per_epoch`` is
    given; it has 2 workers, unless ``dataloader_num_workers=0`` is given. With several
    processes, a trainer of Lightning needs ``use_distributed_sampler=False``, or it tries to
    construct the sampler anew and fails; Accelerate's ``prepare`` deals the batches out by itself:
    leave ``num_replicas`` at 1.

    Raises:
        ValueError: labels that are empty or no integers; m that does not divide ``batch_size``;
            fewer than B / m classes; ``rank`` not below ``num_replicas``; with ``drop_last``
            nothing left.

    Source: the request of pml's users, https://github.com/KevinMusgrave/pytorch-metric-learning
    (issue 612). Departures from pml 2.9.0's ``MPerClassSampler``: a batch sampler; every image
    occurs (there classes and images are drawn anew for each batch), so a class takes part in
    proportion to its size; a generator of its own. From
    :class:`~pml_extras.samplers.EpochMPerClassSampler`: a class occurs once in a batch, for which a
    class with more than its share of images makes the epoch longer and the others repeat.

    >>> sampler = MPerClassBatchSampler([7, 7, 7, -1, -1, -1, -1, 5], m=2, batch_size=4)
    >>> len(sampler)  # 2 + 2 + 1 groups, 2 in a batch
    3
    >>> sorted({index for batch in sampler for index in batch})
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    setting_of = "labels, m, batch_size, drop_last and num_replicas"

    def __init__(
        self,
        labels: Labels,
        m: int,
        batch_size: int,
        *,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        check_count(1, m=m, batch_size=batch_size)
        check_flag(drop_last=drop_last)
        if batch_size % m:
            raise refuse("m", f"a divisor of batch_size = {batch_size}", m)
        super().__init__(batch_size, drop_last, seed, num_replicas, rank)
        self.m = int(m)
        self._class_of, self._sizes = classes_of(labels)  # (N,), (C,)
        if len(self._sizes) < batch_size // m:
            expected = f"at least batch_size / m = {batch_size // m} classes"
            raise refuse("labels", expected, len(self._sizes), "Take more images of each.")
        self._groups = -(-self._sizes // self.m)  # (C,)
        if len(self) == 0:
            expected = f"at most the {self._num_batches} batches, with drop_last"
            raise refuse("num_replicas", expected, num_replicas)

    @property
    def _num_batches(self) -> int:
        n = self.batch_size // self.m
        num = -(-int(self._groups.sum()) // n)
        if not self.drop_last:
            return max(num, int(self._groups.max()))
        while (fewer := int(np.minimum(self._groups, num).sum()) // n) < num:
            num = fewer
        return num

    def _plan(self, rng: np.random.Generator) -> Integers:
        num, n = self._num_batches, self.batch_size // self.m
        counts = np.minimum(self._groups, num)
        if self.drop_last:
            above = int(counts.sum()) - n * num
            counts = counts - rng.multivariate_hypergeometric(counts, above, method="marginals")
        else:
            counts = raised_counts(rng, counts, n * num, num)
        return class_batches(rng, self._class_of, self._sizes, counts, num, self.m)

    def _setting(self) -> tuple[Any, ...]:
        return (
            checksum(self._class_of),
            self.m,
            self.batch_size,
            self.drop_last,
            self.num_replicas,
        )
