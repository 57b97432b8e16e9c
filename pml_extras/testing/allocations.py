"""Memory of one call, counted and not measured: the same on every machine."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Within the context, ``peak`` is the largest number of bytes that new tensors held at once.

    Counted is what operations return, saved for the backward pass or not, in the forward and the
    backward pass; not what a kernel allocates and frees within itself, nor Python's own objects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held = 0
        self._alive: dict[int, weakref.ref[Any]] = {}  # storages, by address

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count the storages that it returns for the first time."""
        returned = func(*args, **(kwargs or {}))
        for x in tree_leaves(returned):
            if isinstance(x, torch.Tensor):
                self._count(x.untyped_storage())
        return returned

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._alive:
            freed = weakref.ref(storage, lambda _: self._free(address, size))
            self._alive[address] = freed
            self._held += size
            self.peak = max(self.peak, self._held)

    def _free(self, address: int, size: int) -> None:
        del self._alive[address]
        self._held -= size
