"""A dry run shows every setting of every recipe with where it is from, and nothing else happens."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner, Result

from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, Data
from benchmarks.protocols import PROTOCOLS
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, marks
from benchmarks.recipes.marks import CODE, OURS, PAPER, marked
from benchmarks.records import read
from tests.benchmarks.few_features import few_features

LINE = re.compile(r"  (\S+) +(.+?)  +(paper|authors' code|ours)(; searched in .+)?")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path | None) -> NoReturn:
        raise AssertionError("a dry run reads no data")

    for name, dataset in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, replace(dataset, load=refuse))


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_recipe_is_shown_and_every_setting_marked(protocol: str, tmp_path: Path) -> None:
    shown = call(
        *("run", "--dry-run", "--protocol", protocol, "--results", tmp_path),
        *("--recipes", *RECIPES),
    )
    assert shown.exit_code == 0, shown.output
    _, *blocks = shown.output.strip().split("\n\n")
    assert [block.split(":")[0] for block in blocks] == list(RECIPES)
    for block, recipe in zip(blocks, RECIPES.values(), strict=True):
        lines = [line for line in block.splitlines()[1:] if not line.startswith("  epochs ")]
        found = [LINE.fullmatch(line) for line in lines]
        assert all(found), block
        names = [match[1] for match in found if match]
        assert names == list(marked(recipe, "digits", BUDGETS["digits"]))
        searched = {match[1] for match in found if match and match[4]}
        assert searched == (set(recipe.space) if protocol == "reality-check" else set())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_row_of_every_table_is_shown_under_every_protocol(
    dataset: str, protocol: str
) -> None:
    shown = call("run", "--dry-run", "--dataset", dataset, "--protocol", protocol)
    assert shown.exit_code == 0, shown.output
    head, *blocks = shown.output.strip().split("\n\n")
    assert head.startswith(f"{dataset} under {protocol}, seeds ")
    assert [block.split(":")[0] for block in blocks] == list(TABLES[dataset].recipes)
    for block in blocks:
        lines = [line for line in block.splitlines()[1:] if not line.startswith("  epochs ")]
        assert all(LINE.fullmatch(line) for line in lines), block


def test_marks_follow_the_value() -> None:
    def of(name: str, dataset: str = "digits") -> dict[str, tuple[Any, str]]:
        return dict(marked(RECIPES[name], dataset, BUDGETS[dataset]))

    assert of("potential_field")["loss.proxies_per_class"] == (15, PAPER)
    assert of("potential_field_4")["loss.proxies_per_class"] == (4, OURS)
    assert of("potential_field_alpha_0.5")["loss.alpha"] == (0.5, OURS)
    assert of("multi_similarity")["loss.base"] == (0.5, CODE)
    assert of("triplet_margin_1")["loss.swap"] == (False, CODE)
    assert of("triplet_semihard")["loss.swap"] == (False, OURS)
    assert of("ensemble_simplex")["loss.members.triplet.loss.margin"] == (1.0, CODE)
    assert of("ibc", "omniglot_validation")["budget.optimizer"] == ("radam", CODE)
    assert of("ibc")["budget.optimizer"] == ("adam", OURS)


@pytest.mark.parametrize("dataset", BUDGETS)
def test_no_data_set_has_a_setting_without_a_mark(dataset: str) -> None:
    for recipe in RECIPES.values():
        assert {mark for _, mark in marked(recipe, dataset, BUDGETS[dataset]).values()} <= {
            PAPER,
            CODE,
            OURS,
        }


def test_a_setting_without_a_mark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {**marks.OF_CLASSES, "ContrastiveLoss": {"pos_margin": marks.NOWHERE}}
    monkeypatch.setattr(marks, "OF_CLASSES", listed)
    refused = call("run", "--dry-run", "--recipes", "contrastive")
    assert refused.exit_code == 2
    assert "contrastive, loss.neg_margin: expected a mark" in refused.output
    monkeypatch.setattr(marks, "BUDGET_FIELDS", marks.BUDGET_FIELDS[1:])
    with pytest.raises(ValueError, match=r"untrained, budget\.epochs: expected a mark"):
        marked(RECIPES["untrained"], "digits", BUDGETS["digits"])


TINY = ("run", "--dataset", "digits", "--epochs", 2, "--iterations", 2, "--device", "cpu")
CHECK = (*TINY, "--protocol", "reality-check", "--trials", 2, "--seeds", 0, 1)
PAIR = ("--recipes", "contrastive", "untrained")


@pytest.fixture
def quick_digits(monkeypatch: pytest.MonkeyPatch) -> Data:
    data = few_features("digits")
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], load=lambda root: data))
    return data


@pytest.mark.usefixtures("quick_digits")
def test_the_reality_check_searches_runs_every_seed_and_is_a_table_of_its_own(
    tmp_path: Path,
) -> None:
    done = call(*CHECK, *PAIR, "--results", tmp_path)
    assert done.exit_code == 0, done.output
    assert "contrastive: 2 trials, MAP@R " in done.output
    assert "untrained: nothing to search" in done.output
    records = read(tmp_path, "digits")
    assert [(r["recipe"], r["seed"]) for r in records] == [
        (name, seed) for name in ("contrastive", "untrained") for seed in (0, 1)
    ]
    found = records[0]["settings"]["protocol"]["found"]
    assert set(found) == {*RECIPES["contrastive"].space, "budget.epochs"}
    assert records[0]["settings"]["budget"]["epochs"] == found["budget.epochs"]
    assert records[0]["settings"]["loss"]["neg_margin"] == found["loss.neg_margin"]
    again = call(*CHECK, *PAIR, "--results", tmp_path)
    assert again.output.count("0 runs to do, 2 finished already") == 2
    assert call(*TINY, *PAIR, "--seeds", 0, "--results", tmp_path).exit_code == 0
    page = tmp_path / "page.md"
    places = ("digits", "digits_reality-check")
    page.write_text("".join(f"<!-- table:{p}:start --><!-- table:{p}:end -->\n" for p in places))
    report = call(
        *("report", "--dataset", "digits", "--results", tmp_path),
        *("--output", tmp_path / "figures", "--readme", page),
    )
    assert report.exit_code == 0, report.output
    quick, checked = page.read_text().split("<!-- table:digits_reality-check:start -->")
    assert "reality-check" not in quick
    assert "Protocol reality-check" in checked
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    both = ("forest", "neighbours", "plane")
    assert pictures == {
        "digits_curves.png",
        *(f"{place}_{kind}.png" for place in places for kind in both),
    }


@pytest.mark.usefixtures("quick_digits")
def test_ctrl_c_in_a_search_says_where_its_trials_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*anything: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.search._validated", interrupted)
    stopped = call(*CHECK, *PAIR, "--results", tmp_path)
    assert stopped.exit_code == 130
    assert "Stopped: trials that ended are kept in" in stopped.output
    assert "The same command goes on with the rest." in stopped.output


@pytest.mark.usefixtures("quick_digits")
def test_a_full_disk_in_a_search_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> NoReturn:
        raise OSError("No space left on device")

    monkeypatch.setattr("benchmarks.search._validated", full)
    stopped = call(*CHECK, *PAIR, "--results", tmp_path)
    assert stopped.exit_code == 2
    assert "No space left on device: trials that ended are kept in" in stopped.output


@pytest.mark.usefixtures("quick_digits")
def test_a_search_of_several_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.command_line.rank_and_number", lambda: (0, 2))
    refused = call(*CHECK, *PAIR, "--results", tmp_path)
    assert refused.exit_code == 2
    assert "--protocol: expected one process for reality-check" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "fast"], "--protocol: expected one of quick, paper, reality-check; got"),
        (["--trials", "5"], "trials, folds: expected 0 and 0 without validation classes; got 5"),
        (["--protocol", "reality-check", "--trials", "0"], "--trials"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    refused = call("run", "--results", tmp_path, *arguments)
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.replace("│", " ").split())
