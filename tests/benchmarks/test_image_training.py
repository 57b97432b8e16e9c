"""Image files train, evaluate and report end to end; how they are read does not matter."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.backbones import Backbone, ImageTrunk
from benchmarks.command_line import app
from benchmarks.datasets import Data, ImageFiles
from benchmarks.recipes import RECIPES, Budget, ReloadAndDrop
from benchmarks.records import read
from benchmarks.run import Result, run, trunk_of
from tests.benchmarks.image_runs import SMALL
from tests.benchmarks.miniatures import MINIATURES
from tests.benchmarks.test_checkpoint import comparable

pytestmark = pytest.mark.usefixtures("tiny")
CPU = torch.device("cpu")


def trained(data: ImageFiles, budget: Budget = SMALL, recipe: str = "pfml", **named: int) -> Result:
    return run(RECIPES[recipe], data, 3, budget, device=CPU, **named)


@pytest.mark.parametrize("name", MINIATURES)
def test_each_data_set_trains_and_reports_the_recalls_of_its_papers(
    name: str, load: Callable[[str], ImageFiles]
) -> None:
    result = trained(load(name))
    assert json.loads(json.dumps(asdict(result), allow_nan=False))["dataset"] == name
    assert [point["epoch"] for point in result.curve] == [0, 1, 2]
    wanted = {"sop": (1, 10, 100, 1000), "in_shop": (1, 10, 20, 30)}.get(name, (1, 2, 4, 8))
    for at in {*wanted, 1, 2, 4, 8}:
        assert 0 <= result.metrics[f"recall_at_{at}"] <= 1
    assert result.settings["budget"]["backbone"] == {
        "name": "resnet18", "frozen_batch_norm": True, "weights": None,
    }  # fmt: skip
    assert result.settings["budget"]["crops"]["size"] == 32


def test_queries_are_compared_with_the_gallery_alone(load: Callable[[str], ImageFiles]) -> None:
    data = load("in_shop")
    assert data.gallery is not None
    swapped = replace(data, gallery=replace(data.gallery, labels=(data.gallery.labels + 1) % 3))
    right, wrong = (trained(which, recipe="untrained") for which in (data, swapped))
    assert right.metrics["recall_at_1"] == 1.0  # a picture of the same one colour
    assert wrong.metrics["recall_at_1"] == 0.0
    assert all(row[0] and row[1] for row in right.neighbours["correct"])
    assert not any(row[0] or row[1] for row in wrong.neighbours["correct"])


def test_neither_workers_nor_a_break_change_the_result(
    load: Callable[[str], ImageFiles], tmp_path: Path
) -> None:
    data, budget = load("cub"), replace(SMALL, epochs=3, warm_up_epochs=2)
    whole = comparable(trained(data, budget))
    assert comparable(trained(data, budget, workers=2)) == whole
    left = [5]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(RECIPES["pfml"], data, 3, budget, device=CPU, on_step=step, unfinished=file)
    torch.manual_seed(99)
    again = run(RECIPES["pfml"], data, 3, budget, device=CPU, workers=1, unfinished=file)
    assert comparable(again) == whole


def test_the_warm_up_trains_the_head_alone(
    load: Callable[[str], ImageFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ImageTrunk] = []
    weights: list[list[torch.Tensor]] = []

    def kept(*arguments: object) -> torch.nn.Module:
        trunk = trunk_of(*arguments)  # type: ignore[arg-type]
        assert isinstance(trunk, ImageTrunk)
        made.append(trunk)
        return trunk

    def step() -> None:
        inner = next(made[0].features.parameters()), next(made[0].pooling.parameters())
        weights.append([parameter.detach().clone() for parameter in inner])

    monkeypatch.setattr("benchmarks.run.trunk_of", kept)
    run(RECIPES["pfml"], load("cub"), 0, SMALL, device=CPU, on_step=step)
    features, head = zip(*weights, strict=True)
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[1], features[2])
    assert not torch.equal(head[0], head[1])
    statistics = dict(made[0].features.named_buffers())["bn1.running_mean"]
    assert torch.equal(statistics, torch.zeros_like(statistics))


def test_the_budget_has_to_be_of_the_kind_of_the_data(
    load: Callable[[str], ImageFiles], few: Data, budget: Budget
) -> None:
    for data, other in ((load("cub"), budget), (few, SMALL)):
        with pytest.raises(ValueError, match=r"budget\.backbone: expected one for image files"):
            run(RECIPES["untrained"], data, 0, other, device=CPU)
    with pytest.raises(ValueError, match="crops: expected together with a backbone"):
        replace(budget, backbone=Backbone())
    with pytest.raises(ValueError, match="warm_up_epochs: expected 0 without a backbone; got 1"):
        replace(budget, warm_up_epochs=1)
    selecting = replace(RECIPES["pfml"], schedule=ReloadAndDrop())
    with pytest.raises(ValueError, match=r"schedule\.select_on: expected data with validation"):
        run(selecting, load("cub"), 0, SMALL, device=CPU)


def test_one_command_trains_and_another_reports(
    on_the_command_line: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    names = ["--recipes", "pfml", "untrained"]
    code, said = on_the_command_line(*names, "--seeds", 0, "--workers", 0)
    assert (code, "2 runs to do" in said) == (0, True), said
    assert len(read(tmp_path / "results", "cub")) == 2
    report = ["report", "--results", str(tmp_path / "results"), "--output", str(tmp_path)]
    found = CliRunner().invoke(app, report)
    assert found.exit_code == 0, found.output
    assert "Potential field as published" in found.output
    assert (tmp_path / "cub_neighbours.png").is_file()


def test_other_weights_are_other_runs_wherever_they_lie(
    on_the_command_line: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    state = ImageTrunk(Backbone("resnet18"), 4).features.state_dict()
    torch.save(state, tmp_path / "one.pt")
    shutil.copy(tmp_path / "one.pt", tmp_path / "same.pt")
    torch.save({**state, "conv1.weight": state["conv1.weight"] / 2}, tmp_path / "other.pt")
    once = ["--recipes", "pfml", "--seeds", 0, "--epochs", 1, "--iterations", 1, "--workers", 0]
    expected = {"one": "1 runs to do", "same": "0 runs to do", "other": "1 runs to do"}
    for name, message in expected.items():
        weights = ["--weights", tmp_path / f"{name}.pt"]
        code, said = on_the_command_line(*once, *weights)
        assert (code, message in said) == (0, True), said
    records = read(tmp_path / "results", "cub")
    assert len({record["curve"][1]["loss"] for record in records}) == len(records) == 2


def test_mistakes_with_files_are_explained(
    on_the_command_line: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = on_the_command_line("--recipes", "untrained", "--weights", tmp_path / "none.pt")
    assert (code, "--weights: expected a file at" in said) == (2, True), said
    digits = ["run", "--dataset", "digits", "--weights", "x.pt", "--results", str(tmp_path)]
    found = CliRunner().invoke(app, digits)
    assert found.exit_code == 2
    assert "expected none for digits, whose images lie in memory" in " ".join(
        found.output.replace("│", " ").split()
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_ends_the_run_and_keeps_what_is_finished(
    workers: int, on_the_command_line: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    MINIATURES["cub"].make(root)
    command = ["--recipes", "untrained", "--workers", workers]
    assert on_the_command_line(*command, "--seeds", 0, root=root)[0] == 0
    (root / MINIATURES["cub"].broken).write_bytes(b"")
    code, said = on_the_command_line(*command, "--seeds", 0, 1, root=root)
    assert code == 2
    broken = root / MINIATURES["cub"].broken
    assert f"Error: {broken}: expected a picture that can be read" in said
    assert "Traceback" not in said
    assert "Take the file from the official archive again" in said
    assert [record["seed"] for record in read(tmp_path / "results", "cub")] == [0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
@pytest.mark.parametrize("full", ["results/cub.jsonl", "unfinished"])
def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    full: str,
    on_the_command_line: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["--recipes", "pfml", "--workers", 0]
    assert on_the_command_line(*command, "--seeds", 0)[0] == 0
    kept = tmp_path / "results" / "cub.jsonl"
    before = kept.read_bytes()
    opened = Path.open

    def on_a_full_disk(path: Path, mode: str = "r", **named: str) -> object:
        writes = mode in ("a", "wb")
        return opened(Path("/dev/full") if writes and full in str(path) else path, mode, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", on_a_full_disk)
        code, said = on_the_command_line(*command, "--seeds", 0, 1)
    assert code == 2, said
    assert f"[Errno 28] {os.strerror(28)}" in said
    assert "0 of 1 runs are finished and kept in" in said
    assert "Make room" in said
    assert kept.read_bytes() == before
    assert on_the_command_line(*command, "--seeds", 0, 1)[0] == 0
    assert [record["seed"] for record in read(tmp_path / "results", "cub")] == [0, 1]
