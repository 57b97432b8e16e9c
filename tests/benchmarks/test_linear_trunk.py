"""A linear layer on features starts without a loss of anything, and trains."""

import pytest
import torch

from benchmarks.datasets import Data
from benchmarks.datasets.split import Split
from benchmarks.linear_trunk import LinearTrunk
from benchmarks.recipes import RECIPES, Budget
from benchmarks.run import run, seeded_trunk

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flat(few: Data) -> Data:
    """The pixels of a few digits as features."""
    halves = (
        Split(half.images.flatten(1)[:, ::7], half.labels, half.classes)
        for half in (few.train, few.test)
    )
    return Data("digits", *halves)


def test_at_full_width_it_starts_as_the_identity() -> None:
    features = torch.randn(6, 10)
    for seed in (0, 1):
        assert torch.equal(seeded_trunk(10, seed, (10,))(features), features)


def test_a_narrower_one_starts_with_orthonormal_rows_and_a_wider_one_keeps_distances() -> None:
    narrow = LinearTrunk(10, 4).weight
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(4))
    features = torch.randn(6, 10)
    wide = LinearTrunk(10, 14)(features)
    torch.testing.assert_close(torch.cdist(wide, wide), torch.cdist(features, features))


def test_another_seed_is_another_projection() -> None:
    weights = [next(seeded_trunk(4, seed, (10,)).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_floor_is_the_features_as_they_came_and_training_moves_away(
    flat: Data, budget: Budget
) -> None:
    width = flat.train.images.shape[1]
    budget = Budget(2, 2, 20, 4, embedding_size=width)
    floor, trained = (
        run(RECIPES[name], flat, 0, budget, device=CPU) for name in ("untrained", "proxy_anchor")
    )
    unit = torch.nn.functional.normalize(flat.test.images)
    sim = (unit @ unit.T).fill_diagonal_(-1)
    right = flat.test.labels[sim.argmax(dim=1)] == flat.test.labels
    assert floor.metrics["recall_at_1"] == pytest.approx(float(right.float().mean()))
    assert trained.curve[0] == floor.curve[0]
    assert trained.metrics != floor.metrics


def test_features_have_no_maps_to_pool(flat: Data, budget: Budget) -> None:
    with pytest.raises(ValueError, match=r"pooling: expected images.*got \(112,\) features"):
        run(RECIPES["gsp"], flat, 0, budget, device=CPU)


def test_parts_of_other_widths_and_texts_of_another_number_are_refused(flat: Data) -> None:
    narrow = Split(flat.test.images[:, :5], flat.test.labels, flat.test.classes)
    with pytest.raises(ValueError, match=r"digits test images: expected .*112\); got \(\d+, 5\)"):
        Data("digits", flat.train, narrow)
    few_texts = Split(flat.test.images, flat.test.labels, flat.test.classes, texts=("a", "b"))
    with pytest.raises(ValueError, match=r"digits test texts: expected \d+, one a label; got 2"):
        Data("digits", flat.train, few_texts)
