"""The pictures of a table, and their list below it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.reporting import plots, text_sheet
from benchmarks.reporting.curves import learning_curves
from benchmarks.reporting.forest import compared, forest
from benchmarks.reporting.plane_picture import has_plane, plane_picture
from benchmarks.reporting.selection import Selection


class Picture(NamedTuple):
    """One kind of them.

    Args:
        name: end of the file's name.
        title: what it shows.
        has: whether the records of a table can make it.
        draw: makes it.
    """

    name: str
    title: str
    has: Callable[[Selection], bool]
    draw: Callable[[Selection, Path], None]

    def file(self, selection: Selection) -> str:
        """Name of the file of a table."""
        return f"{selection.name}_{self.name}.png"


def _sheet(selection: Selection, path: Path) -> None:
    if text_sheet.has_texts(selection):
        text_sheet.text_sheet(selection, path)
    else:
        plots.contact_sheet(selection, path)


PICTURES = (
    Picture("forest", "Paired differences", lambda of: bool(of.budget and compared(of)[1]), forest),
    Picture("curves", "Learning curves", lambda of: not of.evaluated_once, learning_curves),
    Picture("neighbours", "Nearest neighbours", lambda of: True, _sheet),
    Picture("losses", "Parts of the loss", plots.has_statistics, plots.loss_statistics),
    Picture("plane", "Embeddings in a plane", has_plane, plane_picture),
)


def pictures_of(selection: Selection) -> list[Picture]:
    """Those that its records can make."""
    return [picture for picture in PICTURES if picture.has(selection)]


def listing(selection: Selection, folder: str) -> str:
    """Markdown that shows them, for a page beside this folder."""
    return "\n".join(
        f"![{picture.title} on {selection.name}]({folder}/{picture.file(selection)})"
        for picture in pictures_of(selection)
    )
