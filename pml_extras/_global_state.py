"""The state of the process that a loss must leave alone."""

import random
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GlobalState:
    """Grad mode, default dtype, and the three generators of random numbers on the CPU."""

    grad_mode: bool
    default_dtype: torch.dtype
    torch_generator: Tensor
    numpy_generator: dict[str, Any]
    python_generator: tuple[Any, ...]

    @classmethod
    def now(cls) -> "GlobalState":
        return cls(
            grad_mode=torch.is_grad_enabled(),
            default_dtype=torch.get_default_dtype(),
            torch_generator=torch.default_generator.get_state(),
            numpy_generator=np.random.get_state(legacy=False),  # noqa: NPY002 - pml draws from it
            python_generator=random.getstate(),
        )

    def restore(self) -> None:
        torch.set_grad_enabled(self.grad_mode)
        torch.set_default_dtype(self.default_dtype)
        torch.default_generator.set_state(self.torch_generator)
        np.random.set_state(self.numpy_generator)  # noqa: NPY002
        random.setstate(self.python_generator)

    def changed_from(self, other: "GlobalState") -> list[str]:
        """Names of the parts that differ."""
        return [
            field.name.replace("_", " ")
            for field in fields(self)
            if not _same(getattr(self, field.name), getattr(other, field.name))
        ]


def seed_everything(seed: int) -> None:
    """Seed the generators on the CPU; ``torch.manual_seed`` would seed other devices too."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    return bool(np.all(left == right))
