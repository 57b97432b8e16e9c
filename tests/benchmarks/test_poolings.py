"""Rows that differ by their pooling: what they share, and what each is made of."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from benchmarks.datasets import Data
from benchmarks.datasets.collage import collage
from benchmarks.datasets.split import Split
from benchmarks.evaluate import evaluate
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, Budget, Recipe, digest
from benchmarks.recipes.generalized_sum_pooling import (
    AVERAGE,
    GSP,
    ZERO_SHOT,
    AveragePooling,
    GeneralizedMeanPooling,
    MaxPooling,
)
from benchmarks.run import run, seeded_trunk
from benchmarks.trunk import MapTrunk, Trunk
from pml_extras.losses import ZeroShotPredictionLoss
from pml_extras.pooling import GeneralizedSumPooling

CPU = torch.device("cpu")
ROWS = TABLES["omniglot_collage"].recipes
WEIGHED = ("gsp", "gsp_zero_shot", "gsp_zero_shot_memory")


@pytest.fixture(scope="module")
def collages(few: Data) -> Data:
    """Digits among other digits, 40 x 40."""

    def half(split: Split, targets: str, backgrounds: str) -> Split:
        cropped = replace(split, images=split.images[:, :, 4:24, 4:24])
        return collage(
            cropped.only(lambda name: name in targets),
            cropped.only(lambda name: name in backgrounds),
            seed=0,
        )

    return Data("digits", half(few.train, "013", "24"), half(few.test, "567", "89"))


@pytest.fixture
def budget() -> Budget:
    return Budget(epochs=2, iterations=2, batch_size=12, images_per_class=4, embedding_size=16)


@pytest.mark.parametrize("name", ROWS)
def test_every_pooling_trains_and_only_those_that_weigh_places_say_where(
    name: str, collages: Data, budget: Budget
) -> None:
    result = run(RECIPES[name], collages, 0, budget, device=CPU)
    json.dumps(asdict(result), allow_nan=False)
    if RECIPES[name].loss is not None:
        assert len({point["mean_average_precision_at_r"] for point in result.curve}) > 1
    weight = result.metrics.get("weight_on_target_quadrant")
    if name in WEIGHED:
        assert weight == pytest.approx(0.25)  # of start-up: 4 batches of 12 are no 1,024 images
    else:
        assert weight is None


def started(recipe: Recipe) -> Recipe:
    """With the prototypes of the first step, whatever they are."""
    return replace(recipe, pooling_args={**recipe.pooling_args, "startup_size": 0})


def test_weights_of_prototypes_are_measured_at_the_epoch_that_counts(
    collages: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunks: list[MapTrunk] = []

    def kept(*args: object) -> MapTrunk:
        trunk = seeded_trunk(*args)  # type: ignore[arg-type]
        assert isinstance(trunk, MapTrunk)
        trunks.append(trunk)
        return trunk

    monkeypatch.setattr("benchmarks.run.seeded_trunk", kept)
    result = run(started(GSP), collages, 0, budget, device=CPU)
    trunk, test = trunks[0].eval(), collages.test
    with torch.no_grad():
        weights = trunk.pooling.weights(trunk.blocks(test.images))
    assert weights.shape == (len(test.labels), 10, 10)
    assert test.target_quadrant is not None
    expected = sum(
        float(image[5 * (q // 2) : 5 * (q // 2) + 5, 5 * (q % 2) : 5 * (q % 2) + 5].sum())
        for image, q in zip(weights, test.target_quadrant.tolist(), strict=True)
    ) / len(test.labels)
    assert result.metrics["weight_on_target_quadrant"] == pytest.approx(expected, abs=1e-6)
    assert result.curve[-1]["weight_on_target_quadrant"] == pytest.approx(expected, abs=1e-6)
    assert result.curve[0]["weight_on_target_quadrant"] != pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("recipe", [GSP, ZERO_SHOT], ids=lambda recipe: recipe.name)
def test_training_moves_every_parameter_once_there_are_prototypes(
    recipe: Recipe, collages: Data, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[list[tuple[str, nn.Parameter, Tensor]]] = []

    def note(module: nn.Module) -> None:
        before.append([(n, p, p.detach().clone()) for n, p in module.named_parameters()])

    def kept(*args: object) -> nn.Module:
        trunk = seeded_trunk(*args)  # type: ignore[arg-type]
        note(trunk)
        return trunk

    make = Recipe.make_loss

    def watched(recipe: Recipe, num_classes: int, embedding_size: int) -> nn.Module | None:
        loss = make(recipe, num_classes, embedding_size)
        if isinstance(loss, ZeroShotPredictionLoss):
            note(loss)
        return loss

    monkeypatch.setattr("benchmarks.run.seeded_trunk", kept)
    monkeypatch.setattr(Recipe, "make_loss", watched)
    run(started(recipe), collages, 0, budget, device=CPU)
    assert len(before) == (2 if recipe is ZERO_SHOT else 1)
    for name, parameter, old in (entry for entries in before for entry in entries):
        assert not torch.equal(parameter, old), name


def trunk_of(name: str, seed: int = 3) -> MapTrunk:
    recipe = RECIPES[name]

    def pooling(channels: int, embedding_size: int) -> nn.Module:
        assert recipe.pooling is not None
        return recipe.pooling(channels, embedding_size, **recipe.pooling_args)

    trunk = seeded_trunk(16, seed, (1, 40, 40), pooling)
    assert isinstance(trunk, MapTrunk)
    return trunk


def test_rows_of_a_seed_start_from_the_same_convolutions_and_projection() -> None:
    first = trunk_of("average_pooling")
    other_seed = trunk_of("average_pooling", seed=4)
    for name in ROWS:
        trunk = trunk_of(name)
        for part in ("blocks", "pooling.projection"):
            weights = trunk.get_submodule(part).state_dict()
            for key, value in first.get_submodule(part).state_dict().items():
                assert torch.equal(weights[key], value), (name, part, key)
        same = trunk.pooling.projection.weight == other_seed.pooling.projection.weight
        assert not same.any()
    bound = (6 / (16 + 96)) ** 0.5  # Glorot uniform
    largest = first.pooling.projection.weight.abs().max().item()
    assert 0.98 * bound < largest <= bound


def test_maps_keep_25_places_of_a_quadrant_and_the_weights_are_those_of_the_other_trunk() -> None:
    trunk = trunk_of("average_pooling")
    assert trunk.blocks(torch.rand(2, 1, 40, 40)).shape == (2, 96, 10, 10)
    assert isinstance(trunk.blocks[-1], nn.ReLU)  # the first two blocks pool
    flat = seeded_trunk(16, 3, (1, 40, 40))
    assert isinstance(flat, Trunk)
    convolutions = [
        [layer.weight for layer in layers.children() if isinstance(layer, nn.Conv2d)]
        for layers in (trunk.blocks, flat)
    ]
    assert len(convolutions[0]) == 3
    assert all(map(torch.equal, *convolutions))


def test_before_it_has_prototypes_gsp_is_average_pooling() -> None:
    images = torch.rand(5, 1, 40, 40)
    average, gsp, zero_shot = (trunk_of(name).eval() for name in ("average_pooling", *WEIGHED[:2]))
    torch.testing.assert_close(gsp(images), average(images))
    torch.testing.assert_close(zero_shot(images), average(images))  # without attributes
    assert zero_shot.train()(images).shape == (5, 16 + 64)


MAPS = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 8.0]]]])  # (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (AveragePooling, [3.0, 2.0]),
        (MaxPooling, [6.0, 8.0]),
        (GeneralizedMeanPooling, [63 ** (1 / 3), 128 ** (1 / 3)]),  # (1 + 8 + 27 + 216) / 4
    ],
)
def test_poolings_of_a_map_by_hand(pooling: type[AveragePooling], expected: list[float]) -> None:
    made = pooling(2, 2)
    made.projection.weight.data = torch.eye(2)
    torch.testing.assert_close(made(MAPS), torch.tensor([expected]))


def test_the_exponent_of_gem_is_learned_and_its_gradient_finite_at_zero() -> None:
    made = GeneralizedMeanPooling(2, 2)
    maps = torch.zeros(1, 2, 2, 2, requires_grad=True)
    made(maps).sum().backward()
    made(MAPS).sum().backward()
    assert made.exponent.grad is not None
    assert made.exponent.grad.isfinite()
    assert made.exponent.grad != 0
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_learns_its_exponent_from_half_maps_too(dtype: torch.dtype) -> None:
    maps = torch.cat([MAPS, MAPS.clone().index_fill_(1, torch.tensor(1), 0)])  # a silent channel
    gradients = []
    for enabled in (True, False):
        made = GeneralizedMeanPooling(2, 2)
        made.projection.weight.data = torch.eye(2)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            rows = made(maps.to(dtype) if enabled else maps)
        rows.float().sum().backward()
        assert made.exponent.grad is not None
        gradients.append(made.exponent.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.02, atol=0)


class Spy(BaseMiner):  # type: ignore[misc]
    widths: list[int]

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        Spy.widths.append(embeddings.shape[1])
        return tuple(torch.tensor([k]) for k in (0, 1, 5))  # type: ignore[return-value]


def test_a_miner_and_the_evaluation_see_the_embedding_alone(collages: Data, budget: Budget) -> None:
    Spy.widths = []
    recipe = replace(started(ZERO_SHOT), miner=Spy)
    run(recipe, collages, 0, budget, device=CPU)
    assert Spy.widths == [16] * budget.steps
    found = evaluate(trunk_of("gsp_zero_shot"), collages.test, device=CPU)
    assert found.embeddings.shape == (len(collages.test.labels), 16)


def test_all_rows_have_one_loss_and_say_what_they_are_made_of() -> None:
    loss = ZERO_SHOT.make_loss(7, 16)
    assert isinstance(loss, ZeroShotPredictionLoss)
    alone = AVERAGE.make_loss(7, 16)
    assert type(loss.inner) is type(alone)
    assert type(loss.inner.distance) is type(alone.distance)  # type: ignore[union-attr]
    settings = {
        name: RECIPES[name].settings("omniglot_collage", BUDGETS["omniglot_collage"])
        for name in ROWS
        if name not in ("untrained_pooling", "gsp_zero_shot_memory")
    }
    json.dumps(settings, allow_nan=False)
    contrastive = settings["average_pooling"]
    assert (contrastive["loss"]["pos_margin"], contrastive["loss"]["neg_margin"]) == (1.0, 0.5)
    assert contrastive["distance"]["class"] == "pytorch_metric_learning.CosineSimilarity"
    assert settings["gsp_zero_shot"]["loss"]["weight"] == 0.1
    inner = settings["gsp_zero_shot"]["loss"].pop("inner")
    assert inner == {part: contrastive[part] for part in ("loss", "miner", "distance")}
    for name in settings:
        if name != "gsp_zero_shot":
            for part in ("loss", "distance", "miner", "budget"):
                assert settings[name][part] == contrastive[part]
    pooling = settings["gsp"]["pooling"]
    assert pooling["class"] == "pml_extras.GeneralizedSumPooling"
    assert (pooling["mass"], pooling["sharpness"], pooling["num_prototypes"]) == (0.3, 5.0, 64)
    assert pooling["startup_size"] == 1024
    assert settings["gsp_zero_shot"]["pooling"] == {**pooling, "concatenate_attributes": True}
    assert len({digest({**found, "recipe": ""}) for found in settings.values()}) == len(settings)
    assert "pooling" not in RECIPES["contrastive"].settings("digits", BUDGETS["digits"])


def test_prototypes_come_after_1024_images() -> None:
    trunk = trunk_of("gsp").train()
    assert isinstance(trunk.pooling, GeneralizedSumPooling)
    for batch in range(16):  # of 64
        assert not trunk.pooling.started, batch
        trunk(torch.rand(64, 1, 8, 8))
    trunk(torch.rand(64, 1, 8, 8))
    assert trunk.pooling.started
