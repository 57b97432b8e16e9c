"""Cost records -> docs/cost.md: how it was measured, tables, and the largest batch in 8 GB."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.cost import LIMIT_MIB, LIMIT_SECONDS
from benchmarks.cost_losses import DIM, MEMORY_SIZE, PER_CLASS, WARM_UP_ROWS
from benchmarks.records import FLOAT32, Record
from benchmarks.reporting import costs, evaluation_page, field_page
from benchmarks.reporting.costs import Costs
from benchmarks.reporting.tables import MISSING, markdown

BUDGET_MIB = 8e9 / 2**20
STEPS = 2  # in size, the last ones, whose growth is extrapolated
NOISE = 0.1  # of a power that is meant to be whole


class Part(NamedTuple):
    """What was measured on one kind of device with one type of embeddings."""

    title: str
    costs: Costs
    picture: str


def parts(cpu: Sequence[Record], cuda: Sequence[Record]) -> list[Part]:
    """Those with a loss among them, CPU and float32 first."""
    found = []
    for device, records in (("CPU", cpu), ("CUDA", cuda)):
        types = sorted({r.get("dtype", FLOAT32) for r in records}, key=lambda t: (t != FLOAT32, t))
        for dtype in types:
            measured = costs.newest(records, dtype)
            tags = [device.lower()] * (device != "CPU") + [dtype] * (dtype != FLOAT32)
            picture = "_".join(["cost", *tags]) + ".png"
            if costs.cost_table(measured):
                found.append(Part(f"{device}, {dtype}", measured, picture))
    return found


def page(
    cpu: Sequence[Record],
    cuda: Sequence[Record],
    field: Sequence[Record] = (),
    evaluation: Sequence[Record] = (),
) -> str:
    """The whole text."""
    found = parts(cpu, cuda)
    sections = [paragraph for part in found for paragraph in _section(part)]
    old = any(costs.OF_100_CLASSES in paragraph for paragraph in sections)
    sections = [_introduction(marked=old), *sections, *field_page.section(field)]
    sections += evaluation_page.section(evaluation)
    if not cuda:
        sections.append("## CUDA\n\nNot measured: no figure of a GPU exists.")
    return "\n\n".join(sections) + "\n"


def _introduction(*, marked: bool) -> str:
    old = f"""
- **"{costs.OF_100_CLASSES.strip()}"** is an older measurement: labels, and proxies or weights, of
  at most 100 classes, so that a class has more rows in a larger batch."""
    return f"""# Cost

<!-- Written by `python -m benchmarks report`; what is changed by hand is lost. -->

One forward and backward pass of each loss of ours above the nearest one of pytorch-metric-learning
(pml), by rows of the batch. `python -m benchmarks cost` measures, `python -m benchmarks report`
writes this page; every number is made from [the records](../benchmarks/results/cost).

- **Batch.** {PER_CLASS} rows a class at every size, {DIM} dimensions. A loss that has proxies or
  weights of classes has those of the batch, rows // {PER_CLASS}, so that rows times classes grow
  with the square of the rows; PotentialFieldLoss and SoftTripleLoss have 15 a class.
  IntraBatchConnectionsLoss is without dropout, ZeroShotPredictionLoss has {DIM} attributes a row,
  DelayedMemoryLoss and CrossBatchMemory a full memory of {MEMORY_SIZE:,} rows, {PER_CLASS} a class,
  the latter without the term of the batch.
- **Time.** Median of passes that take turns in one process, after warm-up (a pass of half a second
  or more counts without).
- **Memory.** Peak of one pass in a fresh process above what it held after a warm-up at
  {WARM_UP_ROWS} rows: resident size on a CPU, what torch allocated on CUDA.
- **Floor.** `X @ X.T`, then `S @ X`, without a loss: the two products of any loss of all pairs.
- **"{MISSING}".** Not measured, or left out: a pass was expected to need more than
  {LIMIT_MIB / 1024:.0f} GiB or {LIMIT_SECONDS:.0f} s.{old if marked else ""}"""


def _section(part: Part) -> list[str]:
    text = [
        f"## {part.title}",
        f"Measured on {_machines(part.costs)}.",
        f"![Time and peak memory by rows, {part.title}](figures/{part.picture})",
        costs.cost_table(part.costs),
        costs.floor_table(part.costs),
        "### Largest batch in 8 GB",
        "By memory alone: a pass of that size may take hours. None was run; it is extrapolated "
        f"from the largest size of the table above by the growth over its last {STEPS} steps in "
        "size, linear at least, to 8 x 10^9 bytes above the warm-up, rounded down to two digits. "
        "Of two numbers the first takes the next whole power of the rows: a sum of powers tends to "
        "its largest.",
        largest_batches(part.costs),
    ]
    others = {
        "Large batches in chunks": costs.large_batch_table,
        **(
            {
                "Attention": costs.attention_table,
                "Strategies of an ensemble": costs.ensemble_table,
                "Pooling": costs.pooling_table,
            }
            if part.title.startswith("CUDA")
            else {}
        ),
    }
    for title, table in others.items():
        if made := table(part.costs):
            text += [f"### {title}", made]
    return [paragraph for paragraph in text if paragraph]


def largest_batches(measured: Costs) -> str:
    """A line for each loss, ours and pml's."""
    lines = []
    for key, title in costs.titles_of_losses().items():
        peaks = {rows: r["peak_mib"] for (*of, rows), r in measured.items() if tuple(of) == key}
        known = {rows: peak for rows, peak in sorted(peaks.items()) if peak}
        if known:
            rows, power = max(known), growth(known)
            most = MEMORY_SIZE if key[0] == "DelayedMemoryLoss" else None  # it takes no more
            lines.append(
                {
                    "loss": title + costs.mark(measured, *key),
                    "measured up to": f"{rows:,} rows, {known[rows]:,.0f} MiB",
                    "MiB grow as": MISSING if power is None else f"rows^{power:.2f}",
                    "rows in 8 GB, extrapolated": MISSING
                    if power is None
                    else f"{most:,}, its memory"
                    if most is not None
                    else " to ".join(f"{n:,}" for n in largest_batch(rows, known[rows], power)),
                }
            )
    return markdown(lines)


def growth(peaks: Mapping[int, float]) -> float | None:
    """Power of the rows by which the peak grew over the last steps in size, at least 1."""
    (fewer, before), *others = sorted(peaks.items())[-STEPS - 1 :]
    if not others:
        return None
    rows, peak = others[-1]
    return max(1.0, math.log(peak / before) / math.log(rows / fewer))


def largest_batch(rows: int, peak: float, power: float) -> list[int]:
    """Rows whose peak is the budget, where ``rows`` have ``peak``: by the next whole power, if that
    is not this one but for noise, and by this one; two digits, rounded down."""
    found = set()
    for exponent in {max(power, math.ceil(power - NOISE)), power}:
        most = int(rows * (BUDGET_MIB / peak) ** (1 / exponent))
        unit: int = 10 ** max(0, len(str(most)) - 2)
        found.add(max(rows if peak <= BUDGET_MIB else 0, most // unit * unit))
    return sorted(found)


def _machines(measured: Costs) -> str:
    titles = costs.titles_of_losses()
    found = {
        f"{r['device']}; torch {r['versions']['torch']}, "
        f"pml {r['versions']['pytorch-metric-learning']}"
        for (name, side, _), r in measured.items()
        if (name, side) in titles
    }
    return " and ".join(sorted(found))
