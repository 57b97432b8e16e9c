"""Whether the parameters of a loss are trained."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

NO_OPTIMIZER, NO_GRADIENT, NO_STEP = "no optimizer", "no gradient", "no step"


class _Entry(NamedTuple):
    """One entry of a parameter: where, its value, and whether it had a gradient."""

    place: Tensor
    value: Tensor
    learns: Tensor


class ParameterWatch:
    """One parameter of a loss over a window of iterations.

    An optimizer that steps changes the entry with the largest gradient, which is the one compared.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self.parameter = parameter
        self._version = parameter._version
        self._entry: _Entry | None = None
        self._has_gradient = False

    @torch.no_grad()
    def after_step(self) -> None:
        gradient = self.parameter.grad
        if gradient is None or self._has_gradient:
            return
        self._has_gradient = True
        if gradient.layout == torch.strided:
            size = gradient.abs().flatten()
            place = size.argmax().reshape(1)
            value = self.parameter.flatten().index_select(0, place)
            self._entry = _Entry(place, value, size.index_select(0, place) > 0)

    def fault(self, held: Iterable[int]) -> str | None:
        """What keeps it from being trained, given the ids of all that optimizers hold."""
        written = self.parameter._version != self._version
        if id(self.parameter) not in held:
            return None if written or self._moved() else NO_OPTIMIZER
        if not self._has_gradient:
            return None if written else NO_GRADIENT
        return NO_STEP if self._moved() is False else None

    def _moved(self) -> bool | None:
        """None where that cannot be told."""
        if self._entry is None or not self._entry.learns:
            return None
        place = self._entry.place.to(self.parameter.device)
        now = self.parameter.detach().flatten().index_select(0, place)
        return bool(now != self._entry.value.to(now))
