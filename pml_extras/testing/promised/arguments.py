"""Promises about the other arguments of a call: honoured or refused, never ignored."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from pml_extras.testing.batches import pairs, triplets
from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import (
    broken,
    equal_to,
    finite,
    in_short,
    in_words,
    kept,
    not_applicable,
    number,
    unequal_to,
    verdict,
)

ANOTHER_VALUE = "another value than with {}, or a ValueError"


@promise
def ref_emb(subject: Subject) -> Iterator[Outcome]:
    """References are compared with, or refused with ValueError; never ignored.

    Index references by their own number R, not by B. Refuse with pml's ``ref_not_supported``.
    """
    _, batch = subject.usual
    num_rows = len(batch.embeddings)
    for name, num_references in (("more", num_rows + 3), ("fewer", num_rows - 3)):
        classes = [row % 3 for row in range(num_references)]
        given = replace(
            batch,
            ref_emb=subject.batches.rows(num_references, draw=1),
            ref_labels=subject.batches.labels(classes),
        )
        base = subject.run(given)
        case = f"{name} references than rows"
        if not base.usable:
            yield verdict(case, base, "a finite value, or a ValueError", finite)
            continue
        other = replace(given, ref_emb=subject.batches.rows(num_references, draw=2))
        yield verdict(
            case,
            subject.run(other),
            ANOTHER_VALUE.format("other references"),
            equal_to(base, "the same value"),
        )
        if subject.needs_labels:
            relabelled = replace(given, ref_labels=subject.batches.labels([*classes[1:], 2]))
            yield verdict(
                f"{case}, other labels",
                subject.run(relabelled),
                ANOTHER_VALUE.format("other ref_labels"),
                equal_to(base, "the same value"),
            )


@promise
def indices_tuple(subject: Subject) -> Iterator[Outcome]:
    """A miner's pairs or triplets are honoured, or refused with ValueError; never ignored.

    Take both forms through pml's ``convert_to_pairs`` or ``convert_to_triplets``; refuse with its
    ``indices_tuple_not_supported``.
    """
    _, batch = subject.usual
    num_rows = len(batch.embeddings)
    half = num_rows // 2
    classes = batch.labels if batch.labels is not None else torch.arange(num_rows) % 3
    for kind, chosen_by in (("triplets", triplets), ("pairs", pairs)):
        chosen = chosen_by(classes, range(half))
        first = subject.run(replace(batch, indices_tuple=chosen))
        if not first.usable:
            yield verdict(kind, first, "a finite value, or a ValueError", finite)
            continue
        other = replace(batch, indices_tuple=chosen_by(classes, range(half, num_rows)))
        yield verdict(
            kind,
            subject.run(other),
            ANOTHER_VALUE.format(f"the {kind} of other anchors"),
            equal_to(first, "the same value"),
        )
        none = replace(batch, indices_tuple=tuple(index[:0] for index in chosen))
        expected = "a finite value, attached to the graph, or a ValueError"
        yield verdict(f"no {kind}", subject.run(none), expected, finite)


@promise
def label_types(subject: Subject) -> Iterator[Outcome]:
    """Labels of other types give the value that int64 gives, or a ValueError.

    Convert them, ``labels.long()``, before ``one_hot``, ``gather`` or an index.
    """
    name, batch = subject.usual
    base = subject.run(batch)
    if batch.labels is None:
        yield not_applicable("the loss takes no labels")
        return
    if not base.usable:
        return
    for dtype in (torch.int32, torch.uint8, torch.float32):
        run = subject.run(replace(batch, labels=batch.labels.to(dtype)))
        expected = f"value {number(base)}, as with int64, or a ValueError"
        yield verdict(f"{name}, {in_short(dtype)}", run, expected, unequal_to(base))


@promise
def label_range(subject: Subject) -> Iterator[Outcome]:
    """Labels that index no class of the loss are refused with ValueError.

    Compare them with the number of classes first: on a GPU an index that is out of range ends the
    process.
    """
    name, batch = subject.usual
    if subject.num_classes is None or batch.labels is None:
        yield not_applicable("labels are names only")
        return
    for outside in (subject.num_classes, -1):
        labels = batch.labels.clone()
        labels[3] = outside
        run = subject.run(replace(batch, labels=labels))
        came = f"value {number(run)}" if run.error is None else in_words(run.error)
        refused = isinstance(run.error, ValueError)
        case, expected = f"{name}, one label {outside}", "a ValueError"
        yield (kept if refused else broken)(case, run.batch, expected, came)
