"""What losses that rank a batch about each of its rows share."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_positive
from pml_extras._distances import comparison
from pml_extras.functional.tiles import (
    Part,
    in_parts,
    lines_at_a_time,
    parts_of_items,
    same_class_pairs,
)

Value = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of positives: (positives, negatives, score, row) of ``functional.ranking`` -> (T,)."""


def mean_over_positives(
    value: Value,
    distance: Any,
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    tile: int | None,
) -> tuple[Tensor, Tensor]:
    """(B,) mean of a value over the rows of each row's class, itself among them; (B,) their number.

    ``tile`` positives at a time are held beside all rows, whatever the sizes of the classes.
    """
    check_positive(temperature=temperature)  # a tensor here would have no gradient from tiles
    rows, ref, matrix, by_rows = comparison(distance, embeddings, embeddings)
    if torch.compiler.is_compiling():
        return _at_once(value, matrix(rows, ref) / temperature, labels)
    _, j, starts, code, _ = pairs = same_class_pairs(labels, labels, without_self=False)
    num, device = len(rows), rows.device
    counts = torch.tensor([b - a for a, b in pairwise(starts)], device=device)  # (B,)
    firsts = counts.cumsum(0) - counts

    def block(x: Tensor, y: Tensor, part: Part) -> Tensor:
        sim = matrix(x, y) / temperature  # (rows, B)
        negatives = sim.masked_fill(code[part.rows, None] == code, -torch.inf)
        most = max(b - a for a, b in pairwise(starts[part.rows.start : part.rows.stop + 1]))
        nth = torch.arange(most, device=device)
        member = (firsts[part.rows, None] + nth).clamp(max=len(j) - 1)  # (rows, most)
        positives = sim.gather(1, j[member])
        positives = positives.masked_fill(nth >= counts[part.rows, None], -torch.inf)
        row = pairs.i[part.items] - part.rows.start
        return value(positives, negatives, sim[row, j[part.items]], row)

    lines = lines_at_a_time(tile, num, device) if by_rows else len(j)
    values = in_parts(block, rows, ref, parts_of_items(starts, lines))  # (P,)
    return values.new_zeros(num).index_add(0, pairs.i, values) / counts, counts


def _at_once(value: Value, sim: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of a compiled graph, which has no loop over tiles: (P, B) arrays unless they are fused."""
    same = labels[:, None] == labels
    i, j = same.nonzero(as_tuple=True)  # (P,)
    positives, negatives = sim.masked_fill(~same, -torch.inf), sim.masked_fill(same, -torch.inf)
    values = value(positives, negatives, sim[i, j], i)  # (P,)
    counts = same.sum(dim=1)
    return values.new_zeros(len(sim)).index_add(0, i, values) / counts, counts
