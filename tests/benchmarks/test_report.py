"""The report is a function of the records, and the committed tables are that function's value."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner, Result

from benchmarks.command_line import app
from benchmarks.datasets import DATASETS
from benchmarks.recipes import RECIPES
from benchmarks.records import RESULTS, Record, append, path_of
from benchmarks.reporting import pictures, plots, report, tables
from benchmarks.reporting.selection import select

MISSING = "\N{EN DASH}"
MadeUp = Callable[..., Record]
PLACE = "before\n<!-- table:digits:start -->\nold\n<!-- table:digits:end -->\nafter\n"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *(str(argument) for argument in arguments)])


def cells(text: str, title: str) -> list[str]:
    """Of the first row that starts with this title."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_interval_is_that_of_a_calculation_by_hand() -> None:
    # mean 4, squared deviations 4 + 1 + 9, s^2 = 14 / 2; t at .975 with 2 degrees: 4.302653
    mean, half = tables.interval([2.0, 3.0, 7.0])
    assert mean == 4.0
    assert half == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert tables.interval([2.0]) == (2.0, None)


def test_the_table_shows_means_intervals_and_costs(made_up: MadeUp) -> None:
    records = [made_up("contrastive", seed, r) for seed, r in enumerate((0.70, 0.74))]
    records.append(made_up("untrained", 0, 0.5))
    text = tables.table(select("digits", records))
    # half: 12.7062 (t with 1 degree) * s / sqrt(2) = 12.7062 * 2.8284 / 1.4142 = 25.4
    assert cells(text, "Contrastive")[1] == "72.0 ± 25.4"
    assert cells(text, "Contrastive")[-2:] == ["12", "900"]
    assert cells(text, "Untrained trunk (seeds 0 only)")[1:] == [
        *["50.0"] * 4,
        "25.0",
        "25.0",
        MISSING,
        MISSING,
    ]
    assert "Embedding size 128, batch 20 (5 classes x 4)" in text
    assert "2 seeds (0, 1)" in text


def test_differences_are_paired_by_seed(made_up: MadeUp) -> None:
    records = [made_up("contrastive", seed, r) for seed, r in enumerate((0.30, 0.60, 0.9))]
    records += [made_up("proxy_anchor", seed, r) for seed, r in ((2, 0.92), (0, 0.32), (1, 0.62))]
    records.append(made_up("proxy_anchor", 7, 0.1))  # a seed that Contrastive has not
    text = tables.table(select("digits", records)).split("Difference to Contrastive")[1]
    assert cells(text, "Proxy Anchor")[1:] == ["+2.0 ± 0.0", "+1.0 ± 0.0"]


def test_rows_are_compared_with_the_best_of_those_that_the_table_names(made_up: MadeUp) -> None:
    recalls = {
        "ensemble_simplex": (0.80, 0.92),
        "classification": (0.70, 0.70),
        "binomial_deviance": (0.60, 0.90),
        "smoothed_proxy_nca": (0.99,),
    }
    records = [
        made_up(recipe, seed, recall, "omniglot_ensemble")
        for recipe, values in recalls.items()
        for seed, recall in enumerate(values)
    ]
    text = tables.table(select("omniglot_ensemble", records))
    head, difference = text.split("Difference to ")
    assert difference.startswith(
        "Binomial deviance, of 2 the best by mean Recall@1 in the table above (a choice by these "
        "very results, which favours it) on the same seeds, in points"
    )
    # +20 and +2: mean 11, half 12.7062 * 9
    assert cells(difference, "Ensemble of losses")[1] == "+11.0 ± 114.4"
    assert cells(difference, "Classification")[1] == "-5.0 ± 190.6"
    assert "| Binomial deviance" not in difference.split("|\n\n")[0]
    assert "| Binomial deviance" in head


def test_panels_of_several_losses_share_one_legend(tmp_path: Path, made_up: MadeUp) -> None:
    """A loss that has no line in the first panel is in it too."""
    records = [made_up("contrastive", 0, 0.5), made_up("proxy_anchor", 0, 0.5)]
    for point in records[1]["curve"][1:]:
        point["statistics"] = {"weight_proxy_nca": 0.5}
    legends: list[list[str]] = []

    class Watched(Figure):
        def legend(self, handles: Any, labels: Any, **named: Any) -> Any:
            legends.append(list(labels))
            return super().legend(handles, labels, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "Figure", Watched)
        plots.loss_statistics(select("digits", records), tmp_path / "x.png")
    assert legends == [["Contrastive", "Proxy Anchor"]]


def test_the_table_says_what_chose_the_epoch(made_up: MadeUp) -> None:
    def of(recipe: str, seed: int, **changed: object) -> Record:
        return made_up(recipe, seed, 0.5 + 0.1 * seed, "omniglot_validation", **changed)

    records = [
        of(recipe, seed, selected_on="test" if recipe == "ibc_released" else "validation")
        for recipe in ("contrastive", "ibc_released", "ibc_auxiliary", "ibc")
        for seed in (0, 1)
    ]
    text = tables.table(select("omniglot_validation", records))
    assert "radam with weight decay 6.06e-06" in text
    assert "Metrics of the test classes at the epoch that validation classes chose, in %" in text
    assert "Difference to Intra-batch connections (IBC) on the same seeds" in text
    released = "IBC, released recipe (selected on the test classes)"
    assert text.split("\n\n")[-1].startswith(f"{released}: each run is reported at the epoch with")
    older = tables.table(select("digits", [made_up("contrastive", 0, 0.5)]))
    assert "Metrics of the test classes after the last epoch, in %" in older
    assert "selected on the test classes" not in older


def test_another_budget_and_older_settings_are_left_out_and_named(made_up: MadeUp) -> None:
    new = [made_up("contrastive", 0, 0.7), made_up("untrained", 0, 0.5)]
    other = made_up("proxy_anchor", 0, 0.9)
    settings = other["settings"]
    other["settings"] = {**settings, "budget": {**settings["budget"], "epochs": 99}}
    older = made_up("contrastive", 1, 0.1, settings_hash="0" * 12)
    text = tables.table(select("digits", [other, older, *new]))
    assert "Proxy Anchor" not in text
    assert cells(text, "Contrastive")[1] == "70.0"
    assert "Left out: 1 runs under another budget." in text
    assert "Contrastive: newest settings; 1 older runs left out." in text


def test_the_report_needs_the_records_alone_and_gives_the_same_bytes_twice(
    tmp_path: Path, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the report loads no data")

    monkeypatch.setattr("benchmarks.datasets.digits.load_digits", forbidden)
    for recipe in ("potential_field", "contrastive", "untrained"):
        for seed in (0, 1):
            append(tmp_path, made_up(recipe, seed, 0.5 + 0.1 * seed))
    page = tmp_path / "page.md"
    page.write_text(PLACE)
    written: list[dict[str, bytes]] = []
    for output in (tmp_path / "a", tmp_path / "b"):
        done = call("--results", tmp_path, "--readme", page, "--output", output)
        assert done.exit_code == 0, done.output
        written.append({path.name: path.read_bytes() for path in sorted(output.iterdir())})
        written[-1]["page"] = page.read_bytes()
    assert list(written[0]) == [
        *(f"digits_{kind}.png" for kind in ("curves", "forest", "losses", "neighbours")),
        "page",
    ]
    assert written[0] == written[1]
    for path in (tmp_path / "a").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300


def test_every_method_has_a_colour_of_its_own() -> None:
    assert set(plots.COLOURS) == set(RECIPES)
    assert len(set(plots.COLOURS.values())) == len(RECIPES)


def test_the_table_goes_between_the_markers_and_check_sees_a_change(
    tmp_path: Path, made_up: MadeUp
) -> None:
    append(tmp_path, made_up("contrastive", 0, 0.5))
    page = tmp_path / "page.md"
    page.write_text(PLACE)
    where = ("--results", tmp_path, "--readme", page)
    assert call(*where, "--check").exit_code == 1
    assert page.read_text() == PLACE
    assert call(*where, "--output", tmp_path / "figures").exit_code == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- table:digits:start -->\n")
    assert text.endswith("<!-- table:digits:end -->\nafter\n")
    assert "old" not in text
    assert call(*where, "--check").exit_code == 0
    page.write_text(text.replace("50.0", "50.1", 1))
    found = call(*where, "--check")
    assert found.exit_code == 1
    assert "page.md (digits)" in found.output


def test_a_page_without_a_place_is_an_error(tmp_path: Path, made_up: MadeUp) -> None:
    append(tmp_path, made_up("contrastive", 0, 0.5))
    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    found = call("--results", tmp_path, "--readme", page)
    assert found.exit_code == 2
    assert "--readme: expected" in found.output


@pytest.mark.parametrize("dataset", DATASETS)
def test_committed_tables_are_those_of_the_committed_records(dataset: str) -> None:
    if not path_of(RESULTS, dataset).is_file():
        pytest.skip(f"no results of {dataset} are committed")
    for selection in report.selections_of(RESULTS, dataset):
        name, text = selection.name, tables.table(selection)
        pages = report.pages_of(name)
        assert report.PAGES[0] in pages
        for page in pages:
            assert tables.is_current(page, name, text), f"run `python -m benchmarks report`: {page}"


def test_committed_costs_and_overview_are_those_of_the_committed_records() -> None:
    overview = report.overview_of(RESULTS)
    assert set(overview) >= {"what", "cost"}
    for name, text in overview.items():
        pages = report.pages_of(name)
        assert pages, name
        assert report.PAGES[1] in pages or name not in ("what", "cost")
        for page in pages:
            assert tables.is_current(page, name, text), f"run `python -m benchmarks report`: {page}"


def test_committed_pictures_are_those_that_the_committed_records_make() -> None:
    expected = {
        picture.file(selection)
        for name in report.datasets_with_results(RESULTS)
        for selection in report.selections_of(RESULTS, name)
        for picture in pictures.pictures_of(selection)
    }
    of_records = re.compile(rf".*_({'|'.join(picture.name for picture in pictures.PICTURES)})\.png")
    found = {path.name for path in report.FIGURES.iterdir() if of_records.fullmatch(path.name)}
    assert found == expected, "run `python -m benchmarks report`"


def test_the_committed_page_of_the_long_runs_is_that_of_its_records() -> None:
    folder = RESULTS / "long"
    (selection,) = report.selections_of(folder, "omniglot")
    text = tables.table(selection)
    assert tables.is_current(folder / "README.md", "omniglot", text)
