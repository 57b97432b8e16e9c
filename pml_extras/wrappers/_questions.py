"""What a loss is asked before it is put into a wrapper."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pml_extras.wrappers._asking import Change, Question, rows


def of_memory(embedding_size: int) -> Iterator[Question]:
    """Five rows of two classes, against copies of them and six other references.

    Rows 0 and 1 are listed, with positives and negatives among copies and others.
    """
    labels, others = _index(0, 1, 0, 1, 0), _index(1, 0, 1, 0, 0, 1)
    relabelled = _index(0, 1, 1, 0, 1)
    ref_labels = torch.cat([labels, others])
    listed = _index(0, 0, 1), _index(2, 9, 3), _index(0, 0, 1, 1), _index(1, 5, 6, 0)
    longer = [torch.cat(x) for x in zip(listed, map(_index, (0, 8, 1, 6)), strict=True)]
    order = _index(3, 5, 1, 0, 2, 4)
    moved = torch.cat([torch.arange(5, device="cpu"), 5 + order.argsort()])
    reordered = listed[0], moved[listed[1]], listed[2], moved[listed[3]]
    for x, other, another in rows(5, 6, 6, columns=embedding_size):
        ref, replaced = torch.cat([x, other]), torch.cat([x, another])
        ordered = torch.cat([x, other[order]]), torch.cat([labels, others[order]])
        yield Question(
            (x, labels, listed, ref, ref_labels),
            [
                Change(
                    (x, labels, listed, replaced, ref_labels),
                    True,
                    "which gives the same value for other references",
                ),
                Change(
                    (x, labels, tuple(longer), ref, ref_labels),
                    True,
                    "which gives the same value for another tuple",
                ),
                Change(
                    (x, relabelled, listed, ref, ref_labels),
                    False,
                    "in which rows count that the tuple does not list",
                ),
                Change(
                    (x, labels, reordered, *ordered),
                    False,
                    "in which the order of the references counts",
                ),
            ],
        )


def of_views(symmetric: bool, embedding_size: int) -> Iterator[Question]:
    """Two views of five images, under names of classes that would index nothing."""
    labels = torch.arange(5, device="cpu")
    order, names = labels.roll(2), 7919 * (labels + 3)
    for x, other, another in rows(5, 5, 5, columns=embedding_size):
        replaced = both_views(symmetric, x, another, labels, labels)
        unpaired = both_views(symmetric, x, other, labels, order)
        renamed = both_views(symmetric, x, other, names, names)
        yield Question(
            both_views(symmetric, x, other, labels, labels),
            [
                Change(replaced, True, "which does not look at the second view"),
                Change(unpaired, True, "for which it is all one which views belong together"),
                Change(renamed, False, "whose parameters labels index"),
            ],
        )


def both_views(
    symmetric: bool, x: Tensor, other: Tensor, labels: Tensor, other_labels: Tensor
) -> tuple[Any, ...]:
    """Arguments of the loss: one batch of both views, or the second as references."""
    if symmetric:
        return torch.cat([x, other]), torch.cat([labels, other_labels])
    return x, labels, None, other, other_labels.clone()  # the very labels would say: the very rows


def _index(*values: int) -> Tensor:
    return torch.tensor(values, device="cpu")
