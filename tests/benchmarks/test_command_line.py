"""``run`` skips what is finished and keeps it on Ctrl-C; mistakes are explained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks import campaign
from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data
from benchmarks.recipes import RECIPES, TABLES
from benchmarks.recipes.tables import Table
from benchmarks.records import Record, append, read
from benchmarks.run import run
from benchmarks.spread_values import spread

TINY = ["run", "--dataset", "digits", "--epochs", "1", "--iterations", "1", "--device", "cpu"]
TWO = ["--recipes", "contrastive", "untrained"]
MadeUp = Callable[..., Record]


@pytest.fixture(autouse=True)
def _few_digits(few: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(DATASETS["digits"], load=lambda root: few)
    monkeypatch.setitem(DATASETS, "digits", quick)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def runs(folder: Path) -> list[tuple[str, int]]:
    return [(record["recipe"], record["seed"]) for record in read(folder, "digits")]


def test_many_values_follow_one_flag_or_a_flag_each() -> None:
    assert spread(["run", "--seeds", "0", "1", "--seeds", "2", "--nmi"]) == (
        ["run", "--seeds", "0", "--seeds", "1", "--seeds", "2", "--nmi"]
    )
    assert spread(["--device", "cpu", "--recipes"]) == ["--device", "cpu", "--recipes"]


def test_finished_runs_are_skipped_and_other_settings_are_other_runs(tmp_path: Path) -> None:
    first = call(*TINY, *TWO, "--seeds", 0, "--results", tmp_path)
    assert first.exit_code == 0, first.output
    assert "2 runs to do, 0 finished already" in first.output
    again = call(*TINY, *TWO, "--seeds", 0, 1, "--results", tmp_path)
    assert "2 runs to do, 2 finished already" in again.output
    every = [("contrastive", 0), ("untrained", 0), ("contrastive", 1), ("untrained", 1)]
    assert runs(tmp_path) == every
    longer = call(*TINY, "--iterations", 2, *TWO, "--seeds", 0, "--results", tmp_path)
    assert "2 runs to do, 0 finished already" in longer.output


def test_how_steps_are_made_is_a_setting_of_the_run(tmp_path: Path) -> None:
    steps = ["--amp", "bfloat16", "--accumulate", 2]
    done = call(*TINY, *steps, "--recipes", "contrastive", "--seeds", 0, "--results", tmp_path)
    assert done.exit_code == 0, done.output
    (record,) = read(tmp_path, "digits")
    budget = record["settings"]["budget"]
    assert (budget["amp"], budget["accumulate"], "sub_batch" in budget) == ("bfloat16", 2, False)
    parts = call(*TINY, "--sub-batch", 8, "--results", tmp_path)
    assert parts.exit_code == 2
    assert "sub_batch: expected a trunk without batch norm in training mode" in parts.output


def test_a_data_set_has_rows_and_seeds_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES, "digits", Table(("untrained", "ibc_released"), seeds=(3, 1)))
    first = call(*TINY, "--results", tmp_path)
    assert first.exit_code == 0, first.output
    rows = [(name, seed) for seed in (3, 1) for name in ("untrained", "ibc_released")]
    assert runs(tmp_path) == rows
    assert "0 runs to do, 4 finished already" in call(*TINY, "--results", tmp_path).output
    named = call(*TINY, "--recipes", "contrastive", "--results", tmp_path)
    assert "2 runs to do, 0 finished already" in named.output


def test_ctrl_c_keeps_finished_runs_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(recipe: Any, data: Any, seed: int, *rest: Any, **named: Any) -> Any:
        if seed == 1:
            raise KeyboardInterrupt
        return run(recipe, data, seed, *rest, **named)

    command = [*TINY, "--recipes", "untrained", "--seeds", 0, 1, 2, "--results", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(campaign, "run", interrupted)
        stopped = call(*command)
    assert stopped.exit_code == 130
    assert "Stopped: 1 of 3 runs are finished and kept in" in stopped.output
    assert runs(tmp_path) == [("untrained", 0)]
    assert call(*command).exit_code == 0
    assert runs(tmp_path) == [("untrained", 0), ("untrained", 1), ("untrained", 2)]


def test_smoke_leaves_the_committed_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.command_line.RESULTS", tmp_path / "committed")
    done = call("run", "--smoke", "--recipes", "untrained")
    assert done.exit_code == 0, done.output
    assert "1 runs to do" in done.output
    assert not (tmp_path / "committed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--recipes", "contrastiv"], "--recipes: expected one of"),
        (["run", "--recipes", "contrastiv"], "got 'contrastiv'. Did you mean contrastive?"),
        (
            ["run", "--dataset", "cars"],
            f"--dataset: expected one of {', '.join(DATASETS)}; got 'cars'",
        ),
        (["run", "--device", "tpu9"], "--device: expected a device of this machine; got 'tpu9'"),
        (["run", "--epochs", "0"], "--epochs"),
        (["run", "--seeds"], "--seeds"),
        (
            ["run", "--dataset", "omniglot", "--data-root", "nowhere"],
            "--data-root: expected images",
        ),
        (
            ["run", "--dataset", "flowers", "--data-root", "nowhere"],
            "flowers: expected the official files in nowhere; got",
        ),
        (["report", "--results", "nowhere"], "--results: expected JSON lines in nowhere"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    extra = ["--results", str(tmp_path)] if arguments[0] == "run" else []
    found = call(*arguments[:1], *extra, *arguments[1:])
    assert found.exit_code == 2
    plain = " ".join(found.output.replace("│", " ").split())
    assert message in plain


def test_list_shows_what_is_finished_and_where_the_data_is(tmp_path: Path, made_up: MadeUp) -> None:
    for seed, seconds in enumerate((3.0, 4.0, 50.0)):
        append(tmp_path, made_up("contrastive", seed, 0.5, seconds_total=seconds))
    append(tmp_path, made_up("contrastive", 0, 0.5, "omniglot", seconds_total=80.0))
    found = call("list", "--results", tmp_path, "--data-root", tmp_path)
    assert found.exit_code == 0
    lines = [" ".join(line.split()) for line in found.output.splitlines()]

    def line_of(name: str) -> str:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        return line

    assert line_of("digits").startswith("digits 3 4 bundled nothing")
    assert line_of("omniglot").startswith("omniglot 1 80 not here yet two zip files")
    assert line_of("cub").startswith("cub 0 not here yet CUB_200")
    assert line_of("cub").endswith("--weights of a pretrained backbone, or a random start")
    assert line_of("contrastive").startswith(
        "contrastive Contrastive images, features or texts digits,"
    )
    assert line_of("contrastive").endswith("digits 4, omniglot 80")
    gsp = "gsp Generalized sum pooling (GSP) maps or tokens to pool"
    assert line_of("gsp").startswith(f"{gsp} omniglot_collage, cifar_collage")
    assert "digits" not in line_of("gsp")
    assert line_of("untrained").endswith(list(TABLES)[-1])  # a row of the last table, no seconds
    assert {line.split(" ")[0] for line in lines} > {*DATASETS, *RECIPES}
