"""Promises about which number comes for which batch."""

import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import (
    broken,
    differs_from,
    finite,
    in_short,
    in_words,
    kept,
    not_applicable,
    number,
    unequal_to,
    verdict,
)

ODD_NAMES = (7, -3, 1_000_003, 101)  # of classes 0, 1, 2, 3: neither sorted nor adjacent nor >= 0


@promise
def plain(subject: Subject) -> Iterator[Outcome]:
    """A plain batch gives a finite value with finite gradients; one kind at least is accepted.

    Return one number, with a graph. Give the check the ``embedding_size`` and ``num_classes`` that
    the constructor was given.
    """
    expected = "a finite value and finite gradients"
    runs = []
    for name, batch in subject.batches.plain():
        for dtype in (torch.float32, torch.float64):
            runs.append(subject.run(batch.to(dtype)))
            yield verdict(f"{name}, {in_short(dtype)}", runs[-1], expected, finite)
    refusals = [run.error for run in runs if isinstance(run.error, ValueError)]
    if len(refusals) == len(runs):
        yield broken("every plain batch", runs[0].batch, expected, in_words(refusals[0]))


@promise
def order(subject: Subject) -> Iterator[Outcome]:
    """The order of the batch does not change the value.

    Find classes by comparing labels, ``labels[:, None] == labels[None, :]``, and not by position.
    """
    if not subject.repeatable:
        yield not_applicable("stochastic or stateful: see `repeatable`")
        return
    for name, batch in subject.batches.plain():
        before = subject.run(batch)
        if before.usable:
            seeded = torch.Generator().manual_seed(subject.seed)
            shuffled = torch.randperm(len(batch.embeddings), generator=seeded)
            after = subject.run(batch.permuted(shuffled))
            expected = f"value {number(before)}, as before the rows were shuffled"
            yield verdict(name, after, expected, unequal_to(before))


@promise
def class_names(subject: Subject) -> Iterator[Outcome]:
    """The names of the classes do not change the value.

    Compare labels, or count them by ``torch.unique(labels, return_inverse=True)``: they may be
    negative and far apart. Where they index proxies or class weights tell the check so, by
    ``labels_index_classes=True, num_classes=...``.
    """
    if subject.labels_index_classes or not subject.needs_labels:
        yield not_applicable("labels index the loss's parameters, or there are none")
        return
    if subject.stochastic:
        yield not_applicable("stochastic: see `repeatable`")
        return
    for name, batch in subject.batches.plain():
        before = subject.run(batch)
        if before.usable:
            after = subject.run(batch.renamed(torch.tensor(ODD_NAMES)))
            expected = f"value {number(before)}, as before the classes were renamed"
            yield verdict(name, after, expected, unequal_to(before))


@promise
def repeatable(subject: Subject) -> Iterator[Outcome]:
    """The same seed gives the same value and gradients; so does the next call, unless stateful.

    Keep no tensor of a batch on ``self``, or detach it. Declare ``is_stochastic = True`` or
    ``is_stateful = True`` where the loss is meant to be so.
    """
    name, batch = subject.usual
    first = subject.run(batch)
    if not first.usable:
        return
    expected = f"value {number(first)} and its gradients, as the first time"
    yield verdict(f"{name}, another instance", subject.run(batch), expected, differs_from(first))
    used = subject.fresh(dtype=batch.embeddings.dtype)
    subject.run(batch, used)
    again = subject.run(batch, used)
    if subject.stateful:
        yield verdict(f"{name}, called again", again, "a finite value and gradients", finite)
    else:
        yield verdict(f"{name}, called again", again, expected, differs_from(first))


@promise
def gradient(subject: Subject) -> Iterator[Outcome]:
    """The gradient is the derivative of the value, for embeddings and parameters.

    Look for ``.detach()``, ``.data``, ``torch.no_grad()``, and for float32 in place of float64.
    """
    name, batch = subject.usual
    if not subject.run(batch).usable:
        return
    example = subject.fresh(dtype=torch.float64)
    names = [name for name, p in example.named_parameters() if p.requires_grad]
    inputs = [batch.embeddings, *(example.get_parameter(name).detach() for name in names)]

    def value(embeddings: Tensor, *parameters: Tensor) -> Tensor:
        loss = subject.fresh(dtype=torch.float64)  # every call starts from the same state
        copies = [p.clone() for p in parameters]  # a loss may overwrite what it holds and is given
        given = replace(batch, embeddings=embeddings).cloned()
        with torch.enable_grad():
            result: Tensor = functional_call(
                loss, dict(zip(names, copies, strict=True)), given.arguments
            )
        return result.reshape(()).double()  # float32 if the loss chose so, which shows

    expected = "torch.autograd.gradcheck to agree with finite differences"
    try:
        variables = [x.clone().requires_grad_() for x in inputs]
        gradcheck(value, variables, nondet_tol=1e-8, fast_mode=True)
    except GradcheckError as error:
        yield broken(name, batch, expected, _mismatch(error, ["embeddings", *names]))
    except Exception as error:  # whatever the loss raised on the way
        yield broken(name, batch, expected, in_words(error))
    else:
        yield kept(name, batch, expected)


def _mismatch(error: GradcheckError, names: list[str]) -> str:
    """The first lines of torch's text, which hold the numbers, with inputs by name."""
    text = " ".join(str(error).splitlines()[:3])
    return re.sub(r"input (\d+)", lambda found: names[int(found[1])], text)
