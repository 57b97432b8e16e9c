import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import TensorDataset

from pml_extras.samplers import HardNeighbourBatchSampler

UNEVEN = [3] * 7 + [-7] * 4 + [2**40] + [0] * 10 + [1] * 2


class Features:
    """Rows that move from call to call, and the calls."""

    def __init__(self, num, size=3):
        self.num, self.size, self.calls = num, size, 0

    def __call__(self):
        assert not torch.is_grad_enabled()
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        self.rows = torch.randn(self.num, self.size, generator=generator)
        return self.rows


@st.composite
def samplers(draw):
    """(labels, sampler, pool) with room for the batch."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=5, max_size=9).filter(lambda s: max(s) > 1))
    labels = draw(st.permutations([c for c, size in enumerate(sizes) for _ in range(size)]))
    others = len(labels) - max(sizes)
    num_pairs = draw(st.integers(1, min(sum(size > 1 for size in sizes), (others + 2) // 4)))
    most = (others + 2) // (2 * num_pairs) - 1
    num_neighbours = draw(st.integers(1, most))
    pool = draw(st.integers(num_neighbours, others))
    sampler = HardNeighbourBatchSampler(
        labels,
        Features(len(labels)),
        num_pairs=num_pairs,
        num_neighbours=num_neighbours,
        pool=pool,
        refresh_every=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 2**70)),
    )
    return labels, sampler


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def nearest_of_other_classes(rows, labels, image, num):
    far = sorted(
        (squared(rows[image], rows[other]), other)
        for other in range(len(labels))
        if labels[other] != labels[image]
    )
    return {other for _, other in far[:num]}


@given(samplers())
def test_batches_are_pairs_of_different_classes_then_negatives_of_each_image(drawn):
    labels, sampler = drawn
    p, h = sampler.num_pairs, sampler.num_neighbours
    for refreshed in (False, True):
        if refreshed:
            sampler.refresh()
        batches = list(sampler)
        for batch in batches:
            assert all(type(index) is int for index in batch)
            assert len(batch) == len(set(batch)) == 2 * p * (1 + h) == sampler.batch_size
            left, right, negatives = batch[:p], batch[p : 2 * p], batch[2 * p :]
            assert [labels[i] for i in left] == [labels[i] for i in right]
            assert len({labels[i] for i in left}) == p
            for k, image in enumerate(left + right):
                own = negatives[k * h : (k + 1) * h]
                assert labels[image] not in {labels[index] for index in own}


@given(samplers())
def test_every_image_that_has_another_is_in_a_pair_and_epochs_are_as_short_as_they_can(drawn):
    labels, sampler = drawn
    sizes, p = Counter(labels), sampler.num_pairs
    batches = list(sampler)
    assert {index for batch in batches for index in batch[: 2 * p]} == {
        index for index, c in enumerate(labels) if sizes[c] > 1
    }
    needed, num = [(size + 1) // 2 for size in sizes.values() if size > 1], 1
    while num * p < sum(needed) or max(needed) > num:
        num += 1
    assert len(batches) == len(sampler) == num


@given(samplers())
def test_negatives_come_from_the_pool_of_the_image_as_far_as_it_reaches(drawn):
    labels, sampler = drawn
    p, h, pool = sampler.num_pairs, sampler.num_neighbours, sampler.pool
    sampler.refresh_every = 10**6
    sampler.refresh()
    rows = sampler.features.rows.tolist()
    pools = sampler.state_dict()["pools"]
    for image in range(len(labels)):
        expected = nearest_of_other_classes(rows, labels, image, pool)
        assert set(pools[image].tolist()) == expected
    for batch in sampler:
        for k, image in enumerate(batch[: 2 * p]):
            before = 2 * p + k * h
            own = set(batch[before : before + h])
            free = set(pools[image].tolist()) - set(batch[:before])
            assert len(own & free) == min(h, len(free))


def test_a_pool_is_held_nearest_first():
    features = Features(len(UNEVEN))
    sampler = HardNeighbourBatchSampler(UNEVEN, features, num_pairs=1, num_neighbours=1, pool=9)
    sampler.refresh()
    pools, rows = sampler.state_dict()["pools"].tolist(), features.rows.tolist()
    for image, pool in enumerate(pools):
        far = [squared(rows[image], rows[other]) for other in pool]
        assert far == sorted(far)


def test_searches_of_many_images_are_cut_and_joined():
    labels, features = [k // 2 for k in range(2500)], Features(2500, 2)
    sampler = HardNeighbourBatchSampler(labels, features, num_pairs=1, num_neighbours=1, pool=1)
    sampler.refresh()
    rows, pools = features.rows.double(), sampler.state_dict()["pools"]
    far = torch.cdist(rows, rows)
    same = torch.tensor(labels)[:, None] == torch.tensor(labels)
    nearest = far.masked_fill(same, torch.inf).amin(dim=1)
    torch.testing.assert_close(far.gather(1, pools.long())[:, 0], nearest, rtol=0, atol=1e-5)


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize("refreshed", [False, True])
def test_negatives_are_a_uniform_choice_from_the_pool_or_before_it_from_all(refreshed):
    features = Features(len(UNEVEN))
    sampler = HardNeighbourBatchSampler(
        UNEVEN, features, num_pairs=1, num_neighbours=2, pool=6, refresh_every=10**6
    )
    if refreshed:
        sampler.refresh()
    image, counts = UNEVEN.index(1), Counter()
    while sum(counts.values()) < 2000:
        for batch in sampler:
            if image == batch[0]:
                counts.update(batch[2:4])
    pool = [index for index, c in enumerate(UNEVEN) if c != 1]
    if refreshed:
        pool = nearest_of_other_classes(features.rows.tolist(), UNEVEN, image, 6)
    assert set(counts) == set(pool)
    total, bound = sum(counts.values()), 20.5 if refreshed else 46.8  # 5 and 21 degrees of freedom
    assert chi_square([counts[other] for other in pool], total / len(pool)) < bound


def test_refreshes_come_after_the_batches_they_wait_for_over_epochs():
    features = Features(len(UNEVEN))
    sampler = HardNeighbourBatchSampler(
        UNEVEN, features, num_pairs=2, num_neighbours=1, pool=4, refresh_every=5
    )
    calls = []
    for _ in range(4):
        for _ in sampler:
            calls.append(features.calls)
    assert calls == [k // 5 for k in range(4 * len(sampler))]
    sampler.refresh()
    since = [features.calls for _ in range(2) for _ in sampler]
    assert since == [calls[-1] + 1 + k // 5 for k in range(len(since))]


def test_a_refresh_changes_the_batches():
    moving, still = Features(len(UNEVEN)), torch.randn(len(UNEVEN), 3)
    batches = []
    for features in (moving, lambda: still):
        sampler = HardNeighbourBatchSampler(
            UNEVEN, features, num_pairs=2, num_neighbours=1, pool=1, refresh_every=3
        )
        batches.append(list(sampler))
    assert batches[0][:3] == batches[1][:3]
    assert [b[:4] for b in batches[0]] == [b[:4] for b in batches[1]]
    assert batches[0][3:] != batches[1][3:]


def test_trainer_of_pml_trains_on_neighbours_of_the_network_it_trains():
    images = torch.randn(len(UNEVEN), 3, generator=torch.Generator().manual_seed(0))
    trunk = torch.nn.Linear(3, 2)
    seen = []

    def features():
        seen.append(trunk(images))
        return seen[-1]

    sampler = HardNeighbourBatchSampler(
        UNEVEN, features, num_pairs=2, num_neighbours=1, pool=3, refresh_every=4
    )
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        batch_size=8,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        dataset=TensorDataset(images, torch.tensor(UNEVEN)),
        data_device="cpu",
        sampler=sampler,
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=2)
    assert len(seen) == (2 * len(sampler) - 1) // 4 > 1
    assert not seen[0].requires_grad
    assert not torch.equal(seen[0], seen[1])


def make(**kwargs):
    fixed = {"labels": UNEVEN, "features": Features(len(UNEVEN))}
    fixed |= {"num_pairs": 2, "num_neighbours": 1, "pool": 4}
    return HardNeighbourBatchSampler(**{**fixed, **kwargs})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, r"labels: expected at least one integer"),
        ({"features": torch.zeros(24, 2)}, "features: expected a function .* got Tensor"),
        ({"num_pairs": 0}, "num_pairs: expected an integer >= 1; got 0"),
        ({"num_pairs": 5}, "labels: expected at least num_pairs = 5 classes of two .* got 4"),
        ({"num_neighbours": 0}, "num_neighbours: expected an integer >= 1; got 0"),
        ({"num_neighbours": 5}, "num_neighbours: expected at most pool = 4; got 5"),
        ({"pool": 1.5}, r"pool: expected an integer >= 1; got 1\.5"),
        ({"pool": 15}, "labels: expected at least 15 images beside the largest .* got 14. Lower"),
        ({"num_neighbours": 4}, "labels: expected at least 18 images beside .* got 14. Lower"),
        ({"refresh_every": 0}, "refresh_every: expected an integer >= 1; got 0"),
        ({"seed": -1}, "seed: expected an integer >= 0; got -1"),
        ({"rank": 3, "num_replicas": 3}, "rank: expected below num_replicas = 3; got 3"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_missing_faiss_is_told_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="needs faiss: pip install faiss-cpu"):
        make()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, 2), "features: expected 24 finite rows.*; got 3 rows, 0 not finite"),
        (torch.full((24, 2), torch.nan), "features: .* got 24 rows, 24 not finite"),
        (torch.full((24, 2), 1e99, dtype=torch.float64), "24 not finite"),
        (torch.zeros(24), r"features: expected a floating tensor .* got torch.float32 \(24,\)"),
        ([[0.0] * 2] * 24, r"features: expected a floating tensor .* got list\.$"),
    ],
)
def test_features_of_another_form_are_refused_at_the_refresh(rows, message):
    sampler = make(features=lambda: rows)
    with pytest.raises(ValueError, match=message):
        sampler.refresh()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"pools": torch.zeros(24, 3)},
            r"pools: expected a tensor \(24, 4\), or None; got \(24, 3",
        ),
        ({"pools": [1]}, r"pools: expected a tensor \(24, 4\), or None; got list"),
        ({"pools": torch.full((24, 4), 24)}, r"pools: .*images in \[0, 24\); got .* from 24 to 24"),
        ({"pools": torch.full((24, 4), -1)}, r"pools: .*images in \[0, 24\); got .* from -1 to -1"),
        ({"since_refresh": -1}, "since_refresh: expected an integer >= 0; got -1"),
        ({"epoch": -1}, "epoch: expected an integer >= 0; got -1"),
    ],
)
def test_states_that_are_none_are_refused_and_change_nothing(wrong, message):
    sampler = make()
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**before, **wrong})
    with pytest.raises(ValueError, match="state: expected a mapping with the keys"):
        sampler.load_state_dict({"seed": 1})
    assert sampler.state_dict() == before
