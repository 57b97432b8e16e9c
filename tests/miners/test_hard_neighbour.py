import copy
import json
from collections import Counter
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import TensorDataset

from pml_extras.miners import HardNeighbourMiner
from pml_extras.samplers import MPerClassBatchSampler
from tests.strategies import LABELS


@st.composite
def batches(draw):
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    embeddings = torch.randn(len(labels), 3, dtype=torch.float64, generator=generator)
    return embeddings, torch.tensor(labels)


def distance(x, y):
    """Euclidean, between unit rows."""
    nx, ny = (sqrt(sum(a * a for a in row)) for row in (x, y))
    return sqrt(sum((a / nx - b / ny) ** 2 for a, b in zip(x, y, strict=True)))


def expected_negatives(rows, labels, pairs, num):
    chosen = list(pairs)
    for i in pairs:
        free = [j for j in range(len(rows)) if labels[j] != labels[i] and j not in chosen]
        chosen += sorted(free, key=lambda j: distance(rows[i], rows[j]))[:num]
    return chosen


@given(batches(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**70))
def test_pairs_are_of_different_classes_and_followed_by_the_hardest(batch, p, h, seed):
    embeddings, labels = batch
    chosen = HardNeighbourMiner(p, h, seed=seed)(embeddings, labels)
    assert chosen.dtype == torch.int64
    chosen = chosen.tolist()
    assert len(chosen) == len(set(chosen)) == min(len(labels), 2 * p * (1 + h))
    classes = labels.tolist()
    num = min(p, sum(count > 1 for count in Counter(classes).values()))
    left, right = chosen[:num], chosen[num : 2 * num]
    assert [classes[i] for i in left] == [classes[i] for i in right]
    assert len({classes[i] for i in left}) == num
    expected = expected_negatives(embeddings.tolist(), classes, left + right, h)
    assert chosen[: len(expected)] == expected  # what follows are random rows


@given(batches(), st.integers(1, 4), st.integers(1, 3))
def test_similarities_choose_as_the_distance_of_unit_rows(batch, p, h):
    by_distance = HardNeighbourMiner(p, h, distance=LpDistance(power=2))(*batch)
    by_similarity = HardNeighbourMiner(p, h, distance=CosineSimilarity())(*batch)
    assert by_distance.tolist() == by_similarity.tolist()


def test_the_distance_is_the_one_that_was_given():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [9.0, 0.1], [0.0, 1.0]])
    labels = torch.tensor([5, 5, 6, 7])
    for normalize, expected in ((True, [2, 3]), (False, [3, 2])):
        miner = HardNeighbourMiner(1, 1, distance=LpDistance(normalize_embeddings=normalize))
        assert miner(rows, labels).tolist()[2:] == expected


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_classes_and_their_rows_are_a_uniform_choice():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    rows = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    miner, counts = HardNeighbourMiner(1, 1), Counter()
    for _ in range(1800):
        left, right, *_ = miner(rows, labels).tolist()
        counts[left, right] += 1
    for own in ((0, 1, 2), (3, 4), (5, 6, 7, 8)):
        pairs = [(i, j) for i in own for j in own if i != j]
        # 600 of each class: 32.9 is 1 in 1000 for 12 degrees of freedom
        assert chi_square([counts[pair] for pair in pairs], 600 / len(pairs)) < 32.9


def test_rows_that_fill_up_are_a_uniform_choice():
    rows, miner, counts = torch.randn(7, 2), HardNeighbourMiner(1, 1), Counter()
    for _ in range(1000):  # no class has two rows
        counts.update(miner(rows, torch.arange(7)).tolist())
    assert chi_square([counts[row] for row in range(7)], 4000 / 7) < 22.5


def test_a_state_is_plain_also_where_arguments_are_of_numpy():
    one = np.int64(1)
    state = HardNeighbourMiner(one, one, seed=one).state_dict()["_extra_state"]
    other = HardNeighbourMiner(1, 1)
    other.set_extra_state({"seed": one, "num_calls": one})
    assert json.loads(json.dumps(state)) == {"seed": 1, "num_calls": 0}
    assert json.loads(json.dumps(other.get_extra_state())) == {"seed": 1, "num_calls": 1}


def test_each_call_draws_anew_and_a_saved_state_goes_on():
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 3, generator=generator), torch.arange(40) // 4
    before = torch.get_rng_state()
    miner, other = HardNeighbourMiner(2, 1, seed=4), HardNeighbourMiner(2, 1, seed=5)
    first = [miner(rows, labels).tolist() for _ in range(5)]
    assert len({str(chosen) for chosen in first}) == 5
    other.load_state_dict(miner.state_dict())
    copied = copy.deepcopy(miner)
    rest = [miner(rows, labels).tolist() for _ in range(3)]
    assert [other(rows, labels).tolist() for _ in range(3)] == rest
    assert [copied(rows, labels).tolist() for _ in range(3)] == rest
    assert HardNeighbourMiner(2, 1, seed=5)(rows, labels).tolist() != first[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_types_and_autocast_choose_as_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 3, generator=generator).to(dtype)  # close: rounding changes the order
    labels = torch.arange(400) // 4
    miner, other, third = (HardNeighbourMiner(3, 9, distance=CosineSimilarity()) for _ in range(3))
    expected = miner(rows.float(), labels)
    assert torch.equal(other(rows, labels), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(third(rows, labels), expected)


class Trunk(torch.nn.Sequential):
    """Writes down which images it saw, and whether to train on."""

    def __init__(self):
        super().__init__(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        self.seen = []

    def forward(self, x):
        y = super().forward(x)
        self.seen.append((self.training, torch.is_grad_enabled(), x, y.detach()))
        return y


def test_trainer_of_pml_trains_on_the_rows_it_returns():
    labels = torch.arange(60) // 5
    images = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    trunk, miner = Trunk(), HardNeighbourMiner(2, 1, seed=1)
    candidates = MPerClassBatchSampler(labels, 3, 24)
    again = HardNeighbourMiner(2, 1, seed=1)
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        batch_size=24,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        mining_funcs={"subset_batch_miner": miner},
        dataset=TensorDataset(images, labels),
        data_device="cpu",
        sampler=candidates,
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=2)
    sampler = MPerClassBatchSampler(labels, 3, 24)
    plan = [batch for _ in range(2) for batch in sampler]
    looked, trained = trunk.seen[::2], trunk.seen[1::2]
    assert len(looked) == len(trained) == len(plan)
    for batch, look, train in zip(plan, looked, trained, strict=True):
        assert look[:2] == (False, False)
        assert train[:2] == (True, True)
        assert torch.equal(look[2], images[batch])
        chosen = again(look[3], labels[batch])
        assert len(chosen) == 8
        assert torch.equal(train[2], images[batch][chosen])


def test_references_are_refused():
    rows, labels = torch.randn(6, 2), torch.arange(6) // 2
    with pytest.raises(ValueError, match=r"ref_emb: expected None; .* It chooses rows of one"):
        HardNeighbourMiner(1, 1)(rows, labels, rows.clone(), labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_pairs": 0}, "num_pairs: expected an integer >= 1; got 0"),
        ({"num_neighbours": 1.0}, r"num_neighbours: expected an integer >= 1; got 1\.0"),
        ({"seed": -2}, "seed: expected an integer >= 0; got -2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HardNeighbourMiner(**{"num_pairs": 2, "num_neighbours": 1, **arguments})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seed": 1}, "state: expected the keys seed and num_calls"),
        ({"seed": -1, "num_calls": 0}, "seed: expected an integer"),
    ],
)
def test_states_that_are_none_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        HardNeighbourMiner(2, 1).set_extra_state(state)
