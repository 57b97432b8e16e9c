"""docs/cost.md and its picture; docs/smooth_ap.md; when any page is not current."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from benchmarks import command_line
from benchmarks.cost_losses import PAIRS
from benchmarks.records import RESULTS, append_line, path_of_costs
from benchmarks.reporting import cost_page, cost_plots, costs, report, smooth_ap
from pml_extras.losses import SmoothAPLoss
from tests.benchmarks.cost_records import record
from tests.oracles import ranking

CUBIC = [record("PNPLoss", "theirs", rows, 1.0, rows**3 / 2**14) for rows in (64, 128, 256)]
SQUARE = [record("PNPLoss", "ours", rows, 1.0, rows**2 / 2**12) for rows in (64, 128, 256)]


@given(st.integers(6, 12), st.integers(1, 3), st.floats(0.25, 2.0))
def test_a_whole_power_is_found_and_fills_the_budget(log: int, power: int, scale: float) -> None:
    rows = 2**log
    peaks = {n: scale * (n / rows) ** power for n in (rows // 4, rows // 2, rows)}
    found = cost_page.growth(peaks)
    assert found == pytest.approx(power)
    (most,) = cost_page.largest_batch(rows, peaks[rows], found)
    assert scale * (most / rows) ** power <= cost_page.BUDGET_MIB
    assert scale * (1.11 * most / rows) ** power > cost_page.BUDGET_MIB
    assert len(str(most).rstrip("0")) <= 2


def test_the_growth_is_that_of_the_last_two_steps_and_linear_at_least() -> None:
    assert cost_page.growth({64: 1.0, 128: 8.0, 256: 8.0, 512: 128.0}) == pytest.approx(2)
    assert cost_page.growth({128: 8.0, 64: 1.0}) == pytest.approx(3)
    assert cost_page.growth({64: 4.0, 128: 9.0, 256: 2.0}) == 1.0
    assert cost_page.growth({64: 1.0, 256: 16.0}) == pytest.approx(2)  # by rows, not by steps
    assert cost_page.growth({64: 1.0}) is None


def test_a_power_between_two_whole_ones_gives_a_range_and_noise_does_not() -> None:
    budget = cost_page.BUDGET_MIB
    assert cost_page.largest_batch(1000, budget / 16, 1.5) == [4000, 6300]
    assert cost_page.largest_batch(1000, budget / 16, 2.05) == [3800]
    assert cost_page.largest_batch(1024, budget, 2.0) == [1024]  # measured, so not rounded down


def test_a_batch_of_8_gb_has_a_line_for_each_side_that_was_measured() -> None:
    known = [*CUBIC, *SQUARE, record("NTXentLoss", "ours", 64, 1.0, None)]
    lines = cost_page.largest_batches(costs.newest(known)).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["`PNPLoss`", "256 rows, 16 MiB", "rows^2.00", "5,500"],
        ["pml: PNPLoss", "256 rows, 1,024 MiB", "rows^3.00", "500"],
    ]
    (alone,) = cost_page.largest_batches(costs.newest(SQUARE[:1])).splitlines()[2:]
    assert alone.count(cost_page.MISSING) == 2


def test_sections_appear_where_something_was_measured() -> None:
    text = cost_page.page(SQUARE, [])
    assert re.findall("^## .*", text, re.M) == ["## CPU, float32", "## CUDA"]
    assert "no figure of a GPU exists" in text
    assert "(100 classes)" not in text
    assert "in chunks" not in text
    assert "Measured on cpu, 2 threads; torch 9.8, pml 7.6." in text
    half = [{**r, "dtype": "bfloat16"} for r in SQUARE]
    others = [
        record("large_batch", "one_pass", 512, 1.0, 1.0),
        record("attention", "fused", 64, 1.0, 1.0),
    ]
    text = cost_page.page([*SQUARE, *others], [*half, *SQUARE, *others])
    assert re.findall("^##+ .*", text, re.M) == [
        "## CPU, float32",
        "### Largest batch in 8 GB",
        "### Large batches in chunks",
        "## CUDA, float32",
        "### Largest batch in 8 GB",
        "### Large batches in chunks",
        "### Attention",
        "## CUDA, bfloat16",
        "### Largest batch in 8 GB",
    ]
    pictures = ["cost.png", "cost_cuda.png", "cost_cuda_bfloat16.png"]
    assert re.findall(r"\(figures/(.*)\)", text) == pictures
    assert "no figure of a GPU" not in text


def test_older_labels_are_explained_where_they_are_shown() -> None:
    older = [{k: v for k, v in r.items() if k != "classes"} for r in SQUARE]
    text = cost_page.page(older, [])
    assert '**"(100 classes)"** is an older measurement' in text
    assert text.count("`PNPLoss` (100 classes)") == 2


def test_each_measured_loss_has_a_panel_of_time_and_one_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **named: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    names = list(PAIRS)[:5]
    records = [record(name, "ours", rows, 2.0, 3.0) for name in names for rows in (64, 128)]
    records += [record("product", "floor", 64, 5.0, None), *CUBIC]
    cost_plots.by_rows(costs.newest(records), "CPU", tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    panels = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == names * 2
    pnp = {
        axis: list(axis.get_lines()) for axis in panels if axis.get_title(loc="left") == "PNPLoss"
    }
    time, memory = ({str(line.get_label()): line for line in lines} for lines in pnp.values())
    assert list(time) == ["X @ X.T, then S @ X", "pml's nearest", "ours"]
    assert list(memory) == ["pml's nearest", "ours"]
    assert list(memory["pml's nearest"].get_xydata()[2]) == [256, 1024]
    assert list(time["ours"].get_ydata()) == [2.0, 2.0]
    assert all(axis.get_xscale() == axis.get_yscale() == "log" for axis in panels)


def test_a_page_that_is_missing_or_changed_by_hand_is_not_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for r in SQUARE:
        append_line(path_of_costs(tmp_path), r)
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "PAGES", ())
    monkeypatch.setattr(smooth_ap, "can_be_made", lambda: False)
    pages = [tmp_path / "cost.md", tmp_path / "claims.md"]
    assert command_line._overview(tmp_path, check=True) == [str(page) for page in pages]
    assert not any(page.exists() for page in pages)
    assert command_line._overview(tmp_path, check=False) == []
    for picture in ("cost.png", "potential_field.png"):
        assert (tmp_path / "figures" / picture).is_file()
    assert command_line._overview(tmp_path, check=True) == []
    for page, old, new in zip(pages, ("16 MiB", "67.2"), ("15 MiB", "67.3"), strict=True):
        text = page.read_text()
        page.write_text(text.replace(old, new))
        assert command_line._overview(tmp_path, check=True) == [str(page)]
        page.write_text(text)


def test_committed_pages_are_those_of_the_records() -> None:
    for path, text in report.whole_pages(RESULTS).items():
        assert path.read_text() == text, f"run `python -m benchmarks report`: {path}"
        for picture in re.findall(r"\((figures/.*?)\)", text):
            assert (path.parent / picture).is_file()


@pytest.mark.parametrize("batch", smooth_ap.BATCHES, ids=lambda batch: batch.title)
def test_the_loops_of_the_page_and_our_loss_are_the_equation(batch: smooth_ap.Batch) -> None:
    rows, labels = batch.rows()
    x = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64))
    sides = ranking.of_classes(labels)
    expected = torch.stack(ranking.smooth_ap(x @ x.T, sides, smooth_ap.TEMPERATURE)).mean()
    assert smooth_ap.equation(rows, labels) == pytest.approx(float(expected), rel=1e-12)
    ours = SmoothAPLoss(temperature=smooth_ap.TEMPERATURE)(x, torch.tensor(labels))
    assert float(ours) == pytest.approx(float(expected), rel=1e-10)
    assert 0.05 < expected < 0.95


@pytest.mark.skipif(not smooth_ap.can_be_made(), reason=f"the page is about pml {smooth_ap.PML}")
def test_pml_has_the_value_of_the_equation_on_one_batch_of_the_page_alone() -> None:
    first, *others = map(smooth_ap.values, smooth_ap.BATCHES)
    assert first["theirs"] == pytest.approx(first["equation"], abs=1e-6)
    refused = [found["theirs"] for found in others if found["theirs"] is None]
    assert len(refused) == 1
    for found in others:
        assert found["theirs"] is None or abs(found["theirs"] - found["equation"]) > 0.05
    assert others[0]["equation"] == pytest.approx(first["equation"], rel=1e-12)  # shuffled
    (shuffled,) = (line for line in smooth_ap.page().splitlines() if "the same, shuffled" in line)
    for name in ("equation", "ours", "theirs"):
        assert f" {others[0][name]:.4f} " in shuffled
