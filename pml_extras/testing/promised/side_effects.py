"""Promises about what a call leaves as it was, and about copies of a loss that was called."""

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from pml_extras.testing.batches import Batch, pairs
from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import broken, in_words, kept, number, unequal_to, verdict


@promise
def inputs_untouched(subject: Subject) -> Iterator[Outcome]:
    """A call leaves the tensors it was given as they were.

    Look for operations that end in ``_``, ``+=`` and assignments to an index.
    """
    expected = "every tensor as it was given"
    for name, batch in _calls(subject):
        run = subject.run(batch)
        changed = run.given.changed_from(batch)
        if changed:
            yield broken(name, batch, expected, f"another {' and '.join(changed)}")
        else:
            yield kept(name, batch, expected)


@promise
def global_state(subject: Subject) -> Iterator[Outcome]:
    """A call leaves grad mode, default dtype and (unless stochastic) random state as they were.

    Draw from a ``torch.Generator`` of the loss; use ``with torch.no_grad():``.
    """
    name, batch = subject.usual
    expected = "the state from before the call"
    disturbed = [
        part
        for part in subject.run(batch).disturbed
        if not (subject.stochastic and part.endswith("generator"))
    ]
    if disturbed:
        yield broken(name, batch, expected, f"another {' and '.join(disturbed)}")
    else:
        yield kept(name, batch, expected)


@promise
def copies(subject: Subject) -> Iterator[Outcome]:
    """Pickled, deep-copied or reloaded, fresh or after use, a loss gives the same value.

    Hold what counts in parameters, buffers or extra state; no lambda, no tensor with a graph.
    """
    name, batch = subject.usual
    if not subject.run(batch).usable:
        return

    def reloaded(loss: nn.Module) -> nn.Module:
        other = subject.fresh(seed_offset=1, dtype=batch.embeddings.dtype)
        other.load_state_dict(loss.state_dict())
        return other

    makers: dict[str, Callable[[nn.Module], nn.Module]] = {
        "deep copy": copy.deepcopy,
        "pickle": lambda loss: pickle.loads(pickle.dumps(loss)),
        "state_dict": reloaded,
    }
    for made, make in makers.items():
        for age in ("fresh", "used"):
            original = subject.fresh(dtype=batch.embeddings.dtype)
            if age == "used":
                subject.run(batch, original)
            case = f"{name}, {made} of a {age} loss"
            try:
                duplicate = make(original)
            except Exception as error:  # copying runs code of the loss, which may raise anything
                yield broken(case, batch, "a copy", in_words(error))
                continue
            base = subject.run(batch, original)
            if not base.usable:  # `repeatable` reports it
                continue
            expected = f"value {number(base)}, as from the original"
            yield verdict(case, subject.run(batch, duplicate), expected, unequal_to(base))


def _calls(subject: Subject) -> Iterator[tuple[str, Batch]]:
    """The usual batch alone, with references, and with pairs."""
    name, batch = subject.usual
    yield name, batch
    references = replace(
        batch, ref_emb=subject.batches.rows(7, draw=1), ref_labels=subject.batches.labels(range(7))
    )
    yield f"{name}, with references", references
    if batch.labels is not None:
        chosen = pairs(batch.labels, range(len(batch.labels)))
        yield f"{name}, with pairs", replace(batch, indices_tuple=chosen)
