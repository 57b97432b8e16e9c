"""Argument checks. Every message names the argument, what was expected, what came, the way out."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def refuse(name: str, expected: str, came: object, way_out: str = "") -> ValueError:
    """Build the one form that messages have; the caller raises it."""
    return ValueError(f"{name}: expected {expected}; got {came}. {way_out}".rstrip())


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_finite(**values: Any) -> None:
    """Refuse anything but a finite number."""
    for name, value in values.items():
        if not _is_number(value):
            raise refuse(name, "a finite number", repr(value))


def check_positive(**values: Any) -> None:
    """Refuse anything but a finite number above 0."""
    for name, value in values.items():
        if not _is_number(value) or value <= 0:
            raise refuse(name, "a finite number > 0", repr(value))


def check_non_negative(**values: Any) -> None:
    """Refuse anything but a finite number of at least 0."""
    for name, value in values.items():
        if not _is_number(value) or value < 0:
            raise refuse(name, "a finite number >= 0", repr(value))


def check_fraction(**values: Any) -> None:
    """Refuse anything but a number in [0, 1)."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise refuse(name, "a number in [0, 1)", repr(value))


def check_count(minimum: int, **values: Any) -> None:
    """Refuse anything but an integer of at least ``minimum``."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise refuse(name, f"an integer >= {minimum}", repr(value))


def check_flag(**values: Any) -> None:
    """Refuse anything but True and False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise refuse(name, "True or False", repr(value))


def check_one_of(allowed: tuple[str, ...], **values: Any) -> None:
    """Refuse a word that is not in the list."""
    for name, value in values.items():
        if value not in allowed:
            raise refuse(name, "one of " + ", ".join(map(repr, allowed)), repr(value))


def check_rows(**tensors: Tensor) -> None:
    """Refuse anything but a floating (rows, size) tensor."""
    for name, value in tensors.items():
        if not torch.is_tensor(value) or value.ndim != 2 or not value.is_floating_point():
            came = f"{value.dtype} {tuple(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise refuse(name, "a floating tensor of shape (rows, size)", came)


def check_vector(size: int, **tensors: Tensor) -> None:
    """Refuse anything but a tensor of shape (size,)."""
    for name, value in tensors.items():
        if not torch.is_tensor(value) or value.shape != (size,):
            came = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise refuse(name, f"a tensor of shape ({size},), one entry a row", came)
