"""Write docs/checker.md: ``python -m tests.conformance.pml_table > docs/checker.md``."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version

from pml_extras.testing import Report, Status, promises
from tests.conformance.pml_catalogue import CATALOGUE

MARKS = {
    Status.KEPT: "kept",
    Status.REFUSED: "refused",
    Status.BROKEN: "**BROKEN**",
    Status.NOT_APPLICABLE: "",
}

INTRODUCTION = """\
# Checking a loss

`pml_extras.testing.check_loss` tries a list of promises on any loss that is called as those of
pytorch-metric-learning (pml) are: yours, pml's or ours. It needs neither pytest nor a GPU, takes
about a quarter of a second, and leaves your random state alone. In your own project:

```python
from pml_extras.testing import check_loss
from my_project import MyLoss


def test_my_loss_keeps_its_promises():
    check_loss(MyLoss, out_of_range={"margin": -1.0}).raise_if_broken()
```

`print(check_loss(MyLoss))` shows all outcomes. A loss with proxies or class weights needs a factory
and the number of classes: `check_loss(lambda **kwargs: MyLoss(5, 8, **kwargs), embedding_size=8,
labels_index_classes=True, num_classes=5)`. A loss that draws random numbers or remembers batches
says so with `is_stochastic = True` or `is_stateful = True` in its class.

A promise is *kept*, *refused* (a `ValueError` said that the loss does not do this, which is fair),
*BROKEN*, or not applicable. `NotImplementedError`, `AssertionError`, `IndexError` and the like are
not refusals: they are what a user gets when nobody thought of the case.
"""

RESULTS = """\
## The losses of pml

Every loss of pml that takes labels, as it comes. Nothing below is written by hand; this page is
what `python -m tests.conformance.pml_table` prints. An empty cell is a promise that does not apply.
`out_of_range` is left out: which values are out of range is for a loss's author to say.

A broken promise is a fact and not always a mistake. CircleLoss detaches the weights of its pairs
on purpose. NPairsLoss takes the first pair of each class. Several losses convert an argument, from
degrees to radians say, before they record it.
"""


@cache
def reports() -> dict[str, Report]:
    """A report of every loss of pml in the catalogue."""
    columns = [name for name in promises() if name != "out_of_range"]
    return {name: entry.report(promises=columns) for name, entry in CATALOGUE.items()}


def versions() -> str:
    """What the table was made with."""
    pml, torch = version("pytorch-metric-learning"), version("torch").split("+")[0]
    return f"pytorch-metric-learning {pml}, torch {torch}, CPU"


def page() -> str:
    """The text of docs/checker.md."""
    columns = list(next(iter(reports().values())).meanings)
    matrix = [
        [f"`{loss}`", *(MARKS[report.status(name)] for name in columns)]
        for loss, report in reports().items()
    ]
    broken = [
        f"{sum(report.status(name) is Status.BROKEN for report in reports().values())}"
        for name in columns
    ]
    parts = [
        INTRODUCTION,
        "## The promises\n",
        _table(["Name", "Meaning"], ([f"`{name}`", text] for name, text in promises().items())),
        RESULTS,
        f"Made with {versions()}.\n",
        _table(["Loss", *columns], [*matrix, ["broken by", *broken]]),
        "## What broke\n",
        "\n".join(_findings()),
    ]
    return "\n".join(parts)


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _findings() -> Iterator[str]:
    for loss, report in reports().items():
        if report.broken:
            yield f"### {loss}\n"
            for outcome in report.broken:
                expected, came = _rounded(outcome.expected), _rounded(outcome.came)
                yield f"- `{outcome.promise}`, {outcome.case}: expected {expected}; came {came}"
            yield ""


def _rounded(text: str) -> str:
    """Four digits, which other machines agree on."""
    return re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.4g}", text.strip())


if __name__ == "__main__":
    print(page(), end="")
