"""docs/smooth_ap.md: where pml's SmoothAPLoss is not its equation, by value."""

from collections.abc import Sequence
from importlib.metadata import version
from math import exp, sqrt
from random import Random
from typing import NamedTuple

import torch
from pytorch_metric_learning import losses as pml

from benchmarks.reporting.tables import markdown
from pml_extras.losses import SmoothAPLoss

PML = "2.9.0"  # the page is about this version, the first that has the loss
TEMPERATURE, DIM = 0.01, 4


class Batch(NamedTuple):
    """Rows of each class, sorted by class or in another order."""

    title: str
    sizes: tuple[int, ...]
    shuffled: bool = False

    def rows(self) -> tuple[list[list[float]], list[int]]:
        """Embeddings near a direction of their class, so that no precision is 0, and labels."""
        labels = [label for label, size in enumerate(self.sizes) for _ in range(size)]
        random = Random(0)
        centres, noise = (
            [[random.gauss(0, 1) for _ in range(DIM)] for _ in labels] for _ in range(2)
        )
        order = random.sample(range(len(labels)), len(labels))
        found = [
            ([c + x for c, x in zip(centres[labels[i]], noise[i], strict=True)], labels[i])
            for i in (order if self.shuffled else range(len(labels)))
        ]
        return [row for row, _ in found], [label for _, label in found]


BATCHES = (
    Batch("4 classes of 4, sorted", (4, 4, 4, 4)),
    Batch("the same, shuffled", (4, 4, 4, 4), shuffled=True),
    Batch("2 classes of 8, sorted", (8, 8)),
    Batch("8 classes of 2, sorted", (2,) * 8),
    Batch("8 classes of 4, sorted", (4,) * 8),
    Batch("classes of 1, 3, 5 and 7, sorted", (1, 3, 5, 7)),
)


def can_be_made() -> bool:
    """Whether the installed pml is the one that the page is about."""
    return version("pytorch-metric-learning") == PML


def equation(embeddings: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """Mean over the rows of 1 - AP, by loops: the rank of j in a set is 1 + the sum over its other
    members k of sigmoid((s_ik - s_ij) / temperature); a row is among its own positives."""

    def dot(x: Sequence[float], y: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(x, y, strict=True))

    def cosine(x: Sequence[float], y: Sequence[float]) -> float:
        return dot(x, y) / sqrt(dot(x, x) * dot(y, y))

    def rank(sims: Sequence[float], j: int, members: Sequence[int]) -> float:
        return 1 + sum(1 / (1 + exp((sims[j] - sims[k]) / TEMPERATURE)) for k in members if k != j)

    rows = range(len(labels))
    losses = []
    for i in rows:
        sims = [cosine(embeddings[i], other) for other in embeddings]
        positives = [j for j in rows if labels[j] == labels[i]]
        precision = sum(rank(sims, j, positives) / rank(sims, j, rows) for j in positives)
        losses.append(1 - precision / len(positives))
    return sum(losses) / len(losses)


def values(batch: Batch) -> dict[str, float | None]:
    """Of the equation, of ours and of pml's, in float64; None where pml refuses the batch."""
    rows, classes = batch.rows()
    x, labels = torch.tensor(rows, dtype=torch.float64), torch.tensor(classes)
    try:
        theirs = float(pml.SmoothAPLoss(temperature=TEMPERATURE)(x, labels))
    except ValueError:
        theirs = None
    return {
        "equation": equation(rows, classes),
        "ours": float(SmoothAPLoss(temperature=TEMPERATURE)(x, labels)),
        "theirs": theirs,
    }


def page() -> str:
    """The whole text; for pml of that version."""
    lines = []
    for batch in BATCHES:
        found = values(batch)
        shown = {
            name: "refused (ValueError)" if value is None else f"{value:.4f}"
            for name, value in found.items()
        }
        lines.append(
            {
                "batch": batch.title,
                "the equation, by loops": shown["equation"],
                "`pml_extras`": shown["ours"],
                f"pml {PML}": shown["theirs"],
            }
        )
    return f"""# SmoothAPLoss beside pml's

<!-- Written by `python -m benchmarks report`; what is changed by hand is lost. -->

`pml_extras.losses.SmoothAPLoss` has the name and arguments of the loss of pytorch-metric-learning
(pml) {PML}, and other values on most batches. pml takes the rows of a class by their position: it
divides the batch into as many blocks as a class has rows, each with as many rows as there are
classes, and ranks within a block. Blocks are classes only where both numbers are equal and the
batch is sorted by class; elsewhere other rows stand in for the positives, and nothing says so.
Classes of different sizes are refused.

Ours goes by the labels: any order, any sizes; a row alone in its class costs 0 and counts in the
mean. The equation, with the similarities s, for the rows P(i) of the class of i, i among them:

    rank of j in a set A = 1 + sum over k in A, k != j, of sigmoid((s_ik - s_ij) / temperature)
    AP_i = mean over j in P(i) of (rank of j in P(i)) / (rank of j in all rows)
    loss = mean over i of 1 - AP_i

The same {DIM}-dimensional rows for each column, float64, temperature {TEMPERATURE}:

{markdown(lines)}

The formula and its source: `pml_extras.functional.smooth_precision`.
"""
