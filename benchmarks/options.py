"""What several commands of the command line share: options, and mistakes that end with exit 2."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer

Root = Annotated[
    Path | None,
    typer.Option(help="Folder with the data sets; else PML_EXTRAS_DATA, else a download."),
]
Results = Annotated[Path, typer.Option(help="Folder with one JSON lines file a data set.")]


def known(
    option: str,
    name: str,
    names: Sequence[str] | Mapping[str, Any],
    where: str = "`python -m benchmarks list`",
) -> None:
    """Refuse a name that is none of the known ones."""
    if name not in names:
        near = get_close_matches(name, list(names), n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(
            f"{option}: expected one of {', '.join(names)}; got {name!r}.{meant} "
            f"{where} shows them."
        )


def fail(error: ValueError) -> NoReturn:
    """Say what is wrong, and end with exit 2."""
    said = str(error).rstrip().rpartition("\nValueError: ")[2]  # a worker's comes with a traceback
    typer.echo(f"Error: {said}", err=True)
    raise typer.Exit(2)


def device_of(name: str) -> torch.device:
    """By its name; auto is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(
            f"--device: expected a device of this machine; got {name!r} ({error}). Try cpu."
        ) from error
    return device
