"""Promises about half precision."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pml_extras.testing.registry import promise
from pml_extras.testing.report import Outcome
from pml_extras.testing.subject import Subject
from pml_extras.testing.verdicts import broken, finite, in_short, kept, not_applicable, verdict

HALF = (torch.float16, torch.bfloat16)


@promise
def half_precision(subject: Subject) -> Iterator[Outcome]:
    """float16, bfloat16 and autocast give finite values and gradients."""
    name, batch = subject.usual
    expected = "a finite value and finite gradients, or a ValueError"
    for dtype in HALF:
        run = subject.run(batch.to(dtype))
        yield verdict(f"{name}, {in_short(dtype)}", run, expected, finite)
    for dtype in (torch.float32, torch.bfloat16):
        run = subject.run(batch.to(dtype), autocast=torch.bfloat16)
        case = f"{name}, {in_short(dtype)} in autocast to bfloat16"
        yield verdict(case, run, expected, finite)


@promise
def parameter_dtype(subject: Subject) -> Iterator[Outcome]:
    """A batch in half precision leaves parameters and buffers in the dtype they had."""
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


def _dtypes(loss: nn.Module) -> dict[str, torch.dtype]:
    """Of what the state dict holds, except extra state that is no tensor."""
    held = loss.state_dict(keep_vars=True).items()
    return {key: x.dtype for key, x in held if isinstance(x, Tensor)}
