from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.samplers import MPerClassBatchSampler
from tests.strategies import LABELS

UNEVEN = [3] * 7 + [-7] * 4 + [2**40] + [0] * 10 + [1] * 2


@st.composite
def arguments(draw):
    """(labels as a list, constructor's arguments)."""
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=40))
    kind = draw(st.sampled_from((list, np.array, torch.tensor)))
    n, m = draw(st.integers(1, len(set(labels)))), draw(st.integers(1, 5))
    kwargs = {"m": m, "batch_size": n * m, "seed": draw(st.integers(0, 2**70))}
    return labels, {"labels": kind(labels), **kwargs}


def groups_needed(labels, m):
    return {c: (num + m - 1) // m for c, num in Counter(labels).items()}


def fewest_batches(needed, n):
    """That hold all groups with no class twice, counted up one by one."""
    num = 1
    while n * num < sum(needed.values()) or max(needed.values()) > num:
        num += 1
    return num


def most_full_batches(needed, n):
    """With no class twice and no group again."""
    num = 0
    while sum(min(g, num + 1) for g in needed.values()) >= n * (num + 1):
        num += 1
    return num


def counts_of_groups(labels, batches, m):
    return Counter(c for batch in batches for c in {labels[index] for index in batch})


@given(arguments(), st.booleans(), st.integers(0, 3))
def test_each_batch_has_m_images_of_each_of_its_classes(drawn, drop_last, epoch):
    labels, kwargs = drawn
    sampler = MPerClassBatchSampler(**kwargs, drop_last=drop_last)
    sampler.set_epoch(epoch)
    sizes, m = Counter(labels), kwargs["m"]
    for batch in sampler:
        assert all(type(index) is int for index in batch)
        assert len(batch) == kwargs["batch_size"]
        assert set(Counter(labels[index] for index in batch).values()) == {m}
        for index, count in Counter(batch).items():
            assert m // sizes[labels[index]] <= count <= -(-m // sizes[labels[index]])
        for k in range(0, len(batch), m):  # images of a class stand together
            assert len({labels[index] for index in batch[k : k + m]}) == 1


@given(arguments())
def test_every_image_occurs_in_the_fewest_batches_possible(drawn):
    labels, kwargs = drawn
    sampler = MPerClassBatchSampler(**kwargs)
    batches, needed = list(sampler), groups_needed(labels, kwargs["m"])
    n = kwargs["batch_size"] // kwargs["m"]
    assert len(batches) == len(sampler) == fewest_batches(needed, n)
    counts = Counter(index for batch in batches for index in batch)
    assert set(counts) == set(range(len(labels)))
    for c in needed:  # images of a class go round
        often = [counts[index] for index, label in enumerate(labels) if label == c]
        assert max(often) - min(often) <= 1
    given_again = counts_of_groups(labels, batches, kwargs["m"])
    given_again.subtract(needed)
    assert min(given_again.values()) >= 0
    for c in needed:  # evenly, but for classes that are in every batch
        if given_again[c] + needed[c] < len(batches):
            assert max(given_again.values()) <= given_again[c] + 1


@given(arguments())
def test_drop_last_gives_no_group_again_and_leaves_out_as_few_as_it_can(drawn):
    labels, kwargs = drawn
    sampler = MPerClassBatchSampler(**kwargs, drop_last=True)
    batches, needed = list(sampler), groups_needed(labels, kwargs["m"])
    n = kwargs["batch_size"] // kwargs["m"]
    assert len(batches) == len(sampler) == most_full_batches(needed, n)
    counts = counts_of_groups(labels, batches, kwargs["m"])
    assert all(counts[c] <= needed[c] for c in counts)
    assert sum(min(g, len(batches)) for g in needed.values()) - sum(counts.values()) < n


def test_length_by_hand():
    # m = 2: 4 + 2 + 1 + 5 + 1 = 13 groups; n = 3: 5 batches, or 4 full ones with 12 of 4 + 2 + 1 +
    # 4 + 1. n = 5: 5 for the class of 5 groups, or 1.
    for n, fewest, full in [(3, 5, 4), (5, 5, 1)]:
        assert len(MPerClassBatchSampler(UNEVEN, 2, 2 * n)) == fewest
        assert len(MPerClassBatchSampler(UNEVEN, 2, 2 * n, drop_last=True)) == full


def test_classes_that_are_in_every_batch_leave_the_rest_to_the_others():
    labels = [0] * 10 + [1] * 9 + [2] * 2 + [3] * 2
    for n, expected in ((4, [10, 10, 10, 10]), (3, [10, 10, 5, 5])):
        batches = list(MPerClassBatchSampler(labels, 1, n))
        counts = Counter(labels[index] for batch in batches for index in batch)
        assert len(batches) == 10
        assert all(len({labels[index] for index in batch}) == n for batch in batches)
        assert [counts[c] for c in range(4)] == expected


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_classes_are_in_each_batch_as_often_as_their_size_says():
    labels = [0] * 3 + [1] * 2 + [2] * 2 + [3]  # 8 groups, 2 in a batch: 4 batches
    sampler, num_epochs = MPerClassBatchSampler(labels, 1, 2), 2000
    counts = Counter()
    for _ in range(num_epochs):
        counts.update((k, labels[index]) for k, batch in enumerate(sampler) for index in batch)
    for c, size in enumerate((3, 2, 2, 1)):
        assert chi_square([counts[k, c] for k in range(4)], num_epochs * size / 4) < 16.3


def test_any_two_classes_of_a_size_meet_equally_often():
    labels = [c for c in range(6) for _ in range(2)]
    sampler, met, num_epochs = MPerClassBatchSampler(labels, 1, 3), Counter(), 1000
    for _ in range(num_epochs):
        for batch in sampler:
            met.update(combinations(sorted(labels[index] for index in batch), 2))
    # 4 batches of 3 pairs, 15 pairs of classes
    assert chi_square([met[p] for p in combinations(range(6), 2)], num_epochs * 12 / 15) < 36.1


def test_a_class_meets_many_others_in_one_epoch():
    labels = [c for c in range(20) for _ in range(10)]
    met = {c: set() for c in range(20)}
    for batch in MPerClassBatchSampler(labels, 1, 4):  # 50 batches, 10 with a class
        for index in batch:
            met[labels[index]] |= {labels[other] for other in batch} - {labels[index]}
    assert sum(map(len, met.values())) / 20 > 10  # blocks of classes would give 3


def test_groups_left_out_or_given_again_are_a_uniform_choice():
    labels = [0, 1, 2, 3, 4]  # 3 in a batch: 2 left out, or 1 given again
    for drop_last, expected in ((True, 3 / 5), (False, 6 / 5)):
        sampler, counts = MPerClassBatchSampler(labels, 1, 3, drop_last=drop_last), Counter()
        for _ in range(1000):
            counts.update(index for batch in sampler for index in batch)
        assert chi_square([counts[c] for c in range(5)], 1000 * expected) < 18.5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_data_loader(num_workers):
    labels = torch.tensor(UNEVEN)
    sampler, whole = MPerClassBatchSampler(labels, 2, 6), MPerClassBatchSampler(labels, 2, 6)
    dataset = TensorDataset(torch.arange(len(labels)), labels)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
    for _ in range(2):
        assert len(loader) == len(whole)
        assert [index.tolist() for index, _ in loader] == list(whole)


def test_trainer_of_pml_takes_its_batches():
    asked = []

    class Trunk(torch.nn.Linear):
        def forward(self, x):
            asked.append(x[:, 0].long().tolist())
            return super().forward(x)

    trunk = Trunk(1, 2)
    images = torch.arange(len(UNEVEN), dtype=torch.float32)[:, None]
    sampler, whole = MPerClassBatchSampler(UNEVEN, 2, 6), MPerClassBatchSampler(UNEVEN, 2, 6)
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.01)},
        batch_size=999,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        dataset=TensorDataset(images, torch.tensor(UNEVEN)),
        data_device="cpu",
        sampler=sampler,
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=3)
    assert asked == [batch for _ in range(3) for batch in whole]
    assert sampler.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, r"labels: expected at least one integer.* got float64 \(0,\)"),
        ({"m": 0}, "m: expected an integer >= 1; got 0"),
        ({"m": 4}, "m: expected a divisor of batch_size = 6; got 4"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; got 0"),
        ({"batch_size": 12}, "labels: expected at least batch_size / m = 6 classes; got 5. Take"),
        ({"drop_last": 1}, "drop_last: expected True or False; got 1"),
        ({"seed": -1}, "seed: expected an integer >= 0; got -1"),
        ({"num_replicas": 0}, "num_replicas: expected an integer >= 1; got 0"),
        ({"rank": -1}, "rank: expected an integer >= 0; got -1"),
        ({"num_replicas": 2, "rank": 2}, "rank: expected below num_replicas = 2; got 2. Ranks"),
        (
            {"drop_last": True, "num_replicas": 5},
            "num_replicas: expected at most the 4 batches, with drop_last; got 5",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MPerClassBatchSampler(**{"labels": UNEVEN, "m": 2, "batch_size": 6, **arguments})
