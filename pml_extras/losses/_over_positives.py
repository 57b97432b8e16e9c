"""What losses that rank a batch about each of its rows share."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_extras._checks import check_count, check_positive
from pml_extras._distances import comparison, require_distance
from pml_extras.functional.tiles import Part, in_parts, lines_at_a_time, parts_of_items
from pml_extras.losses._pair_loss import PairLoss

Value = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of positives: (positives, negatives, score, row) of ``functional.ranking`` -> (T,)."""


class RankingLoss(PairLoss):
    """A mean over the positives of each row, the row itself among them."""

    def __init__(self, tile: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_distance(self.distance, CosineSimilarity)
        if tile is not None:
            check_count(1, tile=tile)
        self.tile = tile

    def mean_over_positives(
        self, value: Value, embeddings: Tensor, labels: Tensor, *, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """(B,) mean of a value over each row's positives; (B,) their number.

        ``tile`` positives at a time are held beside all rows, however many a row has.
        """
        check_positive(temperature=temperature)  # a tensor here would have no gradient from tiles
        rows, ref, matrix, by_rows = comparison(self.distance, embeddings, embeddings)
        if torch.compiler.is_compiling():
            return self._at_once(value, matrix(rows, ref) / temperature, labels)
        pairs = self.positive_pairs(labels, labels, own=True, tile=None)
        j, starts = pairs.j, pairs.starts
        num, device = len(rows), rows.device
        counts = torch.tensor([b - a for a, b in pairwise(starts)], device=device)  # (B,)
        firsts = counts.cumsum(0) - counts

        def block(x: Tensor, y: Tensor, part: Part) -> Tensor:
            sim = matrix(x, y) / temperature  # (rows, B)
            negatives = sim.masked_fill(~pairs.negative(part.rows), -torch.inf)
            most = max(b - a for a, b in pairwise(starts[part.rows.start : part.rows.stop + 1]))
            nth = torch.arange(most, device=device)
            member = (firsts[part.rows, None] + nth).clamp(max=len(j) - 1)  # (rows, most)
            positives = sim.gather(1, j[member])
            positives = positives.masked_fill(nth >= counts[part.rows, None], -torch.inf)
            row = pairs.i[part.items] - part.rows.start
            return value(positives, negatives, sim[row, j[part.items]], row)

        lines = lines_at_a_time(self.tile, num, device) if by_rows else len(j)
        values = in_parts(block, rows, ref, parts_of_items(starts, lines))  # (P,)
        return values.new_zeros(num).index_add(0, pairs.i, values) / counts, counts

    def _at_once(self, value: Value, sim: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of a compiled graph, which has no loop over tiles: (P, B) arrays, unless fused."""
        positive, negative = self.label_masks(labels, labels, ref_is_batch=True)
        positive.diagonal().fill_(True)
        i, j = positive.nonzero(as_tuple=True)  # (P,)
        positives = sim.masked_fill(~positive, -torch.inf)
        negatives = sim.masked_fill(~negative, -torch.inf)
        values = value(positives, negatives, sim[i, j], i)  # (P,)
        counts = positive.sum(dim=1)
        return values.new_zeros(len(sim)).index_add(0, i, values) / counts, counts

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()
