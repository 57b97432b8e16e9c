"""Everything that is made of the results files."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.protocols import QUICK
from benchmarks.records import Record, path_of, read, read_costs, read_evaluation, read_field
from benchmarks.reporting import cost_page, cost_plots, costs, plots, smooth_ap, tables, text_sheet
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
    """Tables that no single data set makes, by name of their place: costs, and what there is."""
    measured = costs.newest(read_costs(folder))
    runs = {name: read(folder, name) for name in costs.OVERVIEW_DATASETS}
    selections = [select(name, found) for name, found in runs.items() if found]
    made = {
        "what": costs.overview_table(measured, selections),
        "cost": costs.cost_table(measured, costs.README_ROWS),
        "attention": costs.attention_table(measured),
        "ensemble_cost": costs.ensemble_table(measured),
        "pooling_cost": costs.pooling_table(measured),
    }
    return {name: text for name, text in made.items() if text}


def whole_pages(folder: Path) -> dict[Path, str]:
    """Text of the pages that are written as a whole."""
    text = cost_page.page(*_costs_by_device(folder), read_field(folder), read_evaluation(folder))
    pages = {DOCS / "cost.md": text}
    if smooth_ap.can_be_made():
        pages[DOCS / "smooth_ap.md"] = smooth_ap.page()
    return pages


def draw_costs(folder: Path, output: Path) -> list[Path]:
    """Write the pictures of the page of costs and return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    drawn = []
    for part in cost_page.parts(*_costs_by_device(folder)):
        cost_plots.by_rows(part.costs, part.title, output / part.picture)
        drawn.append(output / part.picture)
    return drawn


def _costs_by_device(folder: Path) -> tuple[list[Record], list[Record]]:
    return read_costs(folder), read_costs(folder, "cuda")


def draw(selection: Selection, folder: Path) -> list[Path]:
    """Write all pictures of a data set and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    first = "forest" if selection.evaluated_once else "curves"
    curves, sheet, parts = (
        folder / f"{selection.name}_{name}.png" for name in (first, "neighbours", "losses")
    )
    if selection.evaluated_once:
        plots.forest(selection, curves)
    else:
        plots.learning_curves(selection, curves)
    if text_sheet.has_texts(selection):
        text_sheet.text_sheet(selection, sheet)
    else:
        plots.contact_sheet(selection, sheet)
    drawn = plots.loss_statistics(selection, parts)
    return [curves, sheet, *([parts] if drawn else [])]
