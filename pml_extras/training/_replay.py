"""What a forward pass depends on beside its input, so that it can be repeated."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def devices_of(modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> set[torch.device]:
    """Where parameters, buffers, replicas (of ``nn.DataParallel``) and ``tensors`` are."""
    held = [*chain.from_iterable((*m.parameters(), *m.buffers()) for m in modules), *tensors]
    replicated = [m for top in modules for m in top.modules() if isinstance(m, nn.DataParallel)]
    return {x.device for x in held} | {
        torch.device(p.device.type, i)
        for m in replicated
        for p in m.parameters()
        for i in m.device_ids
    }


def versions(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Which tensors they are and how often each has been written to, as autograd counts it."""
    return [(id(x), x._version) for x in tensors if not x.is_inference()]


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
    """Copies of the buffers and of the extra state of all submodules, and their training modes.

    Batch norm's running statistics, the vectors of spectral norm.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._buffers: dict[tuple[nn.Module, str], tuple[Tensor | None, Tensor | None]] = {}
        self._extra: dict[nn.Module, Any] = {}
        self._training: dict[nn.Module, bool] = {}
        for module in modules:
            self._take(module)

    def _take(self, module: nn.Module) -> None:
        for m in module.modules():
            self._training[m] = m.training
            for name, buffer in m._buffers.items():
                self._buffers[m, name] = buffer, None if buffer is None else buffer.clone()
            if type(m).get_extra_state is not nn.Module.get_extra_state:
                self._extra[m] = copy.deepcopy(m.get_extra_state())

    @contextlib.contextmanager
    def taken_after_broadcasts(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """``DistributedDataParallel`` sets buffers to those of rank 0 before its first forward."""
        waiting: set[nn.Module] = {
            m.module
            for m in modules
            if isinstance(m, DistributedDataParallel) and m.broadcast_buffers
        }

        def take(module: nn.Module, _: object) -> None:
            if module in waiting:
                waiting.remove(module)
                self._take(module)

        hooks = [module.register_forward_pre_hook(take) for module in waiting]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def restore(self) -> None:
        for (module, name), (buffer, value) in self._buffers.items():
            if buffer is not None and value is not None:
                # in place, as others may hold the tensor too; by `data`, as graphs of other passes
                # may hold it, and need not know: they find the value put back
                buffer.data.copy_(value)
            setattr(module, name, buffer)
        for module, state in self._extra.items():
            module.set_extra_state(copy.deepcopy(state))
        for module, training in self._training.items():
            module.training = training
