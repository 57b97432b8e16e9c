"""Write docs/checker.md, in minutes: ``python -m tests.conformance.pml_table``."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pml_extras.testing import Report, promises, registry, table
from pml_extras.testing.report import as_markdown, grouped
from tests.conformance.catalogue import LOSSES
from tests.conformance.pml_catalogue import CATALOGUE

SLOW = ("compiles", "two_processes")
PAGE = Path(__file__).parents[2] / "docs" / "checker.md"

INTRODUCTION = """\
# Checking a loss

`pml_extras.testing.check_loss` tries a list of promises on any loss that is called as those of
pytorch-metric-learning (pml) are: yours, pml's or ours. It needs neither pytest nor a GPU, takes
less than a second, and leaves your random state alone. In your own project, one test a promise:

```python
import pytest
from pml_extras.testing import check_loss, promises
from my_project import MyLoss


@pytest.mark.parametrize("promise", promises(extra=True, without=["infinite_rows"]))
def test_my_loss_keeps(promise):
    check_loss(MyLoss, out_of_range={"margin": -1.0}, promises=[promise]).raise_if_broken()
```

`check_loss(MyLoss).raise_if_broken()` tries the usual ones at once. What your loss does not keep on
purpose is left out by `promises(without=["gradient"])`; a name that no promise has is refused.

A loss with proxies or class weights needs a factory and the number of classes:
`check_loss(lambda **kwargs: MyLoss(5, 8, **kwargs), embedding_size=8, labels_index_classes=True,
num_classes=5)`. A loss that draws random numbers or remembers batches says so with
`is_stochastic = True` or `is_stateful = True` in its class. A hyper-parameter that trades time for
memory alone goes into `cost_only={"tile": (1, 4)}`: each value must give the same.

## What comes back

`print(check_loss(MyLoss))` shows all outcomes, and for a broken promise the batch, what was
expected, what came, and what usually mends it. `report.status("order")`, `report.broken` and
`report.of("order")` are for programs; `pandas.DataFrame(report.records())` has a line for each
case; `table([check_loss(MyLoss), check_loss(YourLoss)])` is Markdown, as below.

A promise is *kept*, *refused* (a `ValueError` said that the loss does not do this, which is fair),
*BROKEN*, or not applicable. `NotImplementedError`, `AssertionError`, `IndexError` and the like are
not refusals: they are what a user gets when nobody thought of the case.
"""

NOTES = """\
Memory is counted, not measured: the bytes that tensors hold at once, which is the same on every
machine. `two_processes` starts two processes with gloo, `compiles` clears torch's cache of compiled
graphs. `infinite_rows` is a matter of taste: where nothing is compared, 0 is the value whatever the
rows hold; yet 0 times infinity is how an overflow shows, and to hide it takes a pass over the rows
in every step. No pair loss keeps it, of pml's or of ours. Where rows are compared taste ends:
`overflow` is for all.

Not looked for, since a checker cannot know it: whether the value is that of a paper's equation, and
whether a network learns from it. Nor are there checks on a GPU.
"""

RESULTS = """\
## The losses of pml

Every loss of pml that takes labels, as it comes. Nothing below is written by hand; this page is
what `python -m tests.conformance.pml_table` writes. An empty cell is a promise that does not apply.
`out_of_range` is left out: which values are out of range is for a loss's author to say.

A broken promise is a fact and not always a mistake. CircleLoss detaches the weights of its pairs
on purpose. NPairsLoss takes the first pair of each class. Several losses convert an argument, from
degrees to radians say, before they record it. pml's distances divide by a norm of at least 1e-12,
which is 0 in float16: there a row of zeros makes the value of most losses NaN.
"""

OURS = """\
## Our losses

Every loss of pml-extras, some with more than one setting, by the same promises. DelayedMemoryLoss
keeps its place in a Python number, and zabihzadeh_ensemble trains with pml's triplet miner and
loss: neither is one graph, and the triplets are cubic in memory.
"""


@cache
def reports(*, slow: bool = False) -> dict[str, Report]:
    """A report of every loss of pml in the catalogue, by all promises or but the slow ones."""
    columns = promises(extra=True, without=["out_of_range", *(() if slow else SLOW)])
    return {name: entry.report(promises=columns) for name, entry in CATALOGUE.items()}


def reports_of_ours() -> list[Report]:
    """A report of every entry of the catalogue of ours, by its name there."""
    columns = promises(extra=True)
    return [replace(entry.report(promises=columns), subject=name) for name, entry in LOSSES.items()]


def versions() -> str:
    """What the table was made with."""
    pml, torch = version("pytorch-metric-learning"), version("torch").split("+")[0]
    return f"pytorch-metric-learning {pml}, torch {torch}, CPU"


def promise_table() -> str:
    """What there is to promise."""
    rows = [
        [f"`{p.name}`{' (extra)' if p.extra else ''}", p.meaning, p.fix]
        for p in registry.REGISTRY.values()
    ]
    return as_markdown(["Name", "Meaning", "What usually mends it"], rows)


def page(found: dict[str, Report], ours: list[Report]) -> str:
    """The text of docs/checker.md."""
    parts = [
        INTRODUCTION,
        "## The promises\n",
        "Extra ones are tried where they are asked for: `check_loss(MyLoss, promises=[...])`.\n",
        promise_table(),
        NOTES,
        RESULTS,
        f"Made with {versions()}.\n",
        table(found.values()),
        "## What broke\n",
        "\n".join(line for name, report in found.items() for line in findings(name, report)),
        OURS,
        table(ours),
    ]
    return "\n".join(parts)


def findings(loss: str, report: Report) -> Iterator[str]:
    """A line for each way in which a promise broke, under the name of the loss."""
    if report.broken:
        yield f"### {loss}\n"
        for alike in grouped(report.broken):
            cases = "; ".join(outcome.case for outcome in alike)
            expected, came = _rounded(alike[0].expected), _rounded(alike[0].came)
            yield f"- `{alike[0].promise}`, {cases}: expected {expected}; came {came}"
        yield ""


def _rounded(text: str) -> str:
    """Four digits, which other machines agree on."""
    return re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.4g}", text.strip())


if __name__ == "__main__":
    PAGE.write_text(page(reports(slow=True), reports_of_ours()), encoding="utf-8")
