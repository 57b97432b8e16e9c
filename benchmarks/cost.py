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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.cost_losses import CPU, OF_EMBEDDINGS, WARM_UP_ROWS, Pass, Setting, Subject
from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import FLOAT32, Record

LIMIT_MIB = 4096.0  # a batch size that is expected to need more is left out
LIMIT_SECONDS = 10.0  # for one pass, likewise
SECONDS_A_TURN, SECONDS_A_SIDE, MIN_TURNS, MAX_TURNS = 0.05, 1.0, 3, 50
SECONDS_UNWARMED = 0.5  # a pass this long does not notice caches


class Peak(NamedTuple):
    """Of the one pass of a fresh process."""

    mib: float | None
    seconds: float


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
    for at least 50 ms, so that none pays for the caches that another one has filled; a pass of half
    a second or more hardly does, and counts without."""
    timed: list[list[float]] = [[] for _ in passes]
    start = _now(device)
    for turn in range(MAX_TURNS):
        for one_pass, seconds in zip(passes, timed, strict=True):
            began = _now(device)
            one_pass(rows)
            since = _now(device)
            if since - began >= SECONDS_UNWARMED:
                seconds.append(since - began)
                continue
            began = since
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
    names: Sequence[str],
    batches: Sequence[int] = (),
    device: torch.device = CPU,
    dtype: str = FLOAT32,
) -> Iterator[Record]:
    """One record for each subject, side and batch size that fits, subject by subject.

    A side goes on to the next larger batch while that is expected within 4 GiB and 10 seconds a
    pass: ``growth`` times this peak, and as many times more seconds as the last step took. One that
    fails says why on stderr and is left out from there on.
    """
    about = {"dtype": dtype, **provenance(device)}
    for name in names:
        subject = _subject(name)
        sizes = sorted(batches or subject.batches)
        peaks = {side: _peaks(name, side, sizes, device, dtype) for side in subject.sides}
        plan = [(rows, [side for side in peaks if rows in peaks[side]]) for rows in sizes]
        plan = [(rows, sides) for rows, sides in plan if sides]
        timed = _in_fresh_process("time", name, plan, device, dtype)
        for (rows, sides), times in zip(plan, timed, strict=False):
            for side, ms in zip(sides, times, strict=True):
                of_classes = {"classes": Setting(rows).classes} if name in OF_EMBEDDINGS else {}
                yield {
                    "loss": name,
                    "side": side,
                    "title": subject.sides[side].title,
                    "rows": rows,
                    **subject.about,
                    **of_classes,
                    "milliseconds": ms,
                    "peak_mib": peaks[side][rows].mib,
                    **about,
                }


def _peaks(
    name: str, side: str, sizes: Sequence[int], device: torch.device, dtype: str
) -> dict[int, Peak]:
    """Of the batch sizes that fit."""
    peaks: dict[int, Peak] = {}
    growth = _subject(name).growth
    slower = growth
    for rows in sizes:
        measured = _in_fresh_process("memory", name, [(rows, [side])], device, dtype)
        if not measured:
            break
        before, now = next(reversed(peaks.values()), None), Peak(*measured[0])
        peaks[rows] = now
        if before is not None:
            slower = now.seconds / before.seconds
        if growth * (now.mib or 0.0) > LIMIT_MIB or slower * now.seconds > LIMIT_SECONDS:
            break
    return peaks


def _subject(name: str) -> Subject:
    if name in OF_EMBEDDINGS:
        return OF_EMBEDDINGS[name]
    from benchmarks.cost_subjects import SUBJECTS  # imports that no loss need wait for

    return SUBJECTS[name]


def _in_fresh_process(
    what: str,
    name: str,
    plan: Sequence[tuple[int, Sequence[str]]],
    device: torch.device,
    dtype: str,
) -> list[Any]:
    """What :func:`_main` found for each entry of the plan, or for those before it failed."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", what, name, json.dumps(plan), str(device), dtype],
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        print(f"{name}, {what} of {plan}: failed, left out from there on", file=sys.stderr)
    return [json.loads(line) for line in run.stdout.splitlines()]


def _main(what: str, name: str, plan: str, device: str, dtype: str) -> None:
    """Print a line for each (rows, sides) of the plan: peak and seconds, or times of the sides."""
    subject, place = _subject(name), torch.device(device)
    for rows, sides in json.loads(plan):
        torch.manual_seed(0)
        setting = Setting(rows, place, getattr(torch, dtype))
        passes = [subject.sides[side].make(setting) for side in sides]
        if what == "time":
            print(json.dumps(milliseconds(passes, rows, place)), flush=True)
            continue
        seconds: list[float] = []
        peak = peak_mib([_timed(passes[0], seconds, place)], rows, place, subject.warm_up)
        print(json.dumps([peak, seconds[-1]]))


def _timed(one_pass: Pass, seconds: list[float], device: torch.device) -> Pass:
    def timed(rows: int) -> None:
        began = _now(device)
        one_pass(rows)
        seconds.append(_now(device) - began)

    return timed


if __name__ == "__main__":
    _main(*sys.argv[1:])
