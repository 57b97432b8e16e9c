"""Pictures show the numbers of the records: looked at by their lines, not by their pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.datasets import Data
from benchmarks.plane import CLASSES, PER_CLASS, plane
from benchmarks.records import Record
from benchmarks.reporting import curves, forest, pictures, plane_picture, report
from benchmarks.reporting.selection import Selection, select
from tests.benchmarks.few_features import few_features

MadeUp = Callable[..., Record]
PML = ("contrastive", "triplet_semihard", "multi_similarity", "proxy_anchor", "normalized_softmax")


def axes_of(
    module: Any, draw: Callable[[Selection, Path], None], selection: Selection, path: Path
) -> list[Axes]:
    """What was drawn."""
    made: list[Figure] = []

    class Watched(Figure):
        def savefig(self, *arguments: Any, **named: Any) -> None:
            super().savefig(*arguments, **named)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Figure", Watched)
        draw(selection, path)
    assert path.stat().st_size > 5_000
    return made[0].axes


def rows(made_up: MadeUp, dataset: str = "digits", **recalls: list[float]) -> Selection:
    return select(
        dataset,
        [
            made_up(recipe, seed, recall, dataset)
            for recipe, values in recalls.items()
            for seed, recall in enumerate(values)
        ],
    )


def test_the_forest_has_the_paired_differences_to_the_reference(
    made_up: MadeUp, tmp_path: Path
) -> None:
    selection = rows(
        made_up,
        potential_field=[0.50, 0.60, 0.70],
        contrastive=[0.52, 0.63, 0.74],
        untrained=[0.10, 0.20],
    )
    recall, precision = axes_of(forest, forest.forest, selection, tmp_path / "x.png")
    titles = [label.get_text() for label in recall.get_yticklabels()]
    assert titles == ["Contrastive", "Untrained trunk"]
    assert recall.get_ylim()[0] > recall.get_ylim()[1]  # the first one on top
    (bar, floor), (finer, _) = (axis.containers for axis in (recall, precision))
    # .02, .03, .04: mean 3 points, half 4.302653 * 1 / sqrt(3) = 2.484; MAP@R is half of it
    for container, mean, half in ((bar, 3.0, 2.484), (finer, 1.5, 1.242)):
        line, _, (error,) = container.lines
        assert line.get_xdata() == pytest.approx([mean])
        assert error.get_segments()[0][:, 0] == pytest.approx([mean - half, mean + half], abs=1e-3)
    assert floor.lines[0].get_xdata() == pytest.approx([-40.0])
    dots = [line.get_xdata() for line in recall.get_lines() if len(line.get_xdata()) == 3]
    assert dots == [pytest.approx([2.0, 3.0, 4.0])]
    assert "more than Potential field, 15 proxies" in recall.get_title(loc="left")


def test_a_row_alone_has_no_forest(made_up: MadeUp) -> None:
    names = [picture.name for picture in pictures.pictures_of(rows(made_up, ibc=[0.5, 0.6]))]
    assert names == ["curves", "neighbours", "losses"]
    both = rows(made_up, ibc=[0.5], contrastive=[0.6])
    assert pictures.pictures_of(both)[0].name == "forest"


def test_each_trained_row_stands_out_in_one_panel_of_few_and_is_grey_in_the_others(
    made_up: MadeUp, tmp_path: Path
) -> None:
    recalls = {name: [0.5 + place / 100, 0.6] for place, name in enumerate(PML)}
    selection = rows(made_up, **recalls, untrained=[0.1, 0.1])
    axes = axes_of(curves, curves.learning_curves, selection, tmp_path / "x.png")
    assert len(axes) == 2 * 2  # of two metrics, 5 rows by at most 4
    named = []
    for axis in axes[:2]:
        lines = [line for line in axis.get_lines() if len(line.get_xdata()) > 2]
        assert len(lines) == len(PML)
        grey = [line for line in lines if line.get_color() == curves.BEHIND]
        shown = [line for line in lines if line.get_color() != curves.BEHIND]
        assert 1 <= len(shown) <= curves.A_PANEL
        assert len(grey) == len(PML) - len(shown)
        named += [line.get_label() for line in shown]
        for line in shown:
            assert list(line.get_xdata()) == [0, 50, 100, 150]
    assert named == [method.title for method in selection.methods[:-1]]
    first = next(line for line in axes[0].get_lines() if line.get_label() == named[0])
    assert first.get_ydata() == pytest.approx([0.55] * 4)  # mean over seeds of .5 and .6
    assert [axis.get_title(loc="left") for axis in axes] == ["Recall@1", "", "MAP@R", ""]


def test_a_floor_alone_has_curves_too(made_up: MadeUp, tmp_path: Path) -> None:
    selection = rows(made_up, untrained=[0.25])
    recall, precision = axes_of(curves, curves.learning_curves, selection, tmp_path / "x.png")
    assert set(recall.get_lines()[0].get_ydata()) == {0.25}
    assert set(precision.get_lines()[0].get_ydata()) == {0.125}


def test_the_plane_keeps_distances_of_embeddings_that_lie_in_one(few: Data) -> None:
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(len(few.test.labels), 2, generator=generator)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=generator)).Q[:2]
    found = plane(few.test, flat @ turn + 3)
    points = torch.tensor(found["points"], dtype=torch.float64)
    kept = torch.cat([(few.test.labels == label).nonzero()[:PER_CLASS, 0] for label in range(5)])
    assert found["variance"] == 1
    assert torch.allclose(torch.cdist(points, points).float(), torch.cdist(flat[kept], flat[kept]),
                          atol=0.05)  # fmt: skip
    assert [found["classes"][place] for place in found["class_idx"]] == [
        few.test.classes[label] for label in few.test.labels[kept].tolist()
    ]


def test_the_plane_holds_few_points_of_few_classes_that_are_spread_out() -> None:
    many = few_features(test=25).test
    found = plane(many, many.images)
    assert found["classes"] == [f"class {8 + 25 * place // CLASSES}" for place in range(CLASSES)]
    assert len(found["points"]) == len(found["class_idx"]) == CLASSES * 8
    assert 0.2 < found["variance"] < 1
    assert plane(many, many.images) == found
    for place, farthest in enumerate(np.abs(found["points"]).argmax(0)):
        assert found["points"][farthest][place] > 0
    assert plane(many, -many.images) == found  # a sign says nothing


@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf])
def test_embeddings_that_collapsed_lie_in_one_point_of_the_plane(value: float) -> None:
    split = few_features().test
    found = plane(split, torch.full_like(split.images, value))
    assert {tuple(point) for point in found["points"]} == {(0.0, 0.0)}
    assert found["variance"] == 1


def test_the_picture_of_a_plane_has_the_points_of_the_first_seed_by_class(
    made_up: MadeUp, tmp_path: Path
) -> None:
    in_a_plane = {
        "classes": ["one", "costs $5 or $6"],
        "class_idx": [0, 0, 1],
        "points": [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]],
        "variance": 0.5,
    }
    other = {**in_a_plane, "points": [[9.0, 9.0]] * 3}
    selection = select(
        "digits",
        [
            made_up("potential_field", 0, 0.5, plane=in_a_plane),
            made_up("potential_field", 1, 0.5, plane=other),
            made_up("contrastive", 0, 0.5),  # an older record
        ],
    )
    (axis,) = axes_of(plane_picture, plane_picture.plane_picture, selection, tmp_path / "x.png")
    found = [line.get_xydata().tolist() for line in axis.get_lines()]
    assert found == [[[0.0, 0.1], [0.2, 0.3]], [[0.4, 0.5]]]
    assert "50% of the variance" in axis.get_title(loc="left")


def test_records_without_a_plane_have_no_such_picture(made_up: MadeUp, tmp_path: Path) -> None:
    drawn = report.draw(rows(made_up, contrastive=[0.5, 0.6], untrained=[0.1]), tmp_path)
    assert [path.name for path in drawn] == [
        f"digits_{kind}.png" for kind in ("forest", "curves", "neighbours", "losses")
    ]
    assert sorted(tmp_path.iterdir()) == sorted(drawn)


def test_the_listing_names_the_files_that_are_drawn(made_up: MadeUp, tmp_path: Path) -> None:
    selection = rows(made_up, contrastive=[0.5, 0.6])
    lines = pictures.listing(selection, "somewhere").splitlines()
    assert lines[0] == "![Learning curves on digits](somewhere/digits_curves.png)"
    assert [line.split("/")[1][:-1] for line in lines] == [
        path.name for path in report.draw(selection, tmp_path)
    ]
