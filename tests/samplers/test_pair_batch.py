from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pml_extras.losses import LiftedStructureLoss
from pml_extras.samplers import PairBatchSampler
from tests.strategies import LABELS


def all_positive_pairs(labels):
    return {(i, j) for i, c in enumerate(labels) for j in range(i, len(labels)) if c == labels[j]}


@st.composite
def arguments(draw):
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=2, max_size=30))
    assume(len(set(labels)) > 1)
    num_pairs = num_of_pairs(labels)[1]
    half = draw(st.integers(1, min(num_pairs, 20)))
    return labels, {"batch_size": 2 * half, "seed": draw(st.integers(0, 2**70))}


def num_of_pairs(labels):
    """Negative ones of an image, and all."""
    positive, per_image = len(all_positive_pairs(labels)), 0
    while per_image * len(labels) < positive:
        per_image += 1
    return per_image, positive + per_image * len(labels)


def pairs_of(batches):
    return [
        pair
        for batch in batches
        for pair in zip(batch[: len(batch) // 2], batch[len(batch) // 2 :], strict=True)
    ]


@given(arguments(), st.integers(0, 3))
def test_positive_pairs_occur_once_and_negative_ones_fill_whole_batches(drawn, epoch):
    labels, kwargs = drawn
    sampler = PairBatchSampler(labels, **kwargs)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    per_image, num_pairs = num_of_pairs(labels)
    half = kwargs["batch_size"] // 2
    assert len(batches) == len(sampler) == num_pairs // half
    assert all(len(batch) == 2 * half for batch in batches)
    pairs = pairs_of(batches)
    positive = Counter(tuple(sorted(p)) for p in pairs if labels[p[0]] == labels[p[1]])
    assert positive == Counter(all_positive_pairs(labels))
    negative = Counter(i for i, j in pairs if labels[i] != labels[j])
    assert max(negative.values(), default=0) <= per_image
    assert sum(negative.values()) == per_image * len(labels) - num_pairs % half


@given(arguments())
def test_partners_of_a_class_are_drawn_without_replacement(drawn):
    labels, kwargs = drawn
    per_image, _ = num_of_pairs(labels)
    pairs = pairs_of(PairBatchSampler(labels, **kwargs))
    for c, size in Counter(labels).items():
        rounds = -(-size * per_image // (len(labels) - size))
        partners = Counter(j for i, j in pairs if labels[i] == c != labels[j])
        assert max(partners.values(), default=0) <= rounds


def test_partners_are_a_uniform_choice():
    labels = [0, 0, 1, 2, 2, 2, 3]  # 3 + 1 + 6 + 1 positive pairs, 2 negative ones an image
    counts, num_epochs = Counter(), 1500
    sampler = PairBatchSampler(labels, 2)
    for _ in range(num_epochs):
        counts.update(p for p in pairs_of(sampler) if labels[p[0]] != labels[p[1]])
    for i, c in enumerate(labels):
        others = [j for j, other in enumerate(labels) if other != c]
        expected = num_epochs * 2 / len(others)
        assert sum((counts[i, j] - expected) ** 2 / expected for j in others) < 20.5


def test_negative_pairs_left_out_and_the_order_are_a_uniform_choice():
    labels = [0, 0, 1, 2, 2, 2, 3]  # 11 + 14 pairs, 10 in a batch: 5 left out
    left_out, first, num_epochs = Counter(), 0, 1500
    sampler = PairBatchSampler(labels, 20)
    for _ in range(num_epochs):
        batches = list(sampler)
        kept = Counter(i for i, j in pairs_of(batches) if labels[i] != labels[j])
        left_out.update({i: 2 - kept[i] for i in range(7)})
        first += sum(labels[i] == labels[j] for i, j in pairs_of(batches[:1]))
    expected = num_epochs * 5 / 7
    assert sum((left_out[i] - expected) ** 2 / expected for i in range(7)) < 22.5
    assert abs(first / num_epochs - 5.5) < 0.2  # half of the 11 positive pairs


def test_epochs_differ_and_set_epoch_repeats_one():
    sampler = PairBatchSampler([0, 0, 0, 1, 1, 1], 6)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_all_pairs_of_a_set_as_large_as_stanford_online_products():
    sizes = np.resize([2, 3, 5, 5, 6, 7, 7, 7], 11_318)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    sampler = PairBatchSampler(labels)
    positive = int((sizes * (sizes + 1) // 2).sum())
    expected = (positive + -(-positive // len(labels)) * len(labels)) // 64
    batches = np.array(list(sampler))
    assert batches.shape == (expected, 128)
    same = labels[batches[:, :64]] == labels[batches[:, 64:]]
    assert same.sum() == positive
    assert 0.4 < same.mean() <= 0.5 + 1e-3


def test_the_lifted_loss_finds_its_positive_pairs():
    labels = torch.arange(40) // 4
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    batch = torch.tensor(next(iter(PairBatchSampler(labels, 32))))
    assert LiftedStructureLoss()(images[batch], labels[batch]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [2.5, 1.0]}, r"labels: expected at least one integer.* got float64 \(2,\)"),
        ({"labels": [4, 4]}, "labels: expected at least two classes; got one. Negative pairs"),
        ({"batch_size": 7}, "batch_size: expected an even number of images; got 7"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; got 0"),
        ({"batch_size": 22}, "batch_size: expected at most twice the 10 pairs .*; got 22"),
        ({"rank": 1}, "rank: expected below num_replicas = 1; got 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairBatchSampler(**{"labels": [0, 0, 1], "batch_size": 4, **arguments})
