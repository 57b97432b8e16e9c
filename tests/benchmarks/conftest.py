"""Small budgets, and records that no training made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.backbones import TORCHVISION
from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data, Dataset, ImageFiles
from benchmarks.neighbours import nearest
from benchmarks.recipes import BUDGETS, RECIPES, Budget, digest
from benchmarks.records import Record
from tests.benchmarks.few_digits import few_digits
from tests.benchmarks.image_runs import SMALL, Tiny
from tests.benchmarks.miniatures import MINIATURES

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def digits() -> Data:
    return DATASETS["digits"].load(None)


@pytest.fixture(scope="session")
def few() -> Data:
    return few_digits()


@pytest.fixture(scope="session")
def parted(few: Data) -> Data:
    """The same with two of the training classes to select on."""
    return Data(
        "parted",
        train=few.train.only(lambda name: name in "012"),
        test=few.test,
        validation=few.train.only(lambda name: name in "34"),
    )


@pytest.fixture
def budget() -> Budget:
    return Budget(epochs=2, iterations=2, batch_size=20, images_per_class=4)


@pytest.fixture(scope="session")
def picture(digits: Data) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(digits.test.labels), 8, generator=generator)
    return nearest(digits.test, torch.nn.functional.normalize(embeddings))


@pytest.fixture
def made_up(picture: dict[str, Any]) -> Callable[..., Record]:
    """A record with the given recipe, seed and Recall@1; its other numbers follow from them."""

    def make(
        recipe: str, seed: int, recall: float, dataset: str = "digits", **changed: Any
    ) -> Record:
        budget = BUDGETS[dataset]
        settings = RECIPES[recipe].settings(dataset, budget)
        trained = RECIPES[recipe].loss is not None
        epochs = np.arange(budget.epochs + 1) if trained else np.zeros(1)
        curve = [
            {
                "epoch": int(epoch),
                "recall_at_1": recall,
                "mean_average_precision_at_r": recall / 2,
                **({"loss": 1.0, "statistics": {"excess_a_b": 2.0}} if epoch else {}),
            }
            for epoch in epochs
        ]
        return {
            "recipe": recipe,
            "title": RECIPES[recipe].title,
            "dataset": dataset,
            "seed": seed,
            "settings_hash": digest(settings),
            "settings": settings,
            "device": "cpu, 1 threads",
            "metrics": {
                "recall_at_1": recall,
                "recall_at_2": recall,
                "recall_at_4": recall,
                "recall_at_8": recall,
                "mean_average_precision_at_r": recall / 2,
                "r_precision": recall / 2,
            },
            "curve": curve,
            "seconds_per_training_step_median": 0.0123 if trained else None,
            "training_peak_mib": 900.4 if trained else None,
            "neighbours": picture,
            **changed,
        }

    return make


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TORCHVISION, "resnet18", Tiny)


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in MINIATURES}
    for name, root in made.items():
        MINIATURES[name].make(root)
    return made


@pytest.fixture
def load(roots: dict[str, Path]) -> Callable[[str], ImageFiles]:
    return lambda name: MINIATURES[name].official.load(roots[name])


@pytest.fixture
def on_the_command_line(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    for name, miniature in MINIATURES.items():
        monkeypatch.setitem(DATASETS, name, Dataset.of(miniature.official))
        monkeypatch.setitem(BUDGETS, name, SMALL)

    def call(*arguments: object, name: str = "cub", root: Path | None = None) -> tuple[int, str]:
        where = ["--results", tmp_path / "results", "--data-root", root or roots[name]]
        run_it = ["run", "--dataset", name, "--device", "cpu", *where, *arguments]
        found = CliRunner().invoke(app, list(map(str, run_it)), catch_exceptions=False)
        return found.exit_code, " ".join(found.output.replace("│", " ").split())

    return call
