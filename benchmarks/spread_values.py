"""``--seeds 0 1 2``: an option that takes many values, named once."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

MANY = ("--seeds", "--recipes", "--dataset", "--readme", "--rows", "--losses")


class SpreadValues(TyperCommand):
    """``--seeds 0 1 2`` for ``--seeds 0 --seeds 1 --seeds 2``; no command has other arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(args: Sequence[str]) -> list[str]:
    """Repeat an option that takes many values before each of them.

    >>> spread(["--seeds", "0", "1", "--nmi"])
    ['--seeds', '0', '--seeds', '1', '--nmi']
    """
    out: list[str] = []
    many = ""
    for argument in args:
        if argument.startswith("-"):
            many = argument if argument in MANY else ""
        elif many and out[-1] != many:
            out.append(many)
        out.append(argument)
    return out
