"""Which floating type a formula is computed in: never less than float32, whatever comes in."""

import contextlib

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64, its float32 copy in a half type."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Keep an enclosing autocast from rounding products on the device of ``x`` to a half type."""
    device = x.device.type
    if not torch.amp.autocast_mode.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)
