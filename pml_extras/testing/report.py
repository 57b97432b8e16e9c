"""What a check found: data, and the same as text."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pml_extras._checks import refuse


class Status(Enum):
    """How a loss fared with one promise, or with one case of it."""

    KEPT = "kept"
    REFUSED = "refused"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"

    def __str__(self) -> str:
        return self.value


_WIDTH = 100  # of a terminal
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
            _wrapped(f"    {name:<9} ", text)
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
        fixes: what usually mends a loss that breaks the promise.
    """

    subject: str
    meanings: Mapping[str, str]
    outcomes: tuple[Outcome, ...]
    fixes: Mapping[str, str] = field(default_factory=dict)

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

    def records(self) -> list[dict[str, str]]:
        """A dictionary of strings for each case: ready for JSON, or for a data frame."""
        return [
            {
                "loss": self.subject,
                "promise": o.promise,
                "status": str(o.status),
                "case": o.case,
                "batch": o.batch,
                "expected": o.expected,
                "came": o.came,
            }
            for o in self.outcomes
        ]

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
            _wrapped(f"  {_MARKS[statuses[name]]:<7}  {name:<{width}}  ", meaning)
            for name, meaning in self.meanings.items()
        ]
        lines += [""] if self.broken else []
        for name in self.meanings:
            alike = grouped(o for o in self.broken if o.promise == name)
            for first, *others in alike:
                also = "; ".join(other.case for other in others)
                lines += [str(first), *([_wrapped("    also      ", also)] if also else [])]
            fix = self.fixes.get(name, "")
            lines += [_wrapped("    usual fix ", fix)] if alike and fix else []
        return "\n".join(lines)


def grouped(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Those of one promise together that expected the same and got the same."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for o in outcomes:
        groups.setdefault((o.promise, o.expected, o.came), []).append(o)
    return list(groups.values())


_MARKS = {
    Status.KEPT: "kept",
    Status.REFUSED: "refused",
    Status.BROKEN: "BROKEN",
    Status.NOT_APPLICABLE: "n/a",
}
_CELLS = {
    Status.KEPT: "kept",
    Status.REFUSED: "refused",
    Status.BROKEN: "**BROKEN**",
    Status.NOT_APPLICABLE: "",
}


def table(reports: Iterable[Report]) -> str:
    """Losses by promises, in Markdown; an empty cell is a promise that does not apply.

    Raises:
        ValueError: the reports are of other promises each.
    """
    reports = list(reports)
    columns = list(reports[0].meanings) if reports else []
    if any(list(report.meanings) != columns for report in reports):
        raise refuse("reports", "the same promises in each", "different ones")
    rows = [[f"`{r.subject}`", *(_CELLS[r.status(name)] for name in columns)] for r in reports]
    broken = [sum(r.status(name) is Status.BROKEN for r in reports) for name in columns]
    return as_markdown(["Loss", *columns], [*rows, ["broken by", *map(str, broken)]])


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _wrapped(head: str, text: str) -> str:
    """Text behind its head; further lines begin where the text began."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
