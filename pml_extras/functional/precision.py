"""Which floating type a formula is computed in: never less than float32, whatever comes in."""

import contextlib
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64, its float32 copy in a half type."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Keep an enclosing autocast from rounding products on the device of ``x`` to a half type."""
    device = x.device.type
    if not _has_autocast(device) or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(device: str) -> bool:
    return torch.amp.autocast_mode.is_autocast_available(device)


def floating_dtypes(module: nn.Module) -> set[torch.dtype]:
    """Of the parameters and buffers of ``module``, in one walk through it."""
    held = (x for m in module.modules() for x in (*m._parameters.values(), *m._buffers.values()))
    return {x.dtype for x in held if x is not None and x.is_floating_point()}


def call_in(dtype: torch.dtype, module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)`` computed in ``dtype``; its parameters and buffers keep their own.

    Tensors in another floating type are stood in for by differentiable copies; what the module
    writes into its buffers (running means, a memory) is written into the originals. Nothing is
    compared: buffers of modules in training mode are written, of others those that torch counts as
    changed, which leaves out what a module in evaluation mode writes by ``.data``.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    others = {k: v for k, v in held.items() if v.is_floating_point() and v.dtype != dtype}
    if not others:
        return module(*inputs)
    given = {k: v.to(dtype) for k, v in others.items()}
    copies = dict(given)  # functional_call puts tensors here that the module puts in their place
    versions = {k: _version(v) for k, v in given.items()}
    result = functional_call(module, copies, inputs)
    with torch.no_grad():
        for prefix, owner in module.named_modules():
            for name, buffer in owner.named_buffers(prefix, recurse=False):
                new = copies.get(name)
                if new is None:
                    continue
                replaced = new is not given[name] or versions[name] is None
                if owner.training or replaced or new._version != versions[name]:
                    _write(buffer, new)
    return result


def _version(x: Tensor) -> int | None:
    """How often it was changed; None in inference mode, which does not count and which no graph
    may ask for."""
    return x._version if torch.compiler.is_compiling() or not x.is_inference() else None


def _write(buffer: Tensor, new: Tensor) -> None:
    """What is new; where a narrower copy was not changed the digits of ``buffer`` stay."""
    if torch.promote_types(buffer.dtype, new.dtype) != new.dtype:
        new = torch.where(new == buffer.to(new.dtype), buffer, new.to(buffer.dtype))
    buffer.copy_(new)


def call_in_widest(module: nn.Module, rows: Tensor, *others: Any) -> Any:
    """``module(rows, *others)`` computed in the widest type of ``rows`` and of its parameters and
    buffers, which keep theirs: losses of pml cast theirs in place."""
    held = floating_dtypes(module)
    given = {x.dtype for x in others if torch.is_tensor(x) and x.is_floating_point()}
    if held | given <= {rows.dtype}:  # nothing to cast
        return module(rows, *others)
    dtype = reduce(torch.promote_types, held, rows.dtype)
    cast = [
        x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for x in (rows, *others)
    ]
    return call_in(dtype, module, *cast)
