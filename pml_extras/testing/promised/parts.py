"""Promises about a batch in parts: the whole must come out."""

from collections.abc import Iterator

import torch
from torch import nn

from pml_extras._global_state import GlobalState, seed_everything
from pml_extras.testing.batches import Batch
from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Run, Subject
from pml_extras.testing.verdicts import differs_from, number, verdict
from pml_extras.training import cached_embeddings

CHUNK_SIZE = 4


@promise
def chunks(subject: Subject) -> Iterator[Outcome]:
    """Cached embeddings, and each value in `cost_only`, give value and gradients of one pass.

    Return a value with a graph and leave ``backward`` and ``torch.autograd.grad`` to the caller.
    Where a tile cuts a sum in parts, keep what the other parts need (a running ``logsumexp``).
    """
    name, batch = subject.usual
    whole = _with_network(subject, batch, len(batch.embeddings))
    if not whole.usable:
        return
    expected = f"value {number(whole)} and its gradients, as in one pass"
    by_chunks = _with_network(subject, batch, CHUNK_SIZE)
    yield verdict(f"{name}, cached embeddings", by_chunks, expected, differs_from(whole))
    plain = subject.run(batch)
    for argument, values in subject.cost_only.items():
        for value in values:
            run = subject.run(batch, subject.fresh({argument: value}, dtype=torch.float64))
            expected = f"value {number(plain)} and its gradients, as without"
            yield verdict(f"{name}, {argument}={value!r}", run, expected, differs_from(plain))


def _with_network(subject: Subject, batch: Batch, chunk_size: int) -> Run:
    """Value, and gradients of the loss's parameters and of a network before it."""
    size = subject.embedding_size
    loss = subject.fresh(dtype=torch.float64)
    network = nn.Linear(size, size).double()
    seed_everything(subject.seed)
    before = GlobalState.now()
    given = batch.cloned()
    pieces = given.embeddings.split(chunk_size)
    try:
        if len(pieces) == 1:
            embeddings = network(given.embeddings)
        else:
            embeddings = cached_embeddings(network, pieces)
        value = loss(embeddings, given.labels)
        value.backward()
    except Exception as error:  # whatever it is, it is the outcome
        return Run(batch, given, error=error)
    finally:
        before.restore()
    held = {**dict(network.named_parameters(prefix="network")), **dict(loss.named_parameters())}
    gradients = {key: parameter.grad for key, parameter in held.items()}
    return Run(batch, given, value.detach().reshape(()), value.requires_grad, gradients)
