"""Small batches of k-reciprocal neighbours."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_rows, refuse
from pml_extras.functional.precision import at_least_float32, no_autocast
from pml_extras.functional.rows import unit_rows

KNN: TypeAlias = Callable[[Tensor, int, Tensor, bool], tuple[Tensor, Tensor]]
"""pml's convention: (query, k, reference, ref_includes_query) -> (distances, indices), (N, k)."""

CHUNK_ELEMENTS = 2**22
"""Elements of the largest temporary array, unless a single row needs more."""


def reciprocal_batches(
    embeddings: Tensor,
    *,
    batch_size: int = 7,
    k1: int = 30,
    k2: int = 15,
    references: Tensor | None = None,
    knn_func: KNN | None = None,
) -> Tensor:
    r"""For each row the batch that it forms with its k-reciprocal neighbours.

    .. math::
        R_k(i) = \{c \in N_k(i) : i \in N_k(c)\}, \qquad
        U(i) = R_{k_1}(i) \cup \bigcup_{c \in C(i)} R_{k_2}(c), \qquad
        C(i) = \{c \in R_{k_1}(i) :
            |R_{k_2}(c) \cap R_{k_1}(i)| > \tfrac{2}{3} |R_{k_2}(c)|\}

    where :math:`N_k(i)` is i and its k nearest others, by Euclidean distance between unit rows (of
    others that tie at the k-th place, any). The batch is the first ``batch_size`` of U(i) by
    distance to i (ties by index, i itself first), filled up with the nearest of
    :math:`N_{k_1}(i)` that are not in U(i).

    With ``references`` each row is a query, judged alone in the set of itself and all references,
    so that its batch does not depend on other queries. There :math:`N_k(i)` is the query and its k
    nearest references; a reference g has the query among its neighbours if it is no farther than
    the :math:`k_1`-th nearest other reference of g; the sets :math:`R_{k_2}(c)` are those of the
    references alone.

    Args:
        embeddings: (N, D) floating, of any norm; half types are computed in float32.
        batch_size: rows in a batch, the row itself included; at most k1 + 1. Released
            configurations use 7, and 4 for In-Shop (a query and 3 images of the gallery).
        k1: neighbours of a row, fewer than rows (references, if given).
        k2: neighbours for the expansion, at most k1.
        references: (M, D) floating, on the device of ``embeddings``.
        knn_func: who searches: ``FaissKNN()`` or ``CustomKNN(distance)`` of
            ``pytorch_metric_learning.utils.inference``, given unit rows. Only its indices are used:
            its distances may be squared (faiss) or similarities. None searches all rows in torch,
            in time O(N^2 D), exact up to the rounding of a matrix product.

    Returns:
        (N, batch_size) int64 positions of rows, i in column 0, none twice. With ``references``
        (N, batch_size - 1) positions in ``references``: the query comes first and is left out.
        Memory: O(N k1) for the lists and a unit copy of the rows; nothing of size N x N.

    Raises:
        ValueError: an argument is no (rows, size) tensor or not finite; ``references`` has other
            columns or is on another device; a count is out of its range; ``knn_func`` returns
            other than k distinct positions a row.

    Source: Seidenschwarz, Elezi, Leal-Taixé, Learning Intra-Batch Connections for Deep Metric
    Learning, ICML 2021, https://arxiv.org/abs/2102.07753; option of the released code, with its k1
    and k2. Departures: the source is silent on how a query meets a gallery, the rule above is
    ours, and so are the order of ties and that i is first even where other rows coincide with it.

    >>> angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1, 2.5])
    >>> rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    >>> reciprocal_batches(rows, batch_size=3, k1=2, k2=1)
    tensor([[0, 1, 2],
            [1, 0, 2],
            [2, 1, 0],
            [3, 4, 5],
            [4, 3, 5],
            [5, 4, 3]])
    """
    _check_arguments(embeddings, references, batch_size, k1, k2)
    width = batch_size if references is None else batch_size - 1
    if len(embeddings) == 0:
        return torch.empty(0, width, dtype=torch.int64, device=embeddings.device)
    with torch.no_grad(), no_autocast(embeddings):
        x = _unit_rows("embeddings", embeddings)
        y = x if references is None else _unit_rows("references", references)
        dtype = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(dtype), y.to(dtype)
        own = torch.arange(len(y), device=y.device)[:, None]  # (M, 1)
        # The row itself is asked for and taken out here, by its position: who searches need not
        # know that query and reference are one, and a row that more than k1 others coincide with
        # may well be missing among the first k1 + 1.
        lists = _nearest(y, y, k1 + 1, knn_func, own)  # (M, k1 + 1), the row itself first
        inner = lists[:, : k2 + 1]
        inner_mutual = _mutual(inner)
        if references is None:
            near, mutual = lists, _mutual(lists)
        else:
            own = own.new_full((len(x), 1), -1)  # no reference is the query
            near = _nearest(x, y, k1, knn_func, own)  # (N, k1)
            radius = _squared_distances(y, y, lists[:, -1:])[:, 0]  # (M,)
            mutual = _squared_distances(x, y, near) <= radius[near]
        batches = near.new_empty(len(x), width)
        for part in _parts(len(x), near.shape[1] * (k2 + 2)):
            union = _expanded(near[part], mutual[part], inner, inner_mutual)
            batches[part] = _first(x[part], y, union, own[part], width)
    return batches


def _parts(num: int, elements: int) -> Iterator[slice]:
    """Cut ``num`` rows into slices whose ``elements`` a row fit ``CHUNK_ELEMENTS``."""
    step = max(1, CHUNK_ELEMENTS // max(1, elements))
    return (slice(start, min(num, start + step)) for start in range(0, num, step))


def _unit_rows(name: str, rows: Tensor) -> Tensor:
    unit = unit_rows(at_least_float32(rows))
    if not unit.isfinite().all():
        raise refuse(name, "finite rows", "NaN or infinity", "They have no nearest neighbours.")
    return unit


def _nearest(x: Tensor, y: Tensor, k: int, knn_func: KNN | None, own: Tensor) -> Tensor:
    """(N, k) positions in y by distance, ties by index, but ``own`` (N, 1) first if it is >= 0."""
    idx = _search(x, y, k) if knn_func is None else _asked(knn_func, x, y, k)
    missing = (own >= 0) & (idx != own).all(dim=1, keepdim=True)  # (N, 1)
    idx = torch.cat([idx[:, :-1], torch.where(missing, own, idx[:, -1:])], dim=1)
    idx = idx.sort(dim=1).values
    # One matrix product cannot order neighbours that are close to each other: differences do.
    dist = _squared_distances(x, y, idx).masked_fill_(idx == own, -1.0)
    return idx.gather(1, dist.sort(dim=1, stable=True).indices)


def _search(x: Tensor, y: Tensor, k: int) -> Tensor:
    half_norms = y.square().sum(dim=1) / 2  # 1/2, but 0 for a row of zeros
    idx = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for part in _parts(len(x), len(y)):
        dist = torch.addmm(half_norms, x[part], y.T, alpha=-1)  # (b, M), monotone in distance
        idx[part] = dist.topk(k, dim=1, largest=False).indices
    return idx


def _asked(knn_func: KNN, x: Tensor, y: Tensor, k: int) -> Tensor:
    _, idx = knn_func(x, k, y, False)
    expected = f"({len(x)}, {k}) distinct positions in [0, {len(y)}) a row"
    if not torch.is_tensor(idx) or idx.shape != (len(x), k) or idx.is_floating_point():
        came = f"{idx.dtype} {tuple(idx.shape)}" if torch.is_tensor(idx) else type(idx).__name__
        raise refuse("knn_func", expected, came)
    ordered = idx.sort(dim=1).values
    outside = ((ordered < 0) | (ordered >= len(y))).any(dim=1)  # (N,)
    bad = outside | (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise refuse(
            "knn_func",
            expected,
            f"{idx[row].tolist()} for row {row}",
            "An approximate index that finds fewer than k fills up with -1: let it search more.",
        )
    return idx.to(x.device, torch.int64)


def _squared_distances(x: Tensor, y: Tensor, idx: Tensor) -> Tensor:
    """(N, K) between row i of x and rows idx[i] of y, from their differences."""
    dist = x.new_empty(idx.shape)
    for part in _parts(len(x), idx.shape[1] * x.shape[1]):
        dist[part] = (y[idx[part]] - x[part, None]).square().sum(dim=2)
    return dist


def _mutual(lists: Tensor) -> Tensor:
    """(M, K) bool: is the row in the list of its neighbour too."""
    mutual = torch.empty_like(lists, dtype=torch.bool)
    rows = torch.arange(len(lists), device=lists.device)[:, None, None]
    for part in _parts(len(lists), lists.shape[1] ** 2):
        mutual[part] = (lists[lists[part]] == rows[part]).any(dim=2)
    return mutual


def _expanded(near: Tensor, mutual: Tensor, inner: Tensor, inner_mutual: Tensor) -> Tensor:
    """(b, W) keys in ascending order: 2 c where c is in U(i), 2 c + 1 where it is a filler.

    No c twice; the end of each row is padded with keys 2 M.
    """
    num = len(inner)
    kin = near.masked_fill(~mutual, num).sort(dim=1).values  # (b, K), R(i)
    theirs = inner[near]  # (b, K, k2 + 1)
    member = inner_mutual[near] & mutual[:, :, None]  # R'(c) of c in R(i)
    at = torch.searchsorted(kin, theirs.flatten(1)).clamp_(max=kin.shape[1] - 1)
    shared = (kin.gather(1, at).view_as(theirs) == theirs) & member
    joins = 3 * shared.sum(dim=2) > 2 * member.sum(dim=2)  # (b, K), in integers
    added = theirs.masked_fill(~(member & joins[:, :, None]), num).flatten(1)
    keys = torch.cat([2 * added, 2 * near + (~mutual).long()], dim=1).sort(dim=1).values
    again = keys[:, 1:] // 2 == keys[:, :-1] // 2  # a filler comes after its copy in the union
    keys[:, 1:] = keys[:, 1:].masked_fill(again, 2 * num)
    width = int((keys < 2 * num).sum(dim=1).max())
    return keys.sort(dim=1).values[:, :width]


def _first(x: Tensor, y: Tensor, keys: Tensor, own: Tensor, width: int) -> Tensor:
    """(b, width) positions: ``own``, then the union and then fillers, each by distance."""
    padding = keys == 2 * len(y)
    idx = (keys // 2).clamp(max=len(y) - 1)
    dist = _squared_distances(x, y, idx).masked_fill_(idx == own, -1.0)
    order = dist.sort(dim=1, stable=True).indices  # keys ascend, so ties go by index
    rank = (keys % 2).masked_fill(padding, 2).gather(1, order)
    order = order.gather(1, rank.sort(dim=1, stable=True).indices)
    return idx.gather(1, order[:, :width])


def _check_arguments(
    embeddings: Tensor, references: Tensor | None, batch_size: int, k1: int, k2: int
) -> None:
    check_rows(embeddings=embeddings)
    check_count(1, batch_size=batch_size, k1=k1, k2=k2)
    if k2 > k1:
        raise refuse("k2", f"at most k1 = {k1}", k2, "Lower k2 or raise k1.")
    if batch_size - 1 > k1:
        way_out = "Lower batch_size or raise k1."
        raise refuse("batch_size", f"at most k1 + 1 = {k1 + 1}", batch_size, way_out)
    name, candidates = "embeddings", len(embeddings)
    if references is not None:
        check_rows(references=references)
        name, candidates = "references", len(references)
        if references.shape[1] != embeddings.shape[1]:
            expected = f"{embeddings.shape[1]} columns, as `embeddings`"
            raise refuse("references", expected, f"{references.shape[1]} columns")
        if references.device != embeddings.device:
            expected = f"rows on {embeddings.device}, as `embeddings`"
            raise refuse("references", expected, references.device, "Move them with .to().")
    if k1 >= candidates and len(embeddings) > 0:
        expected = f"fewer than the {candidates} rows of `{name}`"
        raise refuse("k1", expected, k1, "Lower k1, and k2 and batch_size with it.")
