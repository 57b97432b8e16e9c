import copy
import json
import pickle
import random
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import common_functions as pml_globals
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.samplers import EpochMPerClassSampler
from tests.strategies import LABELS

UNEVEN = [3] * 7 + [-7] * 4 + [2**40] + [0] * 10 + [1] * 2
"""Of any size beside m = 2, 3, 6: below, equal, a multiple, above."""


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def arguments(draw):
    """(labels as a list, constructor's arguments)."""
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=40))
    kind = draw(st.sampled_from((list, tuple, np.array, torch.tensor)))
    batch_size = draw(st.sampled_from((1, 4, 7, 12, 54)))
    one = st.sampled_from(divisors(batch_size))
    choices = [one, st.lists(one, min_size=1, max_size=4)]
    choices += [st.none()] if len(divisors(batch_size)) > 2 else []
    m = draw(st.one_of(choices))
    kwargs = {"batch_size": batch_size, "m": m, "seed": draw(st.integers(0, 2**70))}
    return labels, {"labels": kind(labels), **kwargs}


def groups_of(indices, m):
    return [tuple(indices[k : k + m]) for k in range(0, len(indices), m)]


def batch_groups(sampler, epoch):
    """m, n and the groups of an epoch."""
    sampler.set_epoch(epoch)
    m = sampler.m_of_epoch(epoch)
    return m, sampler.batch_size // m, groups_of(list(sampler), m)


def needed(labels, m):
    """Groups of each class: its images by m, rounded up."""
    return {c: (num + m - 1) // m for c, num in Counter(labels).items()}


def take(sampler, num):
    """The next ``num`` indices, over as many epochs as that takes."""
    taken = []
    while len(taken) < num:
        taken += islice(sampler, num - len(taken))
    return taken


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


@given(arguments(), st.integers(0, 3))
def test_every_image_occurs_and_length_is_exact(drawn, epoch):
    labels, kwargs = drawn
    sampler = EpochMPerClassSampler(**kwargs)
    sampler.set_epoch(epoch)
    expected = len(sampler)
    indices = list(sampler)
    assert set(indices) == set(range(len(labels)))
    assert all(type(index) is int for index in indices)
    assert len(indices) == expected
    assert len(indices) % kwargs["batch_size"] == 0


@given(arguments(), st.integers(0, 3))
def test_groups_are_of_one_class_and_classes_have_as_many_as_they_need(drawn, epoch):
    labels, kwargs = drawn
    m, n, groups = batch_groups(EpochMPerClassSampler(**kwargs), epoch)
    assert all(len({labels[index] for index in group}) == 1 for group in groups)
    need = needed(labels, m)
    once, again = groups[: sum(need.values())], groups[sum(need.values()) :]
    assert Counter(labels[group[0]] for group in once) == need
    assert len(again) < n
    assert set(again) <= set(once)


@given(arguments(), st.integers(0, 3))
def test_nothing_occurs_more_often_than_it_must(drawn, epoch):
    labels, kwargs = drawn
    sizes = Counter(labels)
    m, n, groups = batch_groups(EpochMPerClassSampler(**kwargs), epoch)
    num_groups = sum(needed(labels, m).values())
    for group in groups:
        size = sizes[labels[group[0]]]
        often = Counter(group).values()
        assert max(often) <= -(-m // size)
        assert min(often) >= m // size
    once = Counter(index for group in groups[:num_groups] for index in group)
    for index, count in once.items():
        size = sizes[labels[index]]
        assert count <= (2 if size >= m else -(-m // size))
        assert count == 1 or size % m
    for k in range(0, len(groups), n):
        assert max(Counter(groups[k : k + n]).values()) <= -(-n // num_groups)


def test_length_of_an_epoch_by_hand():
    # m = 2: 4 + 2 + 1 + 5 + 1 = 13 groups, n = 6: 3 batches of 12. m = 6: 2 + 1 + 1 + 2 + 1 = 7
    # groups, n = 2: 4 batches.
    assert len(EpochMPerClassSampler(UNEVEN, 2, batch_size=12)) == 36
    assert len(EpochMPerClassSampler(UNEVEN, 6, batch_size=12)) == 48


@given(arguments(), st.integers(0, 5))
def test_an_epoch_depends_on_seed_and_number_alone(drawn, epoch):
    _, kwargs = drawn
    by_number, by_order = EpochMPerClassSampler(**kwargs), EpochMPerClassSampler(**kwargs)
    by_number.set_epoch(epoch)
    for _ in range(epoch):
        list(by_order)
    assert by_number.state_dict() == by_order.state_dict()
    assert list(by_number) == list(by_order)


def test_order_is_that_of_recorded_runs():
    # Written down at version 0.1.0, before other samplers shared the code.
    sampler = EpochMPerClassSampler([5, 5, 5, 1, 1, 2, 5], batch_size=4, m=2, seed=3)
    assert list(sampler) == [5, 5, 4, 3, 6, 2, 1, 0]
    assert list(sampler) == [0, 6, 4, 3, 5, 5, 2, 1]


def test_epochs_and_seeds_differ():
    epochs = set()
    for seed in range(5):
        sampler = EpochMPerClassSampler(UNEVEN, 3, batch_size=12, seed=seed)
        epochs |= {tuple(sampler) for _ in range(5)}
    assert len(epochs) == 25


@pytest.mark.parametrize("m", [None, [2, 3, 6, 9, 18, 27]])
def test_m_is_drawn_uniformly_from_all_divisors(m):
    sampler = EpochMPerClassSampler(UNEVEN, m, batch_size=54)
    counts = Counter(sampler.m_of_epoch(epoch) for epoch in range(600))
    assert set(counts) == {2, 3, 6, 9, 18, 27}
    assert chi_square(counts.values(), 100) < 20.5  # 5 degrees of freedom, 1 in 1000


def test_length_follows_the_m_of_the_epoch():
    sampler = EpochMPerClassSampler(UNEVEN, batch_size=12)
    seen = set()
    for epoch in range(20):
        m, expected = sampler.m_of_epoch(epoch), len(sampler)
        indices = []
        for index in sampler:
            indices.append(index)
            if len(indices) < expected:
                assert len(sampler) == expected
        assert len(indices) == expected
        assert 12 * -(-sum(needed(UNEVEN, m).values()) // (12 // m)) == expected
        seen.add((m, expected))
    assert len(seen) > 2


@pytest.mark.parametrize(
    ("size", "m", "again"), [(5, 3, 1), (7, 4, 1), (7, 5, 3), (2, 5, 1), (3, 4, 1)]
)
def test_images_that_occur_again_are_a_uniform_choice(size, m, again):
    sampler = EpochMPerClassSampler([9] * size, m, batch_size=m)
    counts, pairs, num_epochs = Counter(), Counter(), 4000
    for _ in range(num_epochs):
        often = Counter(sampler)
        least = min(often.values())
        repeated = [index for index in range(size) if often[index] > least]
        assert len(repeated) == again
        counts.update(repeated)
        pairs.update(combinations(repeated, 2))
    # 1 in 1000 for up to 6 degrees of freedom, and for 20
    assert chi_square([counts[k] for k in range(size)], num_epochs * again / size) < 22.5
    if again > 1:
        expected = num_epochs * again * (again - 1) / size / (size - 1)
        assert chi_square([pairs[p] for p in combinations(range(size), 2)], expected) < 45.3


def test_any_two_images_of_a_class_share_a_group_equally_often():
    sampler = EpochMPerClassSampler(
        [4] * 7, 3, batch_size=3
    )  # 3 groups, 2 repeats: 9 pairs of 21 an epoch
    together, num_epochs = Counter(), 2000
    for _ in range(num_epochs):
        for group in groups_of(list(sampler), 3):
            together.update(combinations(sorted(group), 2))
    assert sum(together.values()) == 9 * num_epochs
    assert chi_square([together[p] for p in combinations(range(7), 2)], num_epochs * 9 / 21) < 45.3


def test_groups_of_all_classes_are_shuffled_together():
    labels = [0] * 4 + [1] * 4 + [2] * 2  # m = 2: groups 0 0 1 1 2, of which one is repeated
    sampler = EpochMPerClassSampler(labels, 2, batch_size=4)
    first, last, num_epochs, same = Counter(), Counter(), 3000, 0
    for epoch in range(num_epochs):
        _, _, groups = batch_groups(sampler, epoch)
        classes = [labels[group[0]] for group in groups]
        first[classes[0]] += 1
        last[classes[-1]] += 1
        same += classes[0] == classes[1]
    expected = (num_epochs * 2 / 5, num_epochs * 2 / 5, num_epochs / 5)
    for counts in (first, last):
        observed = zip((counts[c] for c in range(3)), expected, strict=True)
        assert sum((o - e) ** 2 / e for o, e in observed) < 13.8  # 2 degrees of freedom
    assert 500 < same < 700  # a class twice in the first batch: 2 of the 10 pairs of groups


@given(arguments(), st.data())
def test_state_saved_anywhere_resumes_exactly(drawn, data):
    _, kwargs = drawn
    whole = EpochMPerClassSampler(**kwargs)
    two_epochs = list(whole) + list(whole)
    num = data.draw(st.integers(0, len(two_epochs)))
    stopped = EpochMPerClassSampler(**kwargs)
    assert take(stopped, num) == two_epochs[:num]
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = EpochMPerClassSampler(**{**kwargs, "seed": 5})
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert take(resumed, len(two_epochs) - num) == two_epochs[num:]
    assert resumed.state_dict() == whole.state_dict()
    assert list(resumed) == list(whole)


def place(sampler):
    state = sampler.state_dict()
    return state["seed"], state["epoch"], state["position"]


@pytest.mark.parametrize(
    "other",
    [
        {"m": 2},
        {"m": None},
        {"batch_size": 6},
        {"labels": [*UNEVEN, UNEVEN[0]]},
        {"labels": UNEVEN[::-1]},  # classes of the same sizes
    ],
    ids=str,
)
def test_a_state_of_another_setting_is_refused(other):
    arguments = {"labels": UNEVEN, "batch_size": 12, "m": 3}
    state = EpochMPerClassSampler(**arguments).state_dict()
    sampler = EpochMPerClassSampler(**{**arguments, **other})
    with pytest.raises(ValueError, match=r"setting: expected .* got .*labels, batch_size and m as"):
        sampler.load_state_dict(state)


def test_state_counts_what_was_handed_out():
    sampler = EpochMPerClassSampler(UNEVEN, 3, batch_size=12, seed=8)
    length = len(sampler)
    places = [place(sampler)] + [place(sampler) for _ in sampler]
    assert places == [*((8, 0, k) for k in range(length)), (8, 1, 0)]


def test_a_position_at_the_end_is_the_start_of_the_next_epoch():
    sampler = EpochMPerClassSampler(UNEVEN, 3, batch_size=12)
    sampler.load_state_dict({**sampler.state_dict(), "epoch": 4, "position": len(sampler)})
    assert place(sampler) == (0, 5, 0)


def test_a_state_is_measured_by_the_epoch_of_its_own_seed():
    samplers = [EpochMPerClassSampler(UNEVEN, batch_size=12, seed=seed) for seed in range(10)]
    short, long = min(samplers, key=len), max(samplers, key=len)
    state = {**long.state_dict(), "position": len(long) - 1}
    assert len(short) < state["position"]
    short.load_state_dict(state)
    assert list(short) == list(long)[-1:]


def test_an_abandoned_epoch_is_followed_by_the_next():
    sampler, whole = (
        EpochMPerClassSampler(UNEVEN, batch_size=12),
        EpochMPerClassSampler(UNEVEN, batch_size=12),
    )
    _, second, third = list(whole), list(whole), list(whole)
    for _ in sampler:
        break
    assert list(sampler) == second
    assert list(sampler) == third


def test_an_iterator_that_was_not_used_begins_no_epoch():
    sampler, whole = (
        EpochMPerClassSampler(UNEVEN, batch_size=12),
        EpochMPerClassSampler(UNEVEN, batch_size=12),
    )
    iter(sampler)
    assert list(sampler) == list(whole)


def test_an_older_iterator_goes_on_and_counts_no_longer():
    sampler, whole = (
        EpochMPerClassSampler(UNEVEN, 3, batch_size=12),
        EpochMPerClassSampler(UNEVEN, 3, batch_size=12),
    )
    older = iter(sampler)
    begin = [next(older)]
    newer = iter(sampler)
    next(newer)
    assert begin + list(older) == list(whole)
    assert place(sampler) == (0, 1, 1)


def test_epoch_can_be_set_also_in_the_middle_of_another():
    sampler, whole = (
        EpochMPerClassSampler(UNEVEN, batch_size=12),
        EpochMPerClassSampler(UNEVEN, batch_size=12),
    )
    epochs = [list(whole) for _ in range(4)]
    for epoch in (3, 0, 0, 2):
        sampler.set_epoch(epoch)
        assert len(sampler) == len(epochs[epoch])
        assert list(islice(sampler, 5)) == epochs[epoch][:5]
    assert list(sampler) == epochs[3]


def test_copies_are_samplers_of_their_own():
    sampler = EpochMPerClassSampler(torch.tensor(UNEVEN), batch_size=12, seed=2)
    take(sampler, 5)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler)), copy.copy(sampler)):
        assert place(other) == place(sampler) == (2, 0, 5)
        before = sampler.state_dict()
        epoch = list(other)
        assert sampler.state_dict() == before
        assert epoch == list(copy.deepcopy(sampler))


def test_labels_may_change_after_construction():
    labels = np.array(UNEVEN)
    sampler, whole = (
        EpochMPerClassSampler(labels, batch_size=12),
        EpochMPerClassSampler(UNEVEN, batch_size=12),
    )
    labels[:] = 0
    assert list(sampler) == list(whole)


def global_random_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    pml_state = pml_globals.NUMPY_RANDOM.bit_generator.state
    return random.getstate(), str(numpy_state), torch.get_rng_state().tolist(), str(pml_state)


def test_global_random_states_are_neither_read_nor_written(monkeypatch):
    epochs = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        monkeypatch.setattr(pml_globals, "NUMPY_RANDOM", np.random.default_rng(seed))
        before = global_random_state()
        sampler = EpochMPerClassSampler(UNEVEN, batch_size=12)
        epochs.append([len(sampler), *sampler, *sampler])
        assert global_random_state() == before
        list(MPerClassSampler(UNEVEN, 2, 4, 40))  # the comparison sees a draw
        assert global_random_state() != before
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_data_loader_are_groups_of_m(num_workers):
    labels = torch.tensor(UNEVEN)
    sampler = EpochMPerClassSampler(labels, batch_size=12)
    dataset = TensorDataset(torch.arange(len(labels)), labels)
    loader = DataLoader(dataset, batch_size=12, sampler=sampler, num_workers=num_workers)
    for epoch in range(4):
        m, num_batches = sampler.m_of_epoch(epoch), len(loader)
        batches = list(loader)
        assert len(batches) == num_batches
        assert set(torch.cat([index for index, _ in batches]).tolist()) == set(range(len(labels)))
        for _, y in batches:
            assert (y.reshape(-1, m) == y.reshape(-1, m)[:, :1]).all()


class Recorder(torch.utils.data.Dataset):
    """Random images that write down who was asked for."""

    def __init__(self, labels):
        self.labels = labels
        self.asked = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.asked.append(index)
        return torch.full((3,), float(index)), self.labels[index]


@pytest.mark.parametrize(("m", "iterations"), [(3, None), (None, 5)])
def test_trainer_of_pml_sees_the_epochs(m, iterations):
    dataset = Recorder(UNEVEN)
    trunk = torch.nn.Linear(3, 2)
    before = trunk.weight.detach().clone()
    sampler, whole = (
        EpochMPerClassSampler(UNEVEN, m, batch_size=12),
        EpochMPerClassSampler(UNEVEN, m, batch_size=12),
    )
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.01)},
        batch_size=12,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        dataset=dataset,
        data_device="cpu",
        sampler=sampler,
        iterations_per_epoch=iterations,
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=3)
    assert trainer.iterations_per_epoch == (iterations or len(whole) // 12)
    assert not torch.equal(trunk.weight, before)
    assert len(dataset.asked) == 3 * 12 * trainer.iterations_per_epoch
    assert dataset.asked == take(whole, len(dataset.asked))
    assert sampler.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, r"labels: expected at least one integer.* got float64 \(0,\)"),
        ({"labels": torch.empty(0, dtype=torch.int64)}, r"labels: .* got torch\.int64 \(0,\)"),
        ({"labels": torch.zeros(4)}, r"labels: .* got torch\.float32 \(4,\)\. np\.unique"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, r"labels: .*got torch\.int64 \(4, 1\)"),
        ({"labels": np.array([True, False])}, r"labels: .* got bool \(2,\)"),
        ({"labels": ["wren", "owl"]}, r"labels: .* numbers the classes"),
        ({"labels": torch.tensor(3)}, r"labels: .* got torch\.int64 \(\)"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; got 0"),
        ({"batch_size": 2.0}, r"batch_size: expected an integer >= 1; got 2\.0"),
        ({"seed": -1}, "seed: expected an integer >= 0; got -1"),
        ({"seed": None}, "seed: expected an integer >= 0; got None"),
        ({"m": 0}, "m: expected an integer >= 1; got 0"),
        ({"m": 2.0}, r"m: expected an integer >= 1; got 2\.0"),
        ({"m": True}, "m: expected an integer >= 1; got True"),
        ({"m": [2, -3]}, "m: expected an integer >= 1; got -3"),
        ({"m": "2"}, "m: expected an integer >= 1; got '2'"),
        ({"m": 5}, r"m: expected a divisor of batch_size; got 5\. The divisors of batch_size = 12"),
        ({"m": [2, 5]}, r"m: .* got 5\. .* are \[1, 2, 3, 4, 6, 12\]\."),
        ({"m": 24}, "m: expected a divisor of batch_size; got 24"),
        ({"m": []}, r"m: expected something to draw from; got \[\]"),
        ({"batch_size": 7}, r"m: expected .* got None\. The .* 7 are \[1, 7\]\. Pass one of them"),
        ({"batch_size": 1}, r"m: expected something to draw from; got None"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochMPerClassSampler(**{"labels": UNEVEN, "batch_size": 12, **arguments})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"m": 2}, "state: expected a mapping with the keys"),
        ({"seed": -1}, "seed: expected an integer >= 0; got -1"),
        ({"epoch": 0.5}, r"epoch: expected an integer >= 0; got 0\.5"),
        ({"position": -1}, "position: expected an integer >= 0; got -1"),
        ({"position": 37}, "position: expected at most 36.* got 37.* as"),
    ],
)
def test_states_that_are_none_are_refused_and_change_nothing(state, message):
    sampler = EpochMPerClassSampler(UNEVEN, 2, batch_size=12)
    take(sampler, 3)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **state})
    for state in (None, {}, {"seed": 1, "epoch": 0}):
        with pytest.raises(ValueError, match=r"state: expected a mapping with the keys .*; got"):
            sampler.load_state_dict(state)
    assert place(sampler) == (0, 0, 3)


def test_epochs_below_zero_are_refused():
    sampler = EpochMPerClassSampler(UNEVEN, batch_size=12)
    with pytest.raises(ValueError, match="epoch: expected an integer >= 0; got -1"):
        sampler.set_epoch(-1)
    with pytest.raises(ValueError, match="epoch: expected an integer >= 0; got -1"):
        sampler.m_of_epoch(-1)
