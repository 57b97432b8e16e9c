"""A search on image files looks at training classes alone, as one on images in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.datasets import DATASETS, Dataset, ImageFiles
from benchmarks.datasets.folds import folds, training_half
from benchmarks.protocols import REALITY_CHECK
from benchmarks.recipes import RECIPES
from benchmarks.records import read
from benchmarks.run import run
from benchmarks.search import search
from tests.benchmarks import miniatures
from tests.benchmarks.image_runs import SMALL
from tests.benchmarks.miniatures import IMAGES, MINIATURES

pytestmark = pytest.mark.usefixtures("tiny")
CPU = torch.device("cpu")
CLASSES = 8  # of each half: two of them validate in each of four folds
CHECK = replace(REALITY_CHECK, trials=2, folds=2)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Root of a miniature with more classes, in place of its data set."""

    def make(name: str) -> Path:
        monkeypatch.setattr(miniatures, "CLASSES", CLASSES)
        miniature = MINIATURES[name]
        counts = dict.fromkeys(miniature.official.counts, (CLASSES, CLASSES * IMAGES))
        official = replace(miniature.official, counts=counts)
        monkeypatch.setitem(DATASETS, name, Dataset.of(official))
        miniature.make(tmp_path / name)
        return tmp_path / name

    return make


def loaded(name: str, root: Path) -> ImageFiles:
    data = DATASETS[name].load(root)
    assert isinstance(data, ImageFiles)
    return data


@pytest.mark.parametrize("name", ["cub", "in_shop"])
def test_each_training_file_validates_in_one_fold_and_trains_in_the_others(
    name: str, large: Callable[[str], Path]
) -> None:
    data = loaded(name, large(name))
    validating: list[str] = []
    for fold in range(4):
        whole, part = folds(data, 4, fold), training_half(data, 4, fold)
        assert isinstance(part, ImageFiles)
        assert whole.validation is not None
        assert (whole.test, whole.gallery) == (data.test, data.gallery)  # the same objects
        assert (part.validation, part.gallery) == (None, None)
        assert (whole.train.paths, whole.validation.paths) == (part.train.paths, part.test.paths)
        assert sorted((*part.train.paths, *part.test.paths)) == sorted(data.train.paths)
        for files in (part.train, part.test):
            for path, label in zip(files.paths, files.labels.tolist(), strict=True):
                before = data.train.labels[data.train.paths.index(path)]
                assert data.train.classes[before] == files.classes[label]
        validating += part.test.paths
    assert sorted(validating) == sorted(data.train.paths)


def test_a_search_opens_no_test_picture_and_is_the_same_for_any_number_of_workers(
    large: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = loaded("in_shop", large("in_shop"))
    assert data.gallery is not None
    given: list[int] = []

    def spied(*arguments: Any, workers: int, **named: Any) -> Any:
        given.append(workers)
        return run(*arguments, workers=workers, **named)

    monkeypatch.setattr("benchmarks.search.run", spied)
    for path in (*data.test.paths, *data.gallery.paths):
        Path(path).write_bytes(b"")
    found = [
        search(
            *(RECIPES["proxy_anchor"], data, SMALL, CHECK, tmp_path / str(workers)),
            device=CPU,
            workers=workers,
        )
        for workers in (0, 1)
    ]
    assert found[0] == found[1]
    assert (found[0].trials, found[0].failed) == (2, {})
    assert given == [0] * 4 + [1] * 4  # two trials of two folds


def test_the_reality_check_of_image_files_searches_and_runs_every_seed(
    on_the_command_line: Callable[..., tuple[int, str]],
    large: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    command = ["--protocol", "reality-check", "--trials", 2, "--seeds", 0, 1, "--workers", 0]
    code, said = on_the_command_line(
        *command, "--recipes", "proxy_anchor", "untrained", root=large("cub")
    )
    assert code == 0, said
    assert "proxy_anchor: 2 trials, MAP@R " in said
    records = read(tmp_path / "results", "cub")
    assert [(record["recipe"], record["seed"]) for record in records] == [
        ("proxy_anchor", 0), ("proxy_anchor", 1), ("untrained", 0), ("untrained", 1),
    ]  # fmt: skip
    found = records[0]["settings"]["protocol"]["found"]
    assert set(found) == {*RECIPES["proxy_anchor"].space, "budget.epochs"}
    assert records[0]["settings"]["budget"]["backbone"]["name"] == "resnet18"
    few = on_the_command_line(*command, "--recipes", "proxy_anchor", name="sop")
    assert (few[0], "k: expected 2 to" in few[1]) == (2, True), few[1]
