"""What of pml's tests ours does not pass on purpose, and why."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Departure:
    raised: str
    reason: str
    undo: Callable


DEPARTURES = {}
