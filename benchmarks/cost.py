"""Milliseconds and peak MiB of one forward and backward pass, by batch size, beside pml's own.

Both sides of a comparison are timed in one process, turn by turn; peak memory is that of a fresh
process each, above its resident size after a warm-up at 64 rows. 4 rows a class, 128 dimensions,
float32.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import losses as pml

from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import Record
from pml_extras import losses as ours

DIM, PER_CLASS, CLASSES, WARM_UP_ROWS = 128, 4, 100, 64
BATCHES = (64, 128, 256, 512, 1024, 2048)
LIMIT_MIB = 4096.0  # a batch size that is expected to need more is left out
SECONDS_A_TURN, SECONDS_A_TIMING, MIN_TURNS, MAX_TURNS = 0.05, 5.0, 3, 50

Make = Callable[[], torch.nn.Module]


class Pair(NamedTuple):
    """One of our losses and the nearest one of pml."""

    ours: Make
    theirs: Make
    nearest: str


PAIRS: dict[str, Pair] = {
    "LiftedStructureLoss": Pair(
        ours.LiftedStructureLoss, pml.LiftedStructureLoss, "LiftedStructureLoss"
    ),
    "GeneralizedLiftedStructureLoss": Pair(
        ours.GeneralizedLiftedStructureLoss,
        pml.GeneralizedLiftedStructureLoss,
        "GeneralizedLiftedStructureLoss",
    ),
    "PotentialFieldLoss": Pair(
        lambda: ours.PotentialFieldLoss(CLASSES, DIM, reduction="batch_mean"),
        lambda: pml.SoftTripleLoss(CLASSES, DIM, centers_per_class=15),
        "SoftTripleLoss, 15 centres a class",
    ),
}


def one_pass(loss: torch.nn.Module, rows: int) -> None:
    """Forward and backward of a batch of its own."""
    embeddings = torch.randn(rows, DIM, requires_grad=True)
    labels = torch.arange(rows) // PER_CLASS % CLASSES
    loss(embeddings, labels).backward()


def peak_mib(losses: list[torch.nn.Module], rows: int) -> float | None:
    """Peak memory of one pass above the resident size after a warm-up; for a fresh process."""
    (loss,) = losses
    one_pass(loss, WARM_UP_ROWS)
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    before = resident_mib()
    one_pass(loss, rows)
    memory.stop()
    return None if memory.mib is None or before is None else memory.mib - before


def milliseconds(losses: list[torch.nn.Module], rows: int) -> list[float]:
    """Median time of one pass of each. They take turns, each with a warm-up pass and then passes
    for at least 50 ms, so that none pays for the caches that another one has filled."""
    passes: list[list[float]] = [[] for _ in losses]
    start = time.perf_counter()
    for turn in range(MAX_TURNS):
        for loss, seconds in zip(losses, passes, strict=True):
            one_pass(loss, rows)
            began = time.perf_counter()
            while (since := time.perf_counter()) - began < SECONDS_A_TURN:
                one_pass(loss, rows)
                seconds.append(time.perf_counter() - since)
        if turn + 1 >= MIN_TURNS and time.perf_counter() - start > SECONDS_A_TIMING:
            break
    return [1000 * statistics.median(seconds) for seconds in passes]


def sweep(batches: tuple[int, ...] = BATCHES, names: tuple[str, ...] = ()) -> Iterator[Record]:
    """One record for each loss, side and batch size that fits, as soon as it is measured."""
    about = provenance(torch.device("cpu"))
    for name in names or tuple(PAIRS):
        fits = ["ours", "theirs"]
        for rows in sorted(batches):
            peaks = {side: _in_fresh_process("memory", name, [side], rows) for side in fits}
            times = dict(zip(fits, _in_fresh_process("time", name, fits, rows), strict=True))
            for side in list(fits):
                yield {
                    "loss": name,
                    "side": side,
                    "title": name if side == "ours" else PAIRS[name].nearest,
                    "rows": rows,
                    "dim": DIM,
                    "rows_per_class": PER_CLASS,
                    "milliseconds": times[side],
                    "peak_mib": peaks[side],
                    **about,
                }
                cubic = 8 * (peaks[side] or 0.0)  # for a doubled batch, at the worst
                if cubic > LIMIT_MIB:
                    fits.remove(side)
            if not fits:
                break


def _in_fresh_process(what: str, name: str, sides: list[str], rows: int) -> Any:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", what, name, ",".join(sides), str(rows)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(run.stdout)


def _main(what: str, name: str, sides: str, rows: str) -> None:
    torch.manual_seed(0)
    losses = [getattr(PAIRS[name], side)() for side in sides.split(",")]
    measure: Callable[[list[torch.nn.Module], int], Any] = {
        "memory": peak_mib,
        "time": milliseconds,
    }[what]
    print(json.dumps(measure(losses, int(rows))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
