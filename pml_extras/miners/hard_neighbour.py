"""Positive pairs and hard negatives of both images, chosen from a large candidate batch."""

from itertools import islice
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor

from pml_extras._checks import check_count, refuse
from pml_extras._pml import refuse_references
from pml_extras.functional.precision import at_least_float32, no_autocast


class HardNeighbourMiner(BaseMiner):
    r"""The rows of a batch to train on: P positive pairs, and the H hardest negatives of each row.

    For pml's trainers, as their ``subset_batch_miner``: they embed the whole batch in evaluation
    mode without gradients, and train on the rows that it returns. With P pairs of different
    classes these are min(B, 2 P (1 + H)) rows of B, none twice: the P left rows, the P right rows,
    and for each of the 2 P in turn its H nearest rows of other classes that are not chosen yet.
    Where the batch has fewer classes of two rows, or an image fewer negatives, random rows fill up.

    Args:
        num_pairs: P. Classes are drawn among those of two rows or more, and two rows of each.
        num_neighbours: H.
        seed: >= 0. Draws depend on the seed and the number of calls so far, for one release of
            numpy; the two are the ``state_dict``. Global random states are neither read nor
            written.

    ``forward(embeddings, labels)`` returns one (rows,) int64 tensor, in host memory since the
    trainers index the batch as the DataLoader gave it. It is no tuple for losses: not a
    ``tuple_miner``. Half types are computed in float32.

    Default distance: that of pml's miners, Euclidean between unit rows. Time and memory: 2 P rows
    of distances to B.

    Raises:
        ValueError: a count is out of its range; references are given.

    Source: as :class:`pml_extras.samplers.HardNeighbourBatchSampler`, with the candidate batch for
    the pool: always fresh, at the price of embedding B rows for each batch that is trained on.

    >>> miner = HardNeighbourMiner(num_pairs=1, num_neighbours=1)
    >>> angle = torch.tensor([0.0, 0.9, 0.1, 0.8, 2.0, 3.0])
    >>> rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    >>> sorted(miner(rows, torch.tensor([0, 0, 1, 2, 3, 4])).tolist())
    [0, 1, 2, 3]
    """

    def __init__(self, num_pairs: int, num_neighbours: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count(1, num_pairs=num_pairs, num_neighbours=num_neighbours)
        check_count(0, seed=seed)
        self.num_pairs, self.num_neighbours = int(num_pairs), int(num_neighbours)
        self.seed, self.num_calls = int(seed), 0
        self.add_to_recordable_attributes(list_of_names=["num_pairs", "num_neighbours"])

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> Tensor:
        refuse_references(embeddings, ref_emb, "It chooses rows of one batch.")
        rng = np.random.default_rng((self.seed, self.num_calls))
        self.num_calls += 1
        classes = labels.tolist()
        pairs = self._pairs(rng, classes)
        chosen = dict.fromkeys(pairs)  # a set in order
        for row, hardest in zip(pairs, self._hardest_first(embeddings, pairs), strict=True):
            free = (x for x in hardest if classes[x] != classes[row] and x not in chosen)
            chosen.update(dict.fromkeys(islice(free, self.num_neighbours)))
        size = min(len(classes), 2 * self.num_pairs * (1 + self.num_neighbours))
        rest = [x for x in rng.permutation(len(classes)).tolist() if x not in chosen]
        return torch.tensor([*chosen, *rest][:size], dtype=torch.int64)

    def _pairs(self, rng: np.random.Generator, classes: list[Any]) -> list[int]:
        rows_of: dict[Any, list[int]] = {}
        for row in rng.permutation(len(classes)).tolist():
            rows_of.setdefault(classes[row], []).append(row)
        pairs = [rows[:2] for rows in rows_of.values() if len(rows) > 1]
        drawn = [pairs[k] for k in rng.permutation(len(pairs))[: self.num_pairs].tolist()]
        return [left for left, _ in drawn] + [right for _, right in drawn]

    def _hardest_first(self, embeddings: Tensor, rows: list[int]) -> list[list[int]]:
        if not rows:
            return []
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            far = self.distance(x[rows], x)  # (2 P, B)
        order: list[list[int]] = far.argsort(
            dim=1, descending=self.distance.is_inverted, stable=True
        ).tolist()
        return order

    def output_assertion(self, output: Tensor) -> None:
        """No tuple comes out, which pml's would ask for."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seed": self.seed, "num_calls": self.num_calls}

    def set_extra_state(self, state: Any) -> None:
        if not isinstance(state, dict) or set(state) != {"seed", "num_calls"}:
            raise refuse("state", "the keys seed and num_calls", repr(state))
        check_count(0, **state)
        self.seed, self.num_calls = int(state["seed"]), int(state["num_calls"])
