"""Rows that differ by their pooling: what they share, what they weigh, and what is said of it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from benchmarks.datasets import Data
from benchmarks.datasets.collage import collage
from benchmarks.datasets.split import Split
from benchmarks.evaluate import evaluate
from benchmarks.quadrants import weight_on_quadrant, weight_on_target
from benchmarks.recipes import BUDGETS, RECIPES, TABLES, Budget, Recipe, digest
from benchmarks.recipes.generalized_sum_pooling import (
    AVERAGE,
    GSP,
    ZERO_SHOT,
    AveragePooling,
    GeneralizedMeanPooling,
    MaxPooling,
)
from benchmarks.records import Record
from benchmarks.reporting import plots, tables
from benchmarks.reporting.selection import select
from benchmarks.run import run, seeded_trunk
from benchmarks.trunk import MapTrunk, Trunk
from pml_extras.losses import ZeroShotPredictionLoss
from pml_extras.pooling import GeneralizedSumPooling

CPU = torch.device("cpu")
ROWS = TABLES["omniglot_collage"].recipes
WEIGHED = ("gsp", "gsp_zero_shot")
MadeUp = Callable[..., Record]


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
    average, gsp, zero_shot = (trunk_of(name).eval() for name in ("average_pooling", *WEIGHED))
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
    }
    json.dumps(settings, allow_nan=False)
    inner = settings["gsp_zero_shot"]["loss"].pop("inner")
    assert inner == {
        part: settings["average_pooling"][part] for part in ("loss", "miner", "distance")
    }
    for name in ROWS:
        if name != "gsp_zero_shot":
            for part in ("loss", "distance", "miner", "budget"):
                assert settings[name][part] == settings["average_pooling"][part]
    pooling = settings["gsp"]["pooling"]
    assert pooling["class"] == "pml_extras.GeneralizedSumPooling"
    assert (pooling["mass"], pooling["sharpness"], pooling["num_prototypes"]) == (0.3, 5.0, 64)
    assert pooling["startup_size"] == 1024
    assert settings["gsp_zero_shot"]["pooling"] == {**pooling, "concatenate_attributes": True}
    assert len({digest({**found, "recipe": ""}) for found in settings.values()}) == len(ROWS)
    assert "pooling" not in RECIPES["contrastive"].settings("digits", BUDGETS["digits"])


def test_weight_is_counted_in_the_quadrant_that_is_named() -> None:
    weights = torch.arange(16, dtype=torch.float64).view(1, 4, 4).repeat(4, 1, 1)
    # rows 0 1 2 3 / 4 5 6 7 / 8 9 10 11 / 12 13 14 15
    found = weight_on_quadrant(weights, torch.tensor([0, 1, 2, 3]))
    assert found.tolist() == [0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 8 + 9 + 12 + 13, 10 + 11 + 14 + 15]
    wide = torch.tensor([[[0.1, 0.2, 0.0, 0.3], [0.0, 0.1, 0.2, 0.1]]], dtype=torch.float64)
    assert weight_on_quadrant(wide, torch.tensor([1])).item() == pytest.approx(0.3)
    for size in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match=f"weights: expected an even .*got {size[0]} x"):
            weight_on_quadrant(torch.zeros(1, *size), torch.tensor([0]))


class Fixed(nn.Module):
    """Weighs the places of 2 x 2 maps .1 .2 / .3 .4."""

    def __init__(self, channels: int, embedding_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, embedding_size, bias=False)

    def weights(self, maps: Tensor) -> Tensor:
        return torch.tensor([[0.1, 0.2], [0.3, 0.4]]).expand(len(maps), 2, 2)


def test_the_measure_is_a_mean_over_images_not_over_batches() -> None:
    trunk = MapTrunk(8, (1, 8, 8), Fixed)
    quadrant = torch.tensor([0] * 256 + [3] * 44)  # 256 images a batch
    split = Split(torch.zeros(300, 1, 8, 8), torch.zeros(300).long(), ("a",), quadrant)
    expected = (256 * 0.1 + 44 * 0.4) / 300
    assert weight_on_target(trunk, split, CPU) == {
        "weight_on_target_quadrant": pytest.approx(expected)
    }
    assert weight_on_target(trunk, replace(split, target_quadrant=None), CPU) == {}
    assert weight_on_target(Trunk(8), split, CPU) == {}
    assert weight_on_target(MapTrunk(8, (1, 8, 8), AveragePooling), split, CPU) == {}


def records_of(made_up: MadeUp, **rows: list[tuple[float, float | None]]) -> list[Record]:
    """(Recall@1, weight on target) by seed."""
    records = []
    for recipe, values in rows.items():
        for seed, (recall, weight) in enumerate(values):
            record = made_up(recipe, seed, recall, "omniglot_collage")
            if weight is not None:
                record["metrics"]["weight_on_target_quadrant"] = weight
            records.append(record)
    return records


def test_the_table_compares_with_average_pooling_and_says_where_the_weight_lies(
    made_up: MadeUp,
) -> None:
    records = records_of(
        made_up,
        average_pooling=[(0.50, None), (0.60, None), (0.70, None)],
        gsp=[(0.52, 0.52), (0.63, 0.63), (0.74, 0.74)],
        gsp_zero_shot=[(0.50, 0.24), (0.60, 0.27), (0.74, 0.26)],
    )
    text = tables.table(select("omniglot_collage", records))
    results, differences = text.split("Difference to ")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in results.splitlines()
        if line.startswith("|")
    }
    column = rows["method"].index("weight on target")
    assert rows["Average pooling"][column] == tables.MISSING
    assert rows["Generalized sum pooling (GSP)"][column] == "63.0 ± 27.3"  # 4.3027 * 11 / sqrt 3
    assert list(rows)[2:] == [RECIPES[n].title for n in ("gsp", "gsp_zero_shot", "average_pooling")]
    assert differences.startswith("Average pooling on the same seeds, in points")
    assert "Generalized sum pooling (GSP) minus Average pooling +3.00 ± 2.48 points" in text
    said = text.split("Part of the pooling weight")[1].splitlines()
    assert "(uniform weights: 25 %), ± half a 95 % t-interval over seeds:" in said[0]
    assert said[2:] == [
        "- Generalized sum pooling (GSP): 63.00 ± 27.33 % over 3 seeds: the interval lies above "
        "25 %.",
        "- GSP with zero-shot loss: 25.67 ± 3.79 % over 3 seeds: the interval contains 25 %.",
    ]


def test_weight_below_uniform_is_said_and_one_seed_says_nothing(made_up: MadeUp) -> None:
    low = [(0.5, 0.10), (0.5, 0.11), (0.5, 0.12)]
    said = tables.on_target(select("omniglot_collage", records_of(made_up, gsp=low)))
    assert said.endswith("11.00 ± 2.48 % over 3 seeds: the interval lies below 25 %.")
    assert tables.on_target(select("omniglot_collage", records_of(made_up, gsp=low[:1]))) == ""
    older = tables.table(select("digits", [made_up("contrastive", 0, 0.5)]))
    assert "weight on target" not in older


def test_pictures_know_our_pooling_from_that_of_others(made_up: MadeUp) -> None:
    rows = {name: [(0.5, None)] for name in ROWS}
    selection = select("omniglot_collage", records_of(made_up, **rows))
    dashed = {m.recipe for m in selection.methods if plots._look(m)["ls"] == "--"}
    assert dashed == {"average_pooling", "max_pooling", "gem_pooling"}
    assert [m.recipe for m in plots._shown(selection)] == ["gsp", "average_pooling"]


def test_prototypes_come_after_1024_images() -> None:
    trunk = trunk_of("gsp").train()
    assert isinstance(trunk.pooling, GeneralizedSumPooling)
    for batch in range(16):  # of 64
        assert not trunk.pooling.started, batch
        trunk(torch.rand(64, 1, 8, 8))
    assert trunk.pooling.started
