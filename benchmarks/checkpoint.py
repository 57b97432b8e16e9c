"""Unfinished runs on the disk: killed at any moment and started again, a run ends as if unbroken.

A checkpoint is the whole state after an epoch, objects and not dictionaries of them: weights,
optimizers, what losses and miners remember outside their state dicts, the learning curve, and every
generator of random numbers. An epoch that was cut is trained again.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning.utils import common_functions as pml_globals

from benchmarks.processes import Batches, rank_and_number
from benchmarks.records import Record, RunKey
from pml_extras._global_state import GlobalState

UNFINISHED = "unfinished"  # folder beside the results


class RandomStates(NamedTuple):
    """Of all generators that a training draws from, those of CUDA and pml's own among them."""

    process: GlobalState
    cuda: list[torch.Tensor]
    pml: Any

    @classmethod
    def now(cls) -> "RandomStates":
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        generator = pml_globals.NUMPY_RANDOM
        pml = generator.bit_generator if isinstance(generator, np.random.Generator) else None
        return cls(GlobalState.now(), cuda, pml and pml.state)

    def restore(self) -> None:
        self.process.restore()
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.pml is not None:
            pml_globals.NUMPY_RANDOM.bit_generator.state = self.pml


class Rest(Batches):
    """What follows ``skipped`` batches, in as many passes as they took. Random states are taken up
    there: whatever was drawn on the way, by a sampler or a loader, leaves no trace."""

    def __init__(
        self, batches: Iterable[list[Any]], skipped: int, states: RandomStates | None
    ) -> None:
        self._batches, self._skipped, self._states = batches, skipped, states

    def __iter__(self) -> Iterator[list[Any]]:
        rest = iter(self._batches)
        while self._skipped > 0:
            if next(rest, None) is None:
                rest = iter(self._batches)
            else:
                self._skipped -= 1
        if self._states is not None:
            self._states.restore()
            self._states = None
        yield from rest


class Checkpoint:
    """The file of one run; ``path`` None: nothing is kept.

    Args:
        path: see :func:`path_of`.
        origin: what made it, code, packages and device: a run is not taken up by another.
    """

    def __init__(self, path: Path | None, origin: Record) -> None:
        self._path, self._origin = path, origin

    def read(self) -> Record | None:
        """What was saved last; None to begin."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            saved: Record = torch.load(self._path, weights_only=False)
            kept: Record = saved["state"]
        except Exception as error:  # whatever a file that is no checkpoint raises
            warnings.warn(f"{self._path} cannot be read ({error}): the run begins anew.",
                          stacklevel=2)  # fmt: skip
            return None
        if saved["origin"] != self._origin:
            warnings.warn(
                f"{self._path} is of another commit, package or device: the run begins anew.",
                stacklevel=2,
            )
            return None
        return kept

    def write(self, state: Record) -> None:
        """In place of the one before, which stays until this one is on the disk. Of several
        processes, whose states are the same, the first one writes.

        Raises:
            OSError: the disk is full, or not to be written to.
        """
        if self._path is None or rank_and_number()[0] > 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".part")
        try:
            with beside.open("wb") as file:
                torch.save({"origin": self._origin, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)  # results may still find room
            if isinstance(error.__context__, OSError):  # torch stumbles over what was not written
                raise error.__context__ from None
            raise
        beside.replace(self._path)


def path_of(folder: Path, key: RunKey) -> Path:
    """Where an unfinished run is kept, beside the results."""
    return folder / UNFINISHED / f"{'-'.join(map(str, key))}.pt"
