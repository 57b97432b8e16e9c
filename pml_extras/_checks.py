"""Argument checks. Every message names the argument, what was expected, what came, the way out."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def refuse(name: str, expected: str, came: object, way_out: str = "") -> ValueError:
    """Build the one form that messages have; the caller raises it."""
    return ValueError(f"{name}: expected {expected}; got {came}. {way_out}".rstrip())


def _is_number(value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf  # a graph traces that and not `math.isfinite`


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
            is_tensor = torch.is_tensor(value)  # anything else may be too long to print
            came = f"{value.dtype} {tuple(value.shape)}" if is_tensor else type(value).__name__
            raise refuse(name, "a floating tensor of shape (rows, size)", came)


def check_vector(size: int, **tensors: Tensor) -> None:
    """Refuse anything but a tensor of shape (size,)."""
    for name, value in tensors.items():
        if not torch.is_tensor(value) or value.shape != (size,):
            came = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else repr(value)
            raise refuse(name, f"a tensor of shape ({size},), one entry a row", came)


def check_one_a_row(size: int, **labels: Any) -> None:
    """Refuse anything but a tensor of so many labels, each a number or more."""
    for name, value in labels.items():
        if not torch.is_tensor(value) or value.ndim == 0 or len(value) != size:
            came = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise refuse(name, f"a tensor of {size} labels, one a row", came)


def check_indices_tuple(indices_tuple: Any, num: int, num_ref: int) -> None:
    """Refuse what is no tuple of a miner for ``num`` rows and ``num_ref`` references."""
    name, form = "indices_tuple", "(a, p, n) or (a1, p, a2, n)"
    if not isinstance(indices_tuple, (tuple, list)) or len(indices_tuple) not in (3, 4):
        came = type(indices_tuple).__name__
        if isinstance(indices_tuple, (tuple, list)):
            came += f" of {len(indices_tuple)}"
        raise refuse(name, form, came, "Pass what a miner returned.")
    for x in indices_tuple:
        indexes = torch.is_tensor(x) and not (x.is_floating_point() or x.dtype == torch.bool)
        empty = torch.is_tensor(x) and x.shape == (0,)  # in any dtype, as torch.tensor([]) has one
        if not empty and (not indexes or x.ndim != 1):
            came = f"{x.dtype} {tuple(x.shape)}" if torch.is_tensor(x) else type(x).__name__
            raise refuse(name, "integer tensors of one dimension", came)
    sizes = [len(x) for x in indices_tuple]
    if len(set(sizes[:2])) > 1 or len(set(sizes[-2:])) > 1:
        raise refuse(name, f"{form}, each pair of one length", f"lengths {sizes}")
    if torch.compiler.is_compiling():
        return
    anchors = (0,) if len(indices_tuple) == 3 else (0, 2)
    filled = [position for position, size in enumerate(sizes) if size > 0]
    bounds = ranges(*(indices_tuple[position] for position in filled))
    for position, (smallest, largest) in zip(filled, bounds, strict=True):
        high = num if position in anchors else num_ref
        if smallest < 0 or largest >= high:
            expected = f"positions in [0, {high}) in entry {position}"
            raise refuse(name, expected, f"values from {smallest} to {largest}")


def ranges(*integers: Tensor) -> list[tuple[int, int]]:
    """Smallest and largest of each tensor; the host waits for the device once."""
    if not integers:
        return []
    found = [extreme.to(integers[0].device) for x in integers for extreme in x.aminmax()]
    values = torch.stack(found).tolist()
    return list(zip(values[::2], values[1::2], strict=True))
