"""From a run to an outcome. A complaint says what is wrong with a run, or None if nothing is."""

from collections.abc import Callable

import torch
from torch import Tensor

from pml_extras.testing.report import Outcome, Status
from pml_extras.testing.subject import Run

Complaint = Callable[[Run], str | None]


def verdict(case: str, run: Run, expected: str, complaint: Complaint) -> Outcome:
    """Refused after a ValueError, broken after any other error or a complaint, and else kept."""
    if run.error is not None:
        status = Status.REFUSED if isinstance(run.error, ValueError) else Status.BROKEN
        return Outcome("", status, case, str(run.batch), expected, in_words(run.error))
    complained = complaint(run)
    if complained is None:
        return Outcome("", Status.KEPT, case, str(run.batch), expected)
    return broken(case, run.batch, expected, complained)


def broken(case: str, batch: object, expected: str, came: str) -> Outcome:
    return Outcome("", Status.BROKEN, case, str(batch), expected, came)


def kept(case: str, batch: object, expected: str, came: str = "") -> Outcome:
    return Outcome("", Status.KEPT, case, str(batch), expected, came)


def not_applicable(reason: str) -> Outcome:
    return Outcome("", Status.NOT_APPLICABLE, case=reason)


def finite(run: Run) -> str | None:
    """Complain of a value that is cut from the graph, and of what is not finite."""
    if not run.attached:
        return f"{number(run)}, cut from the graph: backward would raise"
    if not run.usable:
        return f"value {number(run)}"
    spoilt = [name for name, g in run.gradients.items() if g is not None and not g.isfinite().all()]
    return f"value {number(run)}, gradient of {' and '.join(spoilt)} not finite" if spoilt else None


def zero(run: Run) -> str | None:
    """Complain of what is not 0, or cut from the graph."""
    if (complained := finite(run)) is not None:
        return complained
    if not close(run.value, torch.zeros(())):
        return f"value {number(run)}"
    pulled = [
        name
        for name, g in run.gradients.items()
        if g is not None and not close(g, torch.zeros_like(g))
    ]
    return f"value 0, gradient of {' and '.join(pulled)} not 0" if pulled else None


def unequal_to(base: Run) -> Complaint:
    """Complain of a value other than that of ``base``."""
    return lambda run: None if close(run.value, base.value) else f"value {number(run)}"


def differs_from(base: Run) -> Complaint:
    """Complain of another value than that of ``base``, or of other gradients."""

    def complaint(run: Run) -> str | None:
        if not close(run.value, base.value):
            return f"value {number(run)}"
        apart = {name: _apart(run.gradients[name], g) for name, g in base.gradients.items()}
        other = [f"{name} (by {most:.3g})" for name, most in apart.items() if most is not None]
        return f"the value, another gradient of {' and '.join(other)}" if other else None

    return complaint


def equal_to(base: Run, sentence: str) -> Complaint:
    """Complain, with this sentence, of the same value as that of ``base``."""
    return lambda run: f"{sentence}: {number(run)}" if close(run.value, base.value) else None


def close(left: Tensor | None, right: Tensor | None) -> bool:
    """Equal up to rounding; a change of the batch in generic position is larger than this."""
    if left is None or right is None:
        return False
    return torch.allclose(left.double(), right.double(), rtol=1e-6, atol=1e-7)


def _apart(left: Tensor | None, right: Tensor | None) -> float | None:
    """Largest difference of gradients that are not close; one that is missing is zero."""
    present = left if right is None else right
    if present is None:
        return None
    left = torch.zeros_like(present) if left is None else left
    right = torch.zeros_like(present) if right is None else right
    return None if close(left, right) else (left - right).abs().max().item()


def number(run: Run) -> str:
    return "none" if run.value is None else f"{run.value.item():.9g}"


def in_short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def in_words(error: Exception) -> str:
    """Type and first line of an error; long lines are cut."""
    name, line = type(error).__name__, next(iter(str(error).splitlines()), "")
    if not line:
        return name
    return f"{name}: {line if len(line) <= 160 else line[:157] + '...'}"
