"""What TensorBoard shows of a run, by pml's hook and record-keeper; needs the extra tensorboard.

Only what draws is taken from pml: the tables of record-keeper, into which pml would write too, have
no way back to an earlier epoch, and what pml saves of a training is not all of it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.utils import common_functions as pml_names
from pytorch_metric_learning.utils.logging_presets import HookContainer
from record_keeper import RecordKeeper
from torch.utils.tensorboard import SummaryWriter

from benchmarks.best import Point


class Drawn:
    """One run, in two folders: losses, rates and settings by batch, metrics by epoch.

    Args:
        folder: of the run. What it holds of batches that are trained again, TensorBoard hides from
            then on: a run that was broken off shows each point once.
        points: of the learning curve so far.
        batches: trained so far.
    """

    def __init__(self, folder: Path, points: Iterable[Point], batches: int) -> None:
        self._writers = [
            SummaryWriter(str(folder / name), purge_step=known)
            for name, known in (("batches", batches), ("epochs", 0))
        ]
        by_batch, self._by_epoch = map(_Keeper, self._writers)
        self.after_batch = HookContainer(by_batch, log_freq=1).end_of_iteration_hook
        for point in points:
            self.after_epoch(point)

    def after_epoch(self, point: Point) -> None:
        """Draw a point of the curve; all until here is on the disk, before a checkpoint is."""
        values = {name: value for name, value in point.items() if name != "epoch"}
        self._by_epoch.update_records(values, point["epoch"], parent_name="epoch")
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """There are no more points."""
        for writer in self._writers:
            writer.close()


class _Keeper(RecordKeeper):
    """To TensorBoard alone, and without empty parameters, of which there is nothing to draw."""

    def __init__(self, writer: SummaryWriter) -> None:
        super().__init__(writer, None, pml_names.list_of_recordable_attributes_list_names())

    def append_data(self, group: str, series: str, value: Any, at: int) -> None:
        if not torch.is_tensor(value) or value.numel() == 1:
            super().append_data(group, series, value, at)
