"""Batches of random positive pairs and hard negatives of both images of each."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.utils.inference import FaissKNN
from torch import Tensor

from pml_extras._checks import check_count, check_rows, refuse
from pml_extras.samplers._batches import EpochBatches, class_batches, raised_counts
from pml_extras.samplers._epochs import Integers, Labels, checksum, classes_of

QUERIES = 1024
"""Images searched for at once: neighbours are held for so many, all classes among them."""


class HardNeighbourBatchSampler(EpochBatches):
    r"""Lists of B = 2 P (1 + H) indices: P positive pairs, and H hard negatives of each image.

    First the P left images, then their P right images, then the H negatives of each of these 2 P in
    turn. The pairs are of P different classes and drawn as
    :class:`~pml_extras.samplers.MPerClassBatchSampler` does with m = 2, from classes of two images
    or more, so that each of their images is in a pair in every epoch. The negatives of an image
    are drawn without replacement from its pool, the ``pool`` images of other classes whose features
    were nearest at the last refresh. No image is twice in a batch: what is in it already is passed
    over, and where the pool does not reach, random images of other classes follow.

    Before the first refresh there is no pool, and all negatives are such random images. The first
    refresh comes when ``refresh_every`` batches have been handed out, and so on; call
    :meth:`refresh` before training if the network already knows something.

    Args:
        labels: (N,) integers of any values, one an image: tensor, array or list.
        features: () -> (N, D) floating, those of all images in order, as the network has them now;
            called without gradients. Set the network to evaluation in it, and back.
        num_pairs: P.
        num_neighbours: H.
        pool: nearest images of other classes to draw from.
        refresh_every: batches of this process between refreshes.
        seed: >= 0. The pairs of epoch e depend on (seed, e) alone, the draw of negatives on the
            number of the batch and the pool too, for one release of numpy; global random states are
            neither read nor written (``features`` may). The same in all processes.
        num_replicas: R processes.
        rank: r < R: this process takes the batches of pairs r, r + R, ... of one process; where R
            does not divide their number, the first occur again. Each refreshes by itself, and
            negatives of one may be in a batch of another.

    ``len`` and epochs are those of :class:`~pml_extras.samplers.MPerClassBatchSampler`, and so is
    what a trainer of pml needs. The state holds the pool too, (N, pool) int32, None before the
    first refresh: one is good for all ranks if their features are the same. Workers of a DataLoader
    fetch ahead, so that with them ``features`` sees an earlier network than trains on the batch:
    exact is ``num_workers=0``.

    A refresh searches Euclidean neighbours exactly, by pml's ``FaissKNN`` (faiss must be
    installed), for the pool and as many images as the largest class has: it suits many small
    classes. Time: O(N^2 D); for 59,416 images, D = 64, 27 s of one CPU core.

    Raises:
        ImportError: there is no faiss.
        ValueError: labels that are empty or no integers; fewer than P classes of two images; too
            few images of other classes for a batch or for the pool; ``num_neighbours`` above
            ``pool``; ``rank`` not below ``num_replicas``; at a refresh, ``features`` returns
            another form or what is not finite.

    Source: Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR
    2016, section on mini-batches, as two readers restate it: a few random positive pairs, and
    difficult neighbours of their images added. How many, from which pool and how often refreshed
    is ours, and the released code has none of it
    (:class:`~pml_extras.samplers.PairBatchSampler`).

    >>> rows = torch.tensor([[0.0], [9.0], [1.0], [8.0], [20.0], [30.0]])
    >>> sampler = HardNeighbourBatchSampler(
    ...     [0, 0, 1, 1, 2, 2], lambda: rows, num_pairs=1, num_neighbours=1, pool=1
    ... )
    >>> sampler.refresh()  # 2 and 3 are the nearest of 0 and 1
    >>> sorted(next(batch for batch in sampler if 0 in batch[:2]))
    [0, 1, 2, 3]
    """

    setting_of = "labels, num_pairs, num_neighbours, pool, refresh_every and num_replicas"

    def __init__(
        self,
        labels: Labels,
        features: Callable[[], Tensor],
        *,
        num_pairs: int,
        num_neighbours: int,
        pool: int = 50,
        refresh_every: int = 1000,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if find_spec("faiss") is None:  # or training would stop at the first refresh
            raise ImportError("HardNeighbourBatchSampler needs faiss: pip install faiss-cpu")
        check_count(
            1,
            num_pairs=num_pairs,
            num_neighbours=num_neighbours,
            pool=pool,
            refresh_every=refresh_every,
        )
        if num_neighbours > pool:
            raise refuse("num_neighbours", f"at most pool = {pool}", num_neighbours)
        if not callable(features):
            raise refuse("features", "a function that returns them", type(features).__name__)
        super().__init__(2 * num_pairs * (1 + num_neighbours), False, seed, num_replicas, rank)
        self.features = features
        self.num_pairs, self.num_neighbours = int(num_pairs), int(num_neighbours)
        self.pool, self.refresh_every = int(pool), int(refresh_every)
        self._class_of, sizes = classes_of(labels)  # (N,), (C,)
        self._largest = int(sizes.max())
        self._paired = np.flatnonzero(sizes[self._class_of] > 1)  # images
        num_classes = int((sizes > 1).sum())
        if num_classes < num_pairs:
            expected = f"at least num_pairs = {num_pairs} classes of two images or more"
            raise refuse("labels", expected, num_classes)
        self._paired_class_of, self._paired_sizes = classes_of(self._class_of[self._paired])
        others = len(self._class_of) - self._largest
        if others < max(pool, self.batch_size - 2):
            expected = f"at least {max(pool, self.batch_size - 2)} images beside the largest class"
            raise refuse("labels", expected, others, "Lower pool, num_pairs or num_neighbours.")
        self._pools: Tensor | None = None  # (N, pool)
        self._since_refresh = 0

    @property
    def _num_batches(self) -> int:
        groups = -(-self._paired_sizes // 2)  # (C,)
        return max(-(-int(groups.sum()) // self.num_pairs), int(groups.max()))

    def _plan(self, rng: np.random.Generator) -> Integers:
        class_of, sizes, num = self._paired_class_of, self._paired_sizes, self._num_batches
        counts = raised_counts(rng, -(-sizes // 2), num * self.num_pairs, num)
        pairs = class_batches(rng, class_of, sizes, counts, num, 2)
        planned: Integers = self._paired[pairs]
        return planned  # (K, P, 2)

    def _items(self, epoch: int, begin: int) -> Iterator[list[int]]:
        seed, own = self.seed, self._own_batches(epoch)
        for k in range(begin, len(own)):
            if self._since_refresh >= self.refresh_every:
                self.refresh()
            number = k * self.num_replicas + self.rank
            source = np.random.SeedSequence((seed, epoch), spawn_key=(number,))
            batch = self._with_negatives(own[k].T.ravel().tolist(), np.random.default_rng(source))
            self._since_refresh += 1
            yield batch

    def _with_negatives(self, pairs: list[int], rng: np.random.Generator) -> list[int]:
        batch = dict.fromkeys(pairs)  # a set in order
        for image in pairs:
            negatives = self._negatives(image, rng)
            full = len(batch) + self.num_neighbours
            while len(batch) < full:
                batch[next(negatives)] = None
        return list(batch)

    def _negatives(self, image: int, rng: np.random.Generator) -> Iterator[int]:
        if self._pools is not None:
            yield from rng.permutation(self._pools[image].numpy()).tolist()
        while True:
            other = int(rng.integers(len(self._class_of)))
            if self._class_of[other] != self._class_of[image]:
                yield other

    def refresh(self) -> None:
        """Search the neighbours of all images anew, in what ``features`` returns now."""
        with torch.no_grad():
            rows = self.features()
        check_rows(features=rows)
        rows = rows.detach().float()
        if len(rows) != len(self._class_of) or not rows.isfinite().all():
            expected = f"{len(self._class_of)} finite rows, one an image in order"
            came = f"{len(rows)} rows, {int((~rows.isfinite()).any(dim=1).sum())} not finite"
            raise refuse("features", expected, came)
        search, k = FaissKNN(reset_before=False, reset_after=False), self.pool + self._largest
        search.train(rows)
        class_of = torch.as_tensor(self._class_of, device=rows.device)
        pools = []
        for numbers in torch.arange(len(rows), device=rows.device).split(QUERIES):
            _, found = search(rows[numbers], k)  # (Q, k), nearest first
            other = class_of[found] != class_of[numbers][:, None]
            place = other.int().argsort(dim=1, descending=True, stable=True)[:, : self.pool]
            pools.append(found.gather(1, place).int().cpu())
        self._pools, self._since_refresh = torch.cat(pools), 0

    def state_dict(self) -> dict[str, Any]:
        """What the next batches depend on: integers, and the pool."""
        own = {"since_refresh": self._since_refresh, "pools": self._pools}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next ``iter`` go on from ``state``, seed included; ValueError if it cannot."""
        keys = {"since_refresh", "pools"}
        if not isinstance(state, Mapping) or not keys <= set(state):
            raise refuse("state", f"a mapping with the keys {sorted(keys)} too", type(state))
        since_refresh, pools = state["since_refresh"], state["pools"]
        check_count(0, since_refresh=since_refresh)
        shape = (len(self._class_of), self.pool)
        if pools is not None and (not torch.is_tensor(pools) or pools.shape != shape):
            came = tuple(pools.shape) if torch.is_tensor(pools) else type(pools).__name__
            raise refuse("pools", f"a tensor {shape}, or None", came)
        if pools is not None and not 0 <= int(pools.min()) <= int(pools.max()) < shape[0]:
            came = f"values from {int(pools.min())} to {int(pools.max())}"
            raise refuse("pools", f"images in [0, {shape[0]})", came)
        super().load_state_dict({key: state[key] for key in state if key not in keys})
        self._since_refresh = int(since_refresh)
        self._pools = None if pools is None else pools.to("cpu", torch.int32, copy=True)

    def _setting(self) -> tuple[Any, ...]:
        sizes = (self.num_pairs, self.num_neighbours, self.pool, self.refresh_every)
        return checksum(self._class_of), *sizes, self.num_replicas
