"""What a forward pass depends on beside its input, so that it can be repeated."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def devices_of(modules: Sequence[nn.Module], inputs: Sequence[object]) -> set[torch.device]:
    """Where parameters, buffers and those ``inputs`` that are tensors are."""
    held = chain.from_iterable((*m.parameters(), *m.buffers()) for m in modules)
    return {x.device for x in (*held, *inputs) if isinstance(x, Tensor)}


class RandomState:
    """Torch's generators as they are now: of the CPU and of the CUDA devices among ``devices``."""

    def __init__(self, devices: set[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in devices if d.type == "cuda"}

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


class AutocastState:
    """Whether an autocast region is entered now, and its type, by type of device."""

    def __init__(self, devices: set[torch.device]) -> None:
        self._settings = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in {"cpu", *(device.type for device in devices)}
            if torch.amp.autocast_mode.is_autocast_available(kind)
        ]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for kind, dtype, enabled in self._settings:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield


class ModuleState:
    """Copies of the buffers and of the extra state of all submodules in training mode.

    Batch norm's running statistics, the vectors of spectral norm. Submodules in eval mode are taken
    to leave theirs alone.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        training = [m for module in modules for m in module.modules() if m.training]
        self._buffers = [
            (m, name, buffer.clone())
            for m in training
            for name, buffer in m.named_buffers(recurse=False)
        ]
        self._extra: list[tuple[nn.Module, Any]] = [
            (m, copy.deepcopy(m.get_extra_state()))
            for m in training
            if type(m).get_extra_state is not nn.Module.get_extra_state
        ]

    @torch.no_grad()
    def restore(self) -> None:
        for module, name, value in self._buffers:
            getattr(module, name).copy_(value)  # in place: others may hold the tensor too
        for module, state in self._extra:
            module.set_extra_state(copy.deepcopy(state))
