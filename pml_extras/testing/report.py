"""What a check found: records, and the same as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How a loss fared with one promise, or with one case of it."""

    KEPT = "kept"
    REFUSED = "refused"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"

    def __str__(self) -> str:
        return self.value


_WORST_FIRST = (Status.BROKEN, Status.REFUSED, Status.KEPT, Status.NOT_APPLICABLE)


@dataclass(frozen=True)
class Outcome:
    """One case of one promise.

    Args:
        promise: its name, as in :func:`pml_extras.testing.promises`.
        status: kept; refused (a ValueError said that the loss does not do this); broken; or not
            applicable to this loss.
        case: which of the promise's cases, in words.
        batch: dtype, shapes and labels of the batch that shows it.
        expected: what the promise asks for.
        came: what came instead, or the text of the error; may be empty where it was kept.
    """

    promise: str
    status: Status
    case: str = ""
    batch: str = ""
    expected: str = ""
    came: str = ""

    def __str__(self) -> str:
        lines = [f"{self.promise}: {self.status} ({self.case})"]
        lines += [
            f"    {name:<9} {text}"
            for name, text in (
                ("batch", self.batch),
                ("expected", self.expected),
                ("came", self.came),
            )
            if text
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """All outcomes of one loss; ``str(report)`` is a table and then what broke.

    Args:
        subject: name of the loss's class.
        meanings: each promise that was run, in order, with its one-line meaning.
        outcomes: at least one for each of these promises.
    """

    subject: str
    meanings: Mapping[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The cases that broke a promise."""
        return tuple(o for o in self.outcomes if o.status is Status.BROKEN)

    def of(self, promise: str) -> tuple[Outcome, ...]:
        """The cases of one promise.

        Raises:
            ValueError: ``promise`` was not among those that were run.
        """
        if promise not in self.meanings:
            raise ValueError(
                f"promise: expected one of {', '.join(self.meanings)}; got {promise!r}. "
                "Run check_loss with it among `promises`."
            )
        return tuple(o for o in self.outcomes if o.promise == promise)

    def status(self, promise: str) -> Status:
        """The worst status among the cases of one promise."""
        found = {o.status for o in self.of(promise)}
        return next(status for status in _WORST_FIRST if status in found)

    def raise_if_broken(self) -> None:
        """Raise AssertionError with the readable text where any promise is broken."""
        if self.broken:
            raise AssertionError(f"promises are broken.\n{self}")

    def __str__(self) -> str:
        statuses = {name: self.status(name) for name in self.meanings}
        counts = [
            f"{number} {status}"
            for status in Status
            if (number := list(statuses.values()).count(status))
        ]
        width = max((len(name) for name in self.meanings), default=0)
        lines = [f"{self.subject}: {', '.join(counts)}"]
        lines += [
            f"  {_mark(statuses[name]):<14}  {name:<{width}}  {meaning}"
            for name, meaning in self.meanings.items()
        ]
        if self.broken:
            lines += ["", *(str(outcome) for outcome in self.broken)]
        return "\n".join(lines)


def _mark(status: Status) -> str:
    return "BROKEN" if status is Status.BROKEN else str(status)
