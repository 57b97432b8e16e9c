"""What the processes were given, joined: the rows of rank 0, then those of rank 1, and so on."""

from typing import Any

import torch
from torch import Tensor, distributed

from pml_extras._checks import check_indices_tuple, check_rows, check_vector, refuse
from pml_extras.functional.first_derivative import first_derivative_only
from pml_extras.functional.precision import at_least_float32
from pml_extras.wrappers._rank_order import all_rows

_DTYPES = (None, *sorted({x for x in vars(torch).values() if isinstance(x, torch.dtype)}, key=str))
_ARGUMENTS = ("embeddings", "labels", "ref_emb", "ref_labels", "enqueue_mask")
_FORM = 2**62  # no position is larger: check the form alone


class _Joined(torch.autograd.Function):
    """Rows of all ranks; its gradient is that of the own rows times ``factor``, None adds ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], factor: int | None) -> Tensor:
        start = sum(sizes[: distributed.get_rank()])
        ctx.own, ctx.factor = slice(start, start + len(rows)), factor
        return all_rows(rows, sizes)

    @staticmethod
    @first_derivative_only  # the second would miss how the gradient depends on rows of others
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.factor is None:
            total = at_least_float32(grad).clone(memory_format=torch.contiguous_format)
            distributed.all_reduce(total)
            return total[ctx.own].to(grad.dtype), None, None
        return grad[ctx.own] * ctx.factor, None, None


def join(
    given: dict[str, Any], factor: int | None, tuples_agree: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this rank gave, with the position of its first row, and the same of all ranks."""
    x = given["embeddings"]
    _check(given)
    own = {k: v.to(x.device) if torch.is_tensor(v) else v for k, v in given.items()}
    headers = _headers(own, x.device)  # (W, 9, 4)
    for position, name in enumerate(_ARGUMENTS):
        types = [_DTYPES[rank[position][0]] for rank in headers]
        if len(set(types)) > 1:
            raise refuse(name, "one type on every rank", types)
        columns = [rank[position][1] for rank in headers]
        if len(set(columns)) > 1:
            raise refuse(name, "as many columns on every rank", columns)
    tuples = [rank[len(_ARGUMENTS) :] for rank in headers]
    if not tuples_agree:  # but all or none has one
        tuples = [[entry[:1] for entry in rank] for rank in tuples]
    if any(rank != tuples[0] for rank in tuples):
        raise refuse(
            "indices_tuple",
            "positions in the joined batch, the same on every rank",
            "tuples that differ",
            "Mine with DistributedMinerWrapper, with the same `efficient`.",
        )
    joined = dict(own)
    for position, name in enumerate(_ARGUMENTS):
        if name in own:
            rows, sizes = own[name], [rank[position][2] for rank in headers]
            if any(rank[position][3] for rank in headers) and not rows.requires_grad:
                rows = own[name] = rows.detach().requires_grad_()  # others wait for its backward
            joined[name] = (
                _Joined.apply(rows, sizes, factor)
                if rows.is_floating_point() and rows.ndim == 2
                else all_rows(rows, sizes)
            )
    own["start"] = sum(rank[0][2] for rank in headers[: distributed.get_rank()])
    return own, joined


def _check(given: dict[str, Any]) -> None:
    """Refuse what has another form, before other ranks are waited for."""
    references = {"ref_emb": given["ref_emb"]} if "ref_emb" in given else {}
    check_rows(embeddings=given["embeddings"], **references)
    for name, rows in (
        ("labels", "embeddings"),
        ("enqueue_mask", "embeddings"),
        ("ref_labels", "ref_emb"),
    ):
        if name in given:
            if rows not in given:
                raise refuse(rows, f"to be given with `{name}`", "None")
            check_vector(len(given[rows]), **{name: given[name]})
    if "indices_tuple" in given:
        check_indices_tuple(given["indices_tuple"], _FORM, _FORM)


def _headers(own: dict[str, Any], device: torch.device) -> list[list[list[int]]]:
    """(W, 9, 4) what every rank was given.

    Type, columns, rows and need of a gradient for each argument; presence, place, length and a sum
    that knows the order for each entry of the index tuple.
    """
    mine = []
    for name in _ARGUMENTS:
        x = own.get(name)
        columns = x.shape[1] if x is not None and x.ndim == 2 else 0
        needs = x is not None and x.requires_grad and torch.is_grad_enabled()
        mine.append(
            [
                _DTYPES.index(None if x is None else x.dtype),
                columns,
                0 if x is None else len(x),
                needs,
            ]
        )
    listed = own.get("indices_tuple", ())
    for entry in (*listed, *(None for _ in range(4 - len(listed)))):
        if entry is None:
            mine.append([0, 0, 0, 0])
        else:
            order = torch.arange(1, len(entry) + 1, device=entry.device)
            mine.append([1, 0, len(entry), int((entry.long() * order).sum())])
    header = torch.tensor(mine, dtype=torch.int64, device=device)
    everyone = [torch.empty_like(header) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, header)
    ranks: list[list[list[int]]] = torch.stack(everyone).tolist()
    return ranks


def from_first_rank(found: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """What rank 0 found; the number of entries agrees."""
    sizes = torch.tensor([len(x) for x in found], device=device)
    distributed.broadcast(sizes, 0)
    flat = torch.cat([x.to(device=device, dtype=torch.int64) for x in found])
    if distributed.get_rank() != 0:
        flat = flat.new_empty(int(sizes.sum()))
    distributed.broadcast(flat, 0)
    return tuple(torch.split(flat, sizes.tolist()))
