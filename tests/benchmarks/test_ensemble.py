"""Rows of the ensemble: its members, its heads, what is retrieved with, and epochs that end."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn

from benchmarks.datasets import DATASETS, Data
from benchmarks.evaluate import evaluate
from benchmarks.neighbours import nearest
from benchmarks.recipes import BUDGETS, RECIPES, Budget, Recipe, digest
from benchmarks.recipes.loss_ensemble import (
    ENSEMBLES,
    MEMBERS,
    PRIOR,
    Compressed,
    on_heads,
    on_one_embedding,
)
from benchmarks.run import Result, run
from benchmarks.trunk import Retrieval, Trunk
from pml_extras.losses import WeightedLossEnsemble, zabihzadeh_ensemble
from pml_extras.losses.zabihzadeh_ensemble import PRIOR as PUBLISHED
from pml_extras.weighting import DynamicWeightAverage, RandomWeights

CPU = torch.device("cpu")


def run_once(recipe: Recipe, data: Data, budget: Budget, seed: int = 3) -> Result:
    return run(recipe, data, seed, budget, device=CPU)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The losses of the runs."""
    losses: list[nn.Module] = []
    make = Recipe.make_loss

    def watched(recipe: Recipe, num_classes: int, embedding_size: int) -> nn.Module | None:
        loss = make(recipe, num_classes, embedding_size)
        if recipe in ENSEMBLES and loss is not None:
            losses.append(loss)
        return loss

    monkeypatch.setattr(Recipe, "make_loss", watched)
    return losses


def constants(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Class and plain attributes of a loss or a miner and of what is in it."""
    for part in module.modules():
        plain = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_")
        }
        yield type(part).__qualname__, {**plain, "collect_stats": None}


def test_members_are_those_of_the_published_ensemble() -> None:
    published = zabihzadeh_ensemble(5, 8, 8)
    ours = on_one_embedding(5, 8)
    assert list(MEMBERS) == list(PRIOR) == list(published.losses)
    assert PRIOR == PUBLISHED
    for name, member in MEMBERS.items():
        alone = member.make_loss(5, 8)
        assert alone is not None
        for loss in (alone, ours.losses[name]):
            assert list(constants(loss)) == list(constants(published.losses[name]))
    miners = MEMBERS["triplet"].make_miners()
    for found in (miners["tuple_miner"], ours.miners["triplet"]):
        assert list(constants(found)) == list(constants(published.miners["triplet"]))
        assert isinstance(found, TripletMarginMiner)
    assert isinstance(ours.losses["triplet"], TripletMarginLoss)
    assert list(ours.miners) == ["triplet"]


def test_all_ensembles_scale_alike_and_start_as_published_or_equal() -> None:
    for recipe in ENSEMBLES:
        loss = recipe.make_loss(5, 16)
        ensemble = loss.ensemble if isinstance(loss, Compressed) else loss
        assert isinstance(ensemble, WeightedLossEnsemble)
        assert (ensemble.scale, ensemble.max_scale) == ("cumulative", 10.0)
        published = recipe.name in {
            *("ensemble_simplex", "ensemble_squared", "ensemble_heads", "ensemble_compressed")
        }
        weights = torch.tensor([*ensemble.loss_weights().values()])
        expected = [0.25, 0.125, 0.25, 0.375] if published else [0.25] * 4
        torch.testing.assert_close(weights / weights.sum(), torch.tensor(expected))
    strategies = [type(r.make_loss(5, 16).weighting) for r in ENSEMBLES if "compr" not in r.name]
    assert len(set(strategies)) == len(strategies) - 1  # heads have that of the first


def test_heads_share_the_width_of_the_table_and_compression_returns_to_it() -> None:
    heads, compressed = on_heads(5, 128), Compressed(5, 128)
    features = torch.randn(6, 128)
    assert [head[0].out_features for head in heads.heads.values()] == [32] * 4
    assert heads.embed(features).shape == compressed.embed(features).shape == (6, 128)
    assert compressed.ensemble.embed(features).shape == (6, 256)
    assert heads.diversity_weight == compressed.ensemble.diversity_weight == 0.01
    torch.testing.assert_close(heads.embed(features).norm(dim=1), torch.ones(6))


def test_compression_and_ensemble_train_apart() -> None:
    loss = Compressed(5, 16)
    features = torch.randn(10, 16, requires_grad=True)
    labels = torch.arange(10) // 2
    loss(features, labels).backward()
    grads = [features.grad, *(p.grad for p in loss.ensemble.parameters())]
    alone = torch.autograd.grad(
        loss.ensemble.eval()(features, labels), [features, *loss.ensemble.parameters()]
    )
    for found, expected in zip(grads, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    teacher = loss.ensemble.embed(features).detach()
    distances = loss.keep_distances(loss.compression(teacher), ref_emb=teacher)
    compression = list(loss.compression.parameters())
    for parameter, expected in zip(
        compression, torch.autograd.grad(distances, compression), strict=True
    ):
        torch.testing.assert_close(parameter.grad, expected)


def test_a_row_with_heads_retrieves_with_what_the_loss_makes_of_the_trunk(
    few: Data, budget: Budget, made: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[nn.Module, bool, Tensor]] = []

    def watched(model: nn.Module, *args: object, unit_rows: bool, **named: object) -> object:
        found = evaluate(model, *args, unit_rows=unit_rows, **named)  # type: ignore[arg-type]
        seen.append((model, unit_rows, found.embeddings))
        return found

    monkeypatch.setattr("benchmarks.watch.evaluate", watched)
    for name, unit in (("ensemble_heads", True), ("ensemble_compressed", False)):
        seen.clear()
        run_once(RECIPES[name], few, budget)
        models = [model for model, _, _ in seen]
        assert [type(model) for model in models] == [Trunk, Retrieval, Retrieval]
        assert [unit_rows for _, unit_rows, _ in seen] == [True, unit, unit]
        rows = made[-1].eval().embed(models[0].eval()(few.test.images))  # type: ignore[operator]
        rows = torch.nn.functional.normalize(rows) if unit else rows
        torch.testing.assert_close(seen[-1][2], rows, rtol=1e-4, atol=1e-5)
        assert (rows.norm(dim=1) - 1).abs().max() < 1e-5 or not unit


def test_losses_are_in_training_mode_in_every_step(
    few: Data, budget: Budget, made: list[nn.Module]
) -> None:
    modes: list[bool] = []

    def note() -> None:
        modes.append(all(module.training for module in made[-1].modules()))

    run(RECIPES["ensemble_compressed"], few, 0, budget, device=CPU, on_step=note)
    assert modes == [True] * budget.steps


def test_the_weights_of_epochs_move_when_an_epoch_ends(
    few: Data, budget: Budget, made: list[nn.Module]
) -> None:
    weights: list[Tensor] = []

    def note() -> None:
        weights.append(made[-1].weighting.weights())  # type: ignore[union-attr, operator]

    longer = replace(budget, epochs=4)
    run(RECIPES["ensemble_dwa"], few, 0, longer, device=CPU, on_step=note)
    assert isinstance(made[-1].weighting, DynamicWeightAverage)
    first, third, last = (torch.stack(weights[k : k + 2]) for k in (0, 4, 6))
    assert torch.equal(torch.stack(weights[:4]), torch.ones(4, 4))
    assert torch.equal(third[0], third[1])
    assert not torch.equal(first, third)
    assert not torch.equal(third, last)


def test_random_weights_follow_the_seed_of_the_run() -> None:
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        loss = RECIPES["ensemble_random"].make_loss(5, 8)
        assert isinstance(loss, WeightedLossEnsemble)
        assert isinstance(loss.weighting, RandomWeights)
        draws.append(loss.weighting.seed)
    assert draws[0] == draws[1] != draws[2]


def test_settings_of_an_ensemble_name_its_parts() -> None:
    settings = RECIPES["ensemble_squared"].settings("digits", BUDGETS["digits"])
    json.dumps(settings, allow_nan=False)
    loss = settings["loss"]
    assert loss["weighting"] == {
        "class": "pml_extras.SquaredWeights",
        "prior": PRIOR,
        "floor": None,
        "penalty": 1e4,
    }
    assert loss["members"]["triplet"]["loss"]["margin"] == 1.0
    assert loss["members"]["triplet"]["miner"]["type_of_triplets"] == "semihard"
    assert loss["max_scale"] == 10.0
    assert "unit_rows" not in settings
    compressed = RECIPES["ensemble_compressed"].settings("digits", BUDGETS["digits"])
    assert compressed["unit_rows"] is False
    assert compressed["loss"]["ensemble"]["heads_to_width"] == 2
    hashes = {digest(r.settings("digits", BUDGETS["digits"])) for r in ENSEMBLES}
    renamed = {digest({**r.settings("digits", BUDGETS["digits"]), "recipe": ""}) for r in ENSEMBLES}
    assert len(hashes) == len(renamed) == len(ENSEMBLES)


def test_statistics_of_the_weights_are_in_the_curve(few: Data, budget: Budget) -> None:
    statistics = run_once(RECIPES["ensemble_heads"], few, budget).curve[-1]["statistics"]
    expected = {f"{what}_{name}" for what in ("value", "weight") for name in PRIOR}
    assert set(statistics) == {*expected, "value_diversity_loss"}
    assert sum(statistics[f"weight_{name}"] for name in PRIOR) == pytest.approx(1.0, abs=1e-5)


def test_neighbours_are_by_distance_where_norms_differ(digits: Data) -> None:
    rows = torch.randn(len(digits.test.labels), 3) + 2.0
    found = nearest(digits.test, rows)
    by_class = torch.argsort(digits.test.labels, stable=True)
    query = by_class[int(0.5 / 6 * len(by_class))]
    order = (rows - rows[query]).square().sum(1).argsort()[1:8]
    names = [digits.test.classes[label] for label in digits.test.labels[order].tolist()]
    assert found["classes"][0][1:] == names


def test_rows_are_compared_as_they_are_where_the_recipe_says_so(digits: Data) -> None:
    split = replace(digits.test, images=digits.test.images[::9], labels=digits.test.labels[::9])
    trunk = nn.Flatten()
    raw = evaluate(trunk, split, device=CPU, unit_rows=False)
    torch.testing.assert_close(raw.embeddings, split.images.flatten(1))
    distances = torch.cdist(raw.embeddings, raw.embeddings).fill_diagonal_(torch.inf)
    hits = split.labels[distances.argmin(dim=1)] == split.labels
    assert raw.metrics["recall_at_1"] == pytest.approx(hits.double().mean().item())


@pytest.mark.skipif(
    DATASETS["omniglot_ensemble"].place(None) is None, reason="needs the official files"
)
def test_omniglot_ensemble_has_the_images_of_omniglot() -> None:
    data, whole = (DATASETS[name].load(None) for name in ("omniglot_ensemble", "omniglot"))
    assert data.name == "omniglot_ensemble"
    assert data.validation is None
    assert torch.equal(data.train.images, whole.train.images)
    assert torch.equal(data.test.images, whole.test.images)
