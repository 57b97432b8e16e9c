"""Everything that is made of the results files."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.protocols import QUICK
from benchmarks.records import Record, path_of, read, read_costs, read_evaluation, read_field
from benchmarks.reporting import (
    claims_page,
    cost_page,
    cost_plots,
    costs,
    field_picture,
    pictures,
    smooth_ap,
    tables,
)
from benchmarks.reporting.selection import Selection, protocols_of, select

_HERE = Path(__file__).parents[1]
FIGURES = _HERE / "figures"
DOCS = _HERE.parent / "docs"
PAGES = (_HERE / "README.md", _HERE.parent / "README.md")


def datasets_with_results(folder: Path) -> list[str]:
    """Names of the results files, sorted."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def selections_of(folder: Path, dataset: str) -> list[Selection]:
    """Comparable runs of a data set, one selection for each protocol.

    Raises:
        ValueError: no run is finished.
    """
    try:
        records = read(folder, dataset)
        names = protocols_of(records) or [QUICK.name]
        return [select(dataset, records, name) for name in names]
    except ValueError as error:
        raise ValueError(f"{path_of(folder, dataset)}: {error}") from error


def pages_of(dataset: str, named: Sequence[Path] = ()) -> list[Path]:
    """Pages with a place for this table: those named, or else the two READMEs that have one.

    Raises:
        ValueError: a named page has no place for it.
    """
    for path in named:
        if not tables.has_place(path, dataset):
            raise ValueError(
                f"--readme: expected {path} to hold `<!-- table:{dataset}:start -->` and then "
                f"`<!-- table:{dataset}:end -->`; got no such pair. Add the two lines."
            )
    return list(named) or [path for path in PAGES if tables.has_place(path, dataset)]


def overview_of(folder: Path) -> dict[str, str]:
    """Tables that no single data set makes, and lists of pictures, by name of their place."""
    measured = costs.newest(read_costs(folder))
    found = _measured(folder)
    selections = [
        found[name, QUICK.name] for name in costs.OVERVIEW_DATASETS if (name, QUICK.name) in found
    ]
    made = {
        "what": costs.overview_table(measured, selections, claims_page.verdicts(found)),
        "cost": costs.cost_table(measured, costs.README_ROWS),
        "attention": costs.attention_table(measured),
        "ensemble_cost": costs.ensemble_table(measured),
        "pooling_cost": costs.pooling_table(measured),
        **{f"{of.name}_pictures": pictures.listing(of, FIGURES.name) for of in found.values()},
    }
    return {name: text for name, text in made.items() if text}


def whole_pages(folder: Path) -> dict[Path, str]:
    """Text of the pages that are written as a whole."""
    text = cost_page.page(*_costs_by_device(folder), read_field(folder), read_evaluation(folder))
    pages = {DOCS / "cost.md": text, DOCS / "claims.md": claims_page.page(_measured(folder))}
    if smooth_ap.can_be_made():
        pages[DOCS / "smooth_ap.md"] = smooth_ap.page()
    return pages


def _measured(folder: Path) -> claims_page.Measured:
    return claims_page.measured(
        [of for name in datasets_with_results(folder) for of in selections_of(folder, name)]
    )


def draw_of_pages(folder: Path, output: Path) -> list[Path]:
    """Write the pictures of the pages that are written as a whole, and return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    drawn = [output / field_picture.FILE]
    field_picture.draw(drawn[0])
    for part in cost_page.parts(*_costs_by_device(folder)):
        cost_plots.by_rows(part.costs, part.title, output / part.picture)
        drawn.append(output / part.picture)
    return drawn


def _costs_by_device(folder: Path) -> tuple[list[Record], list[Record]]:
    return read_costs(folder), read_costs(folder, "cuda")


def draw(selection: Selection, folder: Path) -> list[Path]:
    """Write all pictures of a data set and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for picture in pictures.pictures_of(selection):
        drawn.append(folder / picture.file(selection))
        picture.draw(selection, drawn[-1])
    return drawn
