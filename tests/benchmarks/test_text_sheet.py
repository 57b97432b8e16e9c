"""Neighbours that are texts are printed below their queries, in the colours of the pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from benchmarks.records import Record
from benchmarks.reporting import plots, report
from benchmarks.reporting.plots import INK, RIGHT, WRONG
from benchmarks.reporting.selection import select
from benchmarks.reporting.text_sheet import CHARACTERS

MadeUp = Callable[..., Record]
NEIGHBOURS = {
    "texts": [["a $5 fee or $6_", "two\nlines", "x" * 200], ["who", "where", "when"]],
    "correct": [[True, False], [False, True]],
    "classes": [["fee", "fee", "x"], ["who", "where", "who"]],
}


def printed(
    records: list[Record], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    write = Axes.text

    def watched(axis: Axes, x: float, y: float, text: str, **named: object) -> object:
        found.append((text.strip(), str(named["color"])))
        return write(axis, x, y, text, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Axes, "text", watched)
        report.draw(select("clinc150", records), folder)
    return [line for line in found if line[0]]


def test_queries_stand_above_their_neighbours_and_colours_say_who_is_right(
    tmp_path: Path, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made_up("contrastive", 0, 0.5, dataset="clinc150", neighbours=NEIGHBOURS)
    assert printed([record], tmp_path, monkeypatch) == [
        ("a $5 fee or $6_", INK),
        ("two lines", RIGHT),
        ("x" * (CHARACTERS - 1) + "…", WRONG),
        ("who", INK),
        ("where", WRONG),
        ("when", RIGHT),
    ]
    assert (tmp_path / "clinc150_neighbours.png").is_file()


def test_features_without_texts_show_their_classes(
    tmp_path: Path, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {name: NEIGHBOURS[name] for name in ("correct", "classes")}
    record = made_up("contrastive", 0, 0.5, dataset="clinc150", neighbours=without)
    lines = printed([record], tmp_path, monkeypatch)
    assert [text for text, _ in lines] == ["fee", "fee", "x", "who", "where", "who"]


def test_pictures_stay_pictures(
    tmp_path: Path, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(plots, "contact_sheet", lambda selection, path: drawn.append(path))
    assert printed([made_up("contrastive", 0, 0.5)], tmp_path, monkeypatch) == []
    assert [path.name for path in drawn] == ["clinc150_neighbours.png"]
