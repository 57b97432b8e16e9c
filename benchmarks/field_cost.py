"""Cost of PotentialFieldLoss at the scale of Stanford Online Products: 11,318 classes, d = 512.

``python -m benchmarks.field_cost --results field.jsonl`` appends one JSON line a measurement:

- ``spread``: value and gradient, standard-normal proxies, beside the bare products of the upper
  tiles of X X^T and, where 20 GiB are free, the same energy by autograd of (T, T) matrices;
- ``crowded``: the same where a tenth of the tiles have close pairs;
- ``memory``: peak of forward and backward above the parameters, in a fresh process;
- ``steps``: steps of Adam, each with and without neighbour lists on the same proxies.

What is compared takes turns in one process; a ratio is the median of the ratios of the turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks.measure import PeakMemory, resident_mib
from benchmarks.provenance import provenance
from benchmarks.records import Record, append_line
from pml_extras.functional.close_pairs import close_pairs
from pml_extras.functional.tiles import TILE_ELEMENTS, upper_tiles
from pml_extras.losses import PotentialFieldLoss

CLASSES, DIM, BATCH, PER_CLASS = 11_318, 512, 100, 4
TURNS, CLOSE_PAIRS_A_TILE, DENSE_GIB = 7, 20, 20.0
CPU = torch.device("cpu")
SIDE = isqrt(TILE_ELEMENTS["cpu"])


def made(classes: int, proxies: int, *, lists: bool = False) -> PotentialFieldLoss:
    """The loss, with standard-normal proxies."""
    return PotentialFieldLoss(classes, DIM, proxies, neighbour_lists=lists)


def batch(classes: int) -> tuple[Tensor, Tensor]:
    """Random rows, four of each of 25 classes."""
    labels = torch.randint(classes, (BATCH // PER_CLASS,)).repeat_interleave(PER_CLASS)
    return torch.randn(BATCH, DIM, requires_grad=True), labels


def once(loss: PotentialFieldLoss, rows: Tensor, labels: Tensor) -> float:
    """Forward and backward."""
    loss.zero_grad()
    value = loss(rows, labels)
    value.backward()
    return float(value.detach())


def bare_products(points: Tensor) -> None:
    """What any search by products has to compute."""
    for rows, cols in upper_tiles(len(points), SIDE):
        points[rows] @ points[cols].T


def dense(loss: PotentialFieldLoss) -> None:
    """Energy of the proxies and its gradient from (T, T) matrices held by autograd."""
    points = torch.nn.functional.normalize(loss.proxies)
    labels = torch.arange(len(points)) // loss.proxies_per_class
    r = torch.cdist(points, points)
    same = labels[:, None] == labels
    bounded = torch.where(
        same, r.clamp(min=loss.delta), r.clamp(min=loss.core_radius, max=loss.delta)
    )
    del r
    (torch.where(same, -1.0, 1.0) * bounded.pow(-loss.alpha)).sum().backward()


def crowd(points: Tensor) -> None:
    """Bring pairs of two classes together in a tenth of the tiles, in place."""
    tiles = [(rows, cols) for rows, cols in upper_tiles(len(points), SIDE) if rows != cols]
    chosen = torch.randperm(len(tiles))[: (len(tiles) + len(points) // SIDE) // 10].tolist()
    left = {rows.start: list(range(rows.start, rows.stop, 3)) for rows, _ in tiles}
    left.update({cols.start: list(range(cols.start, cols.stop, 3)) for _, cols in tiles})
    for index in chosen:
        rows, cols = tiles[index]
        for _ in range(CLOSE_PAIRS_A_TILE):
            if left[rows.start] and left[cols.start]:
                a, b = left[rows.start].pop(), left[cols.start].pop()
                points[b] = points[a] + 0.1 * torch.randn(DIM)


def share_of_tiles(loss: PotentialFieldLoss) -> float:
    """Those that have close pairs of two classes."""
    points = torch.nn.functional.normalize(loss.proxies.detach())
    labels = torch.arange(len(points)) // loss.proxies_per_class
    found = [len(a) > 0 for a, _ in close_pairs(points, labels, None, None, loss.delta)]
    return sum(found) / len(list(upper_tiles(len(points), SIDE)))


def times(kind: str, classes: int, proxies: int) -> Record:
    """``spread`` or ``crowded``."""
    loss = made(classes, proxies)
    if kind == "crowded":
        with torch.no_grad():
            crowd(loss.proxies)
    points, (rows, labels) = loss.proxies.detach().clone(), batch(classes)
    sides: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare_products(points),
        "ours": lambda: once(loss, rows, labels),
    }
    needed = DENSE_GIB * (len(points) / 22_736) ** 2
    if psutil.virtual_memory().available / 2**30 > needed + 1:
        sides["dense"] = lambda: dense(loss)
    seconds = turns(sides)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "share_of_tiles": share_of_tiles(loss),
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ours_over_bare": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios),
    }


def turns(sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each, turn by turn after one of warm-up."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(TURNS + 1):
        for side, run in sides.items():
            began = time.perf_counter()
            run()
            if turn > 0:
                seconds[side].append(time.perf_counter() - began)
    return seconds


def memory(classes: int, proxies: int) -> Record:
    """Peak of the first forward and backward, above the parameters; for a fresh process."""
    small = made(50, 2, lists=True)
    once(small, *batch(50))
    loss = made(classes, proxies, lists=True)
    rows, labels = batch(classes)
    peak = PeakMemory(CPU)
    peak.start()
    before = resident_mib()
    once(loss, rows, labels)
    peak.stop()
    if peak.mib is None or before is None:
        return {"peak_megabytes": None}
    return {"peak_megabytes": (peak.mib - before) * 2**20 / 1e6}


def steps(classes: int, proxies: int, rate: float, num: int) -> Record:
    """Adam moves the proxies; both losses see the same ones at each step."""
    listed, plain = made(classes, proxies, lists=True), made(classes, proxies)
    plain.proxies = listed.proxies
    optimizer = torch.optim.Adam(listed.param_groups(lr=rate / 100))
    seconds: dict[str, list[float]] = {"lists": [], "search": []}
    worst, builds, before = 0.0, 0, None
    for _ in range(num):
        rows, labels = batch(classes)
        values = {}
        for side, loss in (("search", plain), ("lists", listed)):
            began = time.perf_counter()
            values[side] = once(loss, rows, labels)
            seconds[side].append(time.perf_counter() - began)
        worst = max(worst, abs(values["lists"] / values["search"] - 1))
        builds += listed._neighbours._points is not before
        before = listed._neighbours._points
        optimizer.step()
    means = {side: statistics.fmean(values) for side, values in seconds.items()}
    return {
        "rate": rate,
        "steps": num,
        "mean_seconds": means,
        "lists_over_search": means["lists"] / means["search"],
        "largest_relative_difference": worst,
        "share_of_steps_that_build": builds / num,
    }


def measured(what: str, classes: int, proxies: int, rate: float, num: int) -> Record:
    """One measurement, in this process."""
    torch.manual_seed(0)
    if what == "memory":
        return memory(classes, proxies)
    if what == "steps":
        return steps(classes, proxies, rate, num)
    return times(what, classes, proxies)


def main() -> None:
    """Measure each in a process of its own and append it to the file of results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, help="JSON lines; without it, one to the screen")
    parser.add_argument(
        "--what", nargs="+", default=["spread", "crowded", "memory", "steps"],
        choices=["spread", "crowded", "memory", "steps"],
    )  # fmt: skip
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--proxies", type=int, nargs="+", default=[2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-2, 5e-2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.results is None:
        for what in args.what:
            found = measured(what, args.classes, args.proxies[0], args.rates[0], args.steps)
            print(json.dumps(found))
        return
    for what in args.what:
        for proxies in args.proxies:
            for rate in args.rates if what == "steps" else args.rates[:1]:
                given = ["--classes", args.classes, "--proxies", proxies, "--rates", rate]
                given += ["--steps", args.steps, "--threads", args.threads, "--what", what]
                run = subprocess.run(
                    [sys.executable, "-m", "benchmarks.field_cost", *map(str, given)],
                    check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                shape = {"classes": args.classes, "proxies_per_class": proxies, "dim": DIM}
                record = {"field": what, **shape, "batch": BATCH, **json.loads(run.stdout)}
                append_line(args.results, {**record, **provenance(CPU)})


if __name__ == "__main__":
    main()
