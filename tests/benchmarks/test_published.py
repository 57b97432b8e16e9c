"""Rows as published have budgets of their own under ``paper`` alone, and their table says so."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from benchmarks.backbones import TORCHVISION, ImageTrunk
from benchmarks.command_line import app
from benchmarks.datasets import Dataset, ImageFiles
from benchmarks.jobs import jobs_of
from benchmarks.kinds import trunk_groups
from benchmarks.protocols import PAPER, PROTOCOLS, QUICK, REALITY_CHECK
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, Budget
from benchmarks.recipes.marks import CODE, OURS, marked
from benchmarks.recipes.published import PUBLISHED, Row, row_of
from benchmarks.recipes.published.intra_batch_connections import (
    every_image_in_groups,
    maximum_and_linear,
)
from benchmarks.recipes.published.lifted_structure import image_pairs
from benchmarks.recipes.published.loss_ensemble import average_alone, shuffled
from benchmarks.records import Record, read
from benchmarks.reporting import tables
from benchmarks.reporting.selection import select
from benchmarks.run import run
from tests.benchmarks.image_runs import SMALL, Tiny, at_once, small
from tests.benchmarks.miniatures import MINIATURES

CPU = torch.device("cpu")
ROWS = [(dataset, name) for dataset, rows in PUBLISHED.items() for name in rows]
FIELDS = (("cub", "pfml"), ("cars196", "pfml"), ("sop", "pfml_2"), ("in_shop", "pfml_2"))


@pytest.mark.parametrize(("dataset", "name"), ROWS)
def test_a_row_stands_in_the_table_of_its_data_set_under_the_name_of_its_recipe(
    dataset: str, name: str
) -> None:
    row = PUBLISHED[dataset][name]
    assert row.recipe.name == name
    assert name in TABLES[dataset].recipes
    assert row_of(row.recipe, dataset) is row
    assert row_of(RECIPES[name], dataset) is None
    assert row.recipe.title != RECIPES[name].title


@given(st.sampled_from(sorted(BUDGETS)), st.sampled_from(list(PROTOCOLS.values())))
def test_all_rows_share_a_budget_but_for_those_published_with_their_own_under_paper(
    dataset: str, protocol: Any
) -> None:
    names = TABLES[dataset].recipes
    jobs = jobs_of([RECIPES[name] for name in names], dataset, protocol, {}, None)
    assert [recipe.name for job in jobs for recipe in job.recipes] == list(names)
    own = PUBLISHED.get(dataset, {}) if protocol is PAPER else {}
    for recipes, budget, rules in jobs:
        assert rules is protocol
        for recipe in recipes:
            row = own.get(recipe.name)
            assert (recipe, budget) == (
                (row.recipe, row.budget) if row else (RECIPES[recipe.name], BUDGETS[dataset])
            )


def test_what_the_command_changes_is_changed_in_budgets_of_their_own_too() -> None:
    chosen = [RECIPES["pfml"], RECIPES["ibc"]]
    jobs = jobs_of(chosen, "cub", PAPER, {"epochs": 3, "label_noise": 0.2}, Path("weights.pth"))
    assert [(job.budget.epochs, job.budget.label_noise) for job in jobs] == [(3, 0.2)] * 2
    backbones = [job.budget.backbone for job in jobs]
    assert [found.weights for found in backbones if found] == [Path("weights.pth")] * 2
    assert [found.frozen_batch_norm for found in backbones if found] == [True, False]
    assert jobs[1].budget.trunk_lr == PUBLISHED["cub"]["ibc"].budget.trunk_lr
    with pytest.raises(ValueError, match="--weights: expected recipes of one network; got googlen"):
        jobs_of([*chosen, RECIPES["lifted_structure_raw"]], "cub", PAPER, {}, Path("w.pth"))


def test_the_record_of_a_row_says_that_its_budget_is_its_own() -> None:
    row = PUBLISHED["cub"]["ibc"]
    said = PAPER.settings_of(row.recipe, "cub", row.budget)["protocol"]
    assert said["own_budget"] is True
    shared = PAPER.settings_of(RECIPES["ibc"], "cub", BUDGETS["cub"])["protocol"]
    assert said == {**shared, "own_budget": True}
    for protocol in (QUICK, REALITY_CHECK):
        plain = protocol.settings_of(RECIPES["ibc"], "cub", BUDGETS["cub"])
        assert "own_budget" not in plain.get("protocol", {})


@pytest.mark.parametrize(("dataset", "name"), ROWS)
def test_marks_of_a_row_are_those_of_its_authors_until_a_value_is_changed(
    dataset: str, name: str
) -> None:
    row = PUBLISHED[dataset][name]
    found = marked(row.recipe, dataset, row.budget)
    of_budget = {path.removeprefix("budget."): mark for path, (_, mark) in found.items()
                 if path.startswith("budget.")}  # fmt: skip
    assert of_budget == {
        field.name: CODE if field.name in row.released else OURS for field in fields(Budget)
    }
    for path, (_, mark) in found.items():
        if not path.startswith("budget."):
            assert mark != OURS, path
    changed = replace(row.budget, trunk_lr=0.5, batch_size=2 * row.budget.batch_size)
    again = marked(row.recipe, dataset, changed)
    assert again["budget.trunk_lr"] == (0.5, OURS)
    assert again["budget.batch_size"][1] == OURS


@pytest.mark.parametrize(
    ("name", "dataset", "mark"),
    [
        ("ibc", "cub", CODE),
        ("pfml", "cub", "paper"),
        ("pfml_2", "sop", OURS),  # of neither is its batch norm known
        ("gsp", "cub", OURS),
    ],
)
def test_the_mark_of_a_network_is_the_same_from_whatever_weights_it_starts(
    name: str, dataset: str, mark: str, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    for start in (None, weights):
        ((recipes, budget, _),) = jobs_of([RECIPES[name]], dataset, PAPER, {}, start)
        backbone, found = marked(recipes[0], dataset, budget)["budget.backbone"]
        assert (backbone.weights, found) == (start, mark)
    other = replace(budget, backbone=replace(budget.backbone, name="resnet18"))  # type: ignore[type-var]
    assert marked(recipes[0], dataset, other)["budget.backbone"][1] == OURS


def test_a_mark_of_something_that_is_no_setting_is_refused() -> None:
    row = PUBLISHED["cub"]["ibc"]
    with pytest.raises(ValueError, match=r"released: expected settings of a budget; got \['lr'\]"):
        Row(row.recipe, row.budget, frozenset({"lr"}))


def test_published_settings_follow_the_data_set() -> None:
    ibc = {name: PUBLISHED[name]["ibc"] for name in PUBLISHED}
    classes = [row.budget.batch_size / row.budget.images_per_class for row in ibc.values()]
    assert classes == [6, 10, 15, 14]
    assert [row.recipe.loss_args.get("num_heads", 2) for row in ibc.values()] == [2, 8, 8, 4]
    assert [row.budget.iterations for row in ibc.values()] == [109, 116, 662, 463]  # whole passes
    memory = [PUBLISHED[name]["gsp_zero_shot_memory"] for name in PUBLISHED]
    batches = [row.recipe.loss_args["memory_size"] / row.budget.batch_size for row in memory]
    assert batches == [25, 25, 1400, 400]
    assert [row.recipe.loss_args["start_after"] for row in memory] == [125, 125, 2400, 1400]
    for rows in PUBLISHED.values():
        few = rows is PUBLISHED["cub"] or rows is PUBLISHED["cars196"]
        for name in ("gsp", "gsp_zero_shot", "gsp_zero_shot_memory"):
            recipe = rows[name].recipe
            assert recipe.pooling_args["num_prototypes"] == (64 if few else 128)
            attributes = recipe.loss_args.get("num_attributes", 64 if few else 128)
            assert attributes == recipe.pooling_args["num_prototypes"]
            assert ("gem" in recipe.pooling_args, "max_pool_branch" in recipe.pooling_args) == (
                (True, False) if few else (False, True)
            )
            assert rows[name].budget.trunk_lr == (1e-5 if few else 1e-4)
    lifted = PUBLISHED["sop"]["lifted_structure_raw"].budget
    assert lifted.steps == 20_000
    assert not PUBLISHED["sop"]["lifted_structure_raw"].recipe.unit_rows


def test_heads_classifier_and_proxies_of_the_ensemble_learn_at_their_released_rates() -> None:
    row = PUBLISHED["cub"]["ensemble_heads"]
    loss = row.recipe.make_loss(3, row.budget.embedding_size)
    assert loss is not None
    groups = row.recipe.groups(loss, row.budget)
    assert {group["weight_decay"] for group in groups} == {1e-4}
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(loss.parameters()))
    assert sorted({round(rate / row.budget.trunk_lr) for rate in rates.values()}) == [1, 10, 150]
    shapes = {parameter.shape for parameter in loss.parameters()}
    assert torch.Size([64, 1024]) in shapes  # a head


def test_vision_transformers_are_tables_of_their_own_on_the_same_files(
    roots: dict[str, Path],
) -> None:
    for network in ("dino", "vit"):
        budget = BUDGETS[f"cars196_{network}"]
        assert budget.backbone is not None
        assert budget.backbone.name.startswith("timm:vit_small_patch16_224")
        assert budget.weight_decay == 1e-4  # that of cars196 and not of cub
        assert all(RECIPES[name].pooling is None for name in TABLES[f"cars196_{network}"].recipes)
    small_one = Dataset.of(MINIATURES["cars196"].official, "cars196_dino")
    found = small_one.load(roots["cars196"])
    assert (small_one.name, found.name) == ("cars196_dino", "cars196_dino")
    assert found.recall_at == MINIATURES["cars196"].official.recall_at


def test_the_head_has_a_rate_of_its_own_where_the_budget_says_so() -> None:
    torch.manual_seed(0)
    assert SMALL.backbone is not None
    trunk = ImageTrunk(SMALL.backbone, 8)
    (whole,) = trunk_groups(trunk, SMALL)
    assert whole["params"] == list(trunk.parameters())
    features, head = trunk_groups(trunk, replace(SMALL, head_multiple=10.0))
    assert head["lr"] == 10 * features["lr"] == 10 * SMALL.trunk_lr
    assert head["params"] == list(trunk.pooling.parameters())
    assert [*features["params"], *head["params"]] == whole["params"]
    assert head["weight_decay"] == features["weight_decay"] == SMALL.weight_decay


def test_samplers_of_the_papers_draw_whole_batches_again_and_again() -> None:
    labels = torch.arange(4).repeat_interleave(5)
    budget = replace(SMALL, batch_size=6)
    passes = shuffled(labels, budget, 3)
    first, second = list(passes), list(passes)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert list(shuffled(labels, budget, 3)) == first != list(shuffled(labels, budget, 4))
    drawn = torch.tensor(list(image_pairs(labels, budget, 3))).view(-1, 2, 3)  # left, right
    same = labels[drawn[:, 0]] == labels[drawn[:, 1]]
    assert 0.4 < same.float().mean() < 0.6
    assert len(list(image_pairs(labels, budget, 3))) % 6 == 0
    grouped = replace(budget, images_per_class=3)
    groups = torch.tensor(list(every_image_in_groups(labels, grouped, 3))).view(-1, 3)
    assert (labels[groups] == labels[groups[:, :1]]).all()
    assert set(groups.flatten().tolist()) == set(range(20))
    for make in (image_pairs, every_image_in_groups):
        assert list(make(labels, grouped, 3)) != list(make(labels, grouped, 4))


def test_poolings_of_the_papers_take_the_maximum_or_leave_the_head_to_the_loss() -> None:
    maps = torch.arange(24.0).view(2, 3, 2, 2).sin()
    pooling = maximum_and_linear(3, 5)
    (linear,) = [module for module in pooling if isinstance(module, nn.Linear)]  # type: ignore[attr-defined]
    assert torch.equal(pooling(maps), linear(maps.amax(dim=(2, 3))))
    torch.testing.assert_close(average_alone(3, 3)(maps), maps.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="embedding_size: expected 3, the channels of the netw"):
        average_alone(3, 4)


@pytest.fixture
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network of 16 channels."""
    for name in ("resnet50", "googlenet"):
        monkeypatch.setitem(TORCHVISION, name, Tiny)
    rows = {name: small(row, 32, embedding_size=16) for name, row in PUBLISHED["cub"].items()}
    monkeypatch.setitem(PUBLISHED, "cub", rows)  # type: ignore[arg-type]


@pytest.mark.usefixtures("tiny", "small_rows")
def test_the_table_of_published_rows_says_what_is_not_comparable(
    on_the_command_line: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    once = ["--protocol", "paper", "--seeds", 0, "--workers", 0]
    code, said = on_the_command_line(*once)
    assert code == 0, said
    records = read(tmp_path / "results", "cub")
    assert {record["recipe"] for record in records} == set(TABLES["cub"].recipes)
    own = {r["recipe"] for r in records if r["settings"]["protocol"].get("own_budget")}
    assert own == set(PUBLISHED["cub"])
    assert all(record["selected_on"] == "test" for record in records)
    again = on_the_command_line(*once)[1]
    assert "0 runs to do" in again
    assert "1 runs to do" not in again
    report = ["report", "--results", str(tmp_path / "results"), "--output", str(tmp_path)]
    found = CliRunner().invoke(app, report)
    assert found.exit_code == 0, found.output
    assert "Protocol paper. Budgets of the rows as listed below, 1 seed (0)" in found.output
    assert "Difference to" not in found.output
    assert (
        "as published, they differ in backbone, crops, head multiple, images per class, "
        "iterations, optimizer, trunk lr, warm up epochs, weight decay."
    ) in found.output
    assert (
        "- Lifted structure, as released: embedding size 16, batch 6, 2 iterations, sgd with "
        "weight decay 0.0002, googlenet from a random start with frozen batch norm, crops of "
        "lifted structure at 32, rate 0.0001, batches by image_pairs."
    ) in found.output
    shared = "Contrastive; Multi-similarity + miner; Proxy Anchor; Untrained trunk; Potential field"
    assert f"- {shared} as published: embedding size 16, batch 6 (3 classes x 2)" in found.output
    assert "adam with weight decay 0.0005, resnet18 from" in found.output
    assert "rate 0.001, the budget of the data set." in found.output
    assert (tmp_path / "cub_paper_curves.png").is_file()


def test_rows_that_share_a_budget_are_compared_under_paper_too(
    made_up: Callable[..., Record],
) -> None:
    def record(name: str, seed: int, budget: Budget) -> Record:
        said = PAPER.settings_of(RECIPES[name], "digits", budget)
        return {**made_up(name, seed, 0.5), "settings": said, "settings_hash": str(budget)}

    shared = BUDGETS["digits"]
    pair = [record(name, seed, shared) for name in ("contrastive", "untrained") for seed in (0, 1)]
    same = tables.table(select("digits", pair, "paper"))
    assert "Difference to" in same
    assert "Embedding size 128" in same
    other = [record("contrastive", seed, replace(shared, batch_size=40)) for seed in (0, 1)]
    differing = tables.table(select("digits", [*pair[2:], *other], "paper"))
    assert "Difference to" not in differing
    assert "they differ in batch size." in differing


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "name"), [*FIELDS, *ROWS])
def test_the_network_of_each_paper_trains_with_its_recipe(
    dataset: str, name: str, load: Callable[[str], ImageFiles]
) -> None:
    row = PUBLISHED[dataset].get(name) or Row(RECIPES[name], BUDGETS[dataset], frozenset())
    row = small(row, 64)
    result = run(row.recipe, load(dataset), 3, row.budget, device=CPU, protocol=PAPER)
    assert [point["epoch"] for point in result.curve] == [0, 1, 2]
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.settings["budget"]["backbone"]["name"] in ("resnet50", "googlenet")
    assert result.selected_on == "test"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", PUBLISHED)
@pytest.mark.parametrize("name", ["ibc", "ensemble_heads", "gsp_zero_shot_memory", "pfml"])
def test_resnet_50_trains_with_every_paper_under_the_shared_budget(
    dataset: str, name: str, load: Callable[[str], ImageFiles]
) -> None:
    budget = small(Row(RECIPES[name], BUDGETS[dataset], frozenset()), 64).budget
    result = run(at_once(RECIPES[name]), load(dataset), 3, budget, device=CPU)
    assert [point["epoch"] for point in result.curve] == [0, 1, 2]
    assert result.settings["budget"]["backbone"]["name"] == "resnet50"
