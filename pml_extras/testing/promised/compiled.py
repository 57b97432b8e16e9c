"""Promises about torch.compile."""

from collections.abc import Iterator

import torch

from pml_extras.testing.registry import extra_promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import differs_from, not_applicable, number, verdict


@extra_promise
def compiles(subject: Subject) -> Iterator[Outcome]:
    """torch.compile(fullgraph=True) gives the value and gradients of eager mode.

    Masks in place of lists of indices, ``torch.where`` in place of ``if`` on a tensor; no
    ``.item()``, no ``.tolist()``.
    """
    for name, batch in subject.batches.plain():
        eager = subject.run(batch)
        if not eager.usable:
            continue
        loss = subject.fresh(dtype=batch.embeddings.dtype)
        torch.compiler.reset()  # graphs of other instances count towards torch's limit
        try:
            call = torch.compile(loss, fullgraph=True, backend="aot_eager")
        except RuntimeError as error:
            yield not_applicable(f"torch.compile does not work here: {error}")
            return
        compiled = subject.run(batch, loss, call=call)
        torch.compiler.reset()
        expected = f"value {number(eager)} and its gradients, as in eager mode"
        yield verdict(name, compiled, expected, differs_from(eager))
