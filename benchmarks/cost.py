"""Milliseconds and peak MiB of one forward and backward pass, by batch size.

What is compared is timed in one process, turn by turn; peak memory is that of a fresh process each,
above its size after a warm-up: resident size on a CPU, what torch allocated on CUDA. What there is
to measure: :mod:`benchmarks.cost_subjects`.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.cost_subjects import CPU, SUBJECTS, WARM_UP_ROWS, Pass
from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import Record

LIMIT_MIB = 4096.0  # a batch size that is expected to need more is left out
SECONDS_A_TURN, SECONDS_A_SIDE, MIN_TURNS, MAX_TURNS = 0.05, 2.5, 3, 50


def peak_mib(
    passes: list[Pass], rows: int, device: torch.device = CPU, warm_up: int = WARM_UP_ROWS
) -> float | None:
    """Peak memory of one pass above the size after a warm-up; for a fresh process."""
    (one_pass,) = passes
    one_pass(warm_up)
    memory = PeakMemory(device)
    memory.start()
    before = _held_mib(device)
    one_pass(rows)
    memory.stop()
    return None if memory.mib is None or before is None else memory.mib - before


def milliseconds(passes: list[Pass], rows: int, device: torch.device = CPU) -> list[float]:
    """Median time of one pass of each. They take turns, each with a warm-up pass and then passes
    for at least 50 ms, so that none pays for the caches that another one has filled."""
    timed: list[list[float]] = [[] for _ in passes]
    start = _now(device)
    for turn in range(MAX_TURNS):
        for one_pass, seconds in zip(passes, timed, strict=True):
            one_pass(rows)
            began = _now(device)
            while (since := _now(device)) - began < SECONDS_A_TURN:
                one_pass(rows)
                seconds.append(_now(device) - since)
        if turn + 1 >= MIN_TURNS and _now(device) - start > SECONDS_A_SIDE * len(passes):
            break
    return [1000 * statistics.median(seconds) for seconds in timed]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _held_mib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device)) / 2**20
    return resident_mib()


def sweep(
    batches: tuple[int, ...] = (), names: tuple[str, ...] = (), device: torch.device = CPU
) -> Iterator[Record]:
    """One record for each subject, side and batch size that fits, as soon as it is measured."""
    about = provenance(device)
    for name in names or tuple(SUBJECTS):
        subject = SUBJECTS[name]
        fits = list(subject.sides)
        for rows in sorted(batches or subject.batches):
            peaks = {side: _in_fresh_process("memory", name, [side], rows, device) for side in fits}
            times = _in_fresh_process("time", name, fits, rows, device)
            for side, ms in zip(list(fits), times, strict=True):
                yield {
                    "loss": name,
                    "side": side,
                    "title": subject.sides[side].title,
                    "rows": rows,
                    **subject.about,
                    "milliseconds": ms,
                    "peak_mib": peaks[side],
                    **about,
                }
                if subject.growth * (peaks[side] or 0.0) > LIMIT_MIB:
                    fits.remove(side)
            if not fits:
                break


def _in_fresh_process(
    what: str, name: str, sides: list[str], rows: int, device: torch.device
) -> Any:
    arguments = [what, name, ",".join(sides), str(rows), str(device)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(run.stdout)


def _main(what: str, name: str, sides: str, rows: str, device: str) -> None:
    torch.manual_seed(0)
    place = torch.device(device)
    passes = [SUBJECTS[name].sides[side].make(place) for side in sides.split(",")]
    measured: Any
    if what == "memory":
        measured = peak_mib(passes, int(rows), place, SUBJECTS[name].warm_up)
    else:
        measured = milliseconds(passes, int(rows), place)
    print(json.dumps(measured))


if __name__ == "__main__":
    _main(*sys.argv[1:])
