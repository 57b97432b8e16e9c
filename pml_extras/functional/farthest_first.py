"""Rows that are spread out over a set: greedy k-center."""

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_rows, refuse
from pml_extras.functional.precision import at_least_float32


@torch.no_grad()
def farthest_first(rows: Tensor, num: int, *, cover: Tensor | None = None) -> Tensor:
    r"""Pick ``num`` rows, each the farthest from the cover and from all that are picked already.

    .. math::
        i_k = \arg\max_i \min_{y \in C \cup \{x_{i_1}, \dots, x_{i_{k - 1}}\}}
        \lVert x_i - y \rVert_2^2

    Args:
        rows: (N, D) floating, half types are computed in float32.
        num: k, at most N.
        cover: (K, D), K > 0: points that are covered from the start; None picks row 0 first.

    Returns:
        (num,) int64, no index twice, in the order of picking; ties go to the first row.
        Memory O(N D), time O((num + K) N D).

    Raises:
        ValueError: no (rows, size) tensors, another size of ``cover``, too few rows, or values that
            are not finite (unless compiled: a graph does not read them).

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
    Computer Science 38, 1985; the start of prototypes in the released code of Gürbüz et al.,
    "Generalized Sum Pooling for Metric Learning", ICCV 2023,
    https://github.com/yetigurbuz/generalized-sum-pooling.

    >>> farthest_first(torch.tensor([[0.0], [1.0], [5.0], [3.0]]), 3)
    tensor([0, 2, 3])
    """
    check_rows(rows=rows, **({} if cover is None else {"cover": cover}))
    check_count(0, num=num)
    if num > len(rows):
        raise refuse("num", f"at most {len(rows)}, the number of `rows`", num)
    if cover is not None and (cover.shape[1] != rows.shape[1] or len(cover) == 0):
        expected = f"(K, {rows.shape[1]}) with K > 0, the size of `rows`"
        raise refuse("cover", expected, tuple(cover.shape))
    for name, points in (("rows", rows), ("cover", rows[:0] if cover is None else cover)):
        if not torch.compiler.is_compiling() and not points.isfinite().all():
            raise refuse(name, "finite values", "NaN or inf", "Leave such rows out.")
    rows = at_least_float32(rows)
    gap = torch.full_like(rows[:, 0], torch.inf)  # (N,) squared distance from what is covered
    for point in () if cover is None else cover.to(rows.dtype):
        gap = torch.minimum(gap, (rows - point).square().sum(dim=1))
    picked = []
    for _ in range(num):
        index = gap.argmax()
        picked.append(index)
        gap = torch.minimum(gap, (rows - rows.index_select(0, index[None])).square().sum(dim=1))
        gap = gap.index_fill(0, index, -1)  # not again, not even among equal rows
    return torch.stack(picked) if picked else gap.new_zeros(0, dtype=torch.int64)
