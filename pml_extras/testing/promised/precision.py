"""Promises about half precision."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pml_extras.testing.batches import Case
from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Run, Subject
from pml_extras.testing.verdicts import broken, finite, in_short, kept, not_applicable, verdict

FINITE = "a finite value and finite gradients, or a ValueError"
HALF = (torch.float16, torch.bfloat16)
FORMS = tuple(  # dtype of the batch, and of the autocast around it
    form for half in HALF for form in ((half, None), (torch.float32, half), (half, half))
)


@promise
def half_precision(subject: Subject) -> Iterator[Outcome]:
    """float16, bfloat16 and autocast give finite values and gradients.

    Compute in float32 at least (``x.float()`` inside ``torch.autocast(..., enabled=False)``), and
    give proxies a converted copy. Take the lowest number of the dtype, not a literal ``-1e9``.
    """
    name, batch = subject.usual
    for form in FORMS:
        run = subject.run(batch.to(form[0]), autocast=form[1])
        yield verdict(f"{name}, {_in_words(*form)}", run, FINITE, finite)


@promise
def half_degenerate(subject: Subject) -> Iterator[Outcome]:
    """In float16, bfloat16 and autocast degenerate batches are finite where they are in float32.

    A bound such as 1e-12 is 0 in float16, where a row of zeros becomes 0 / 0; in float32 its
    gradient is too large for float16. Divide in float32, by 1 where the norm is 0.
    """
    _, usual = subject.usual
    sound = [form for form in FORMS if _sound(subject.run(usual.to(form[0]), autocast=form[1]))]
    cases = [Case("no rows", subject.batches.of([])), Case("one row", subject.batches.of([1]))]
    for name, batch in [*cases, *subject.batches.degenerate()]:
        if _sound(subject.run(batch.to(torch.float32))):  # other promises report the rest
            for form in sound:
                run = subject.run(batch.to(form[0]), autocast=form[1])
                yield verdict(f"{name}, {_in_words(*form)}", run, FINITE, finite)


@promise
def parameter_dtype(subject: Subject) -> Iterator[Outcome]:
    """A batch in half precision leaves parameters and buffers in the dtype they had.

    Convert a copy, ``self.proxies.to(dtype)``, and never ``.data``.
    """
    name, batch = subject.usual
    for dtype in HALF:
        loss = subject.fresh()
        before = _dtypes(loss)
        if not before:
            yield not_applicable("the loss has neither parameters nor buffers")
            return
        run = subject.run(batch.to(dtype), loss)
        after = _dtypes(loss)
        cast = [f"{key} {in_short(after[key])}" for key in before if after[key] is not before[key]]
        case = f"{name}, {in_short(dtype)}"
        expected = ", ".join(f"{key} {in_short(kind)}" for key, kind in before.items())
        if cast:
            yield broken(case, run.batch, expected, ", ".join(cast))
        else:
            yield kept(case, run.batch, expected)


def _in_words(given: torch.dtype, autocast: torch.dtype | None) -> str:
    within = "" if autocast is None else f" in autocast to {in_short(autocast)}"
    return in_short(given) + within


def _sound(run: Run) -> bool:
    return run.error is None and finite(run) is None


def _dtypes(loss: nn.Module) -> dict[str, torch.dtype]:
    """Of what the state dict holds, except extra state that is no tensor."""
    held = loss.state_dict(keep_vars=True).items()
    return {key: x.dtype for key, x in held if isinstance(x, Tensor)}
