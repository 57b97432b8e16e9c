"""What all batch samplers promise: epochs, shards, a place that survives a break."""

import copy
import io
import json
import pickle
import random
from itertools import islice, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils import common_functions as pml_globals
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from pml_extras.samplers import (
    EpochMPerClassSampler,
    HardNeighbourBatchSampler,
    MPerClassBatchSampler,
    PairBatchSampler,
)

LABELS = [3] * 7 + [-7] * 4 + [2**40] + [0] * 10 + [1] * 2


def features():
    return torch.randn(len(LABELS), 3, generator=torch.Generator().manual_seed(1))


def hard(labels=LABELS, **kwargs):
    fixed = {"num_pairs": 2, "num_neighbours": 1, "pool": 5, "refresh_every": 4}
    return HardNeighbourBatchSampler(labels, features, **{**fixed, **kwargs})


SAMPLERS = {
    "classes": lambda **kwargs: MPerClassBatchSampler(LABELS, 2, 6, **kwargs),
    "full": lambda **kwargs: MPerClassBatchSampler(LABELS, 2, 6, drop_last=True, **kwargs),
    "pairs": lambda **kwargs: PairBatchSampler(LABELS, 12, **kwargs),
    "hard": hard,
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def take(sampler, num):
    """The next ``num`` batches, over as many epochs as that takes."""
    taken = []
    while len(taken) < num:
        taken += islice(sampler, num - len(taken))
    return taken


def saved(state):
    """Through a file, as a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(state, other):
    return state.keys() == other.keys() and all(
        torch.equal(x, other[key]) if torch.is_tensor(x) else x == other[key]
        for key, x in state.items()
    )


@every_sampler
@given(data=st.data())
def test_state_saved_anywhere_resumes_exactly(make, data):
    whole = make(seed=3)
    batches = take(whole, 2 * len(whole))
    num = data.draw(st.integers(0, len(batches)))
    stopped = make(seed=3)
    assert take(stopped, num) == batches[:num]
    state = saved(stopped.state_dict())
    resumed = make(seed=8)
    resumed.load_state_dict(state)
    assert same(resumed.state_dict(), state)
    assert take(resumed, len(batches) - num) == batches[num:]
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    "make",
    [*SAMPLERS.values(), lambda **kwargs: EpochMPerClassSampler(LABELS, 2, batch_size=6, **kwargs)],
    ids=[*SAMPLERS, "epoch"],
)
def test_a_loop_that_sets_every_epoch_resumes_in_the_middle(make):
    whole, stopped, resumed = make(), make(), make()
    epochs = [list(whole), list(whole), list(whole)]
    take(stopped, len(stopped) + 2)
    resumed.load_state_dict(stopped.state_dict())
    seen = []
    for epoch in (1, 2):
        resumed.set_epoch(epoch)
        seen.append(list(resumed))
    assert seen == [epochs[1][2:], epochs[2]]


@pytest.mark.parametrize("kind", ["classes", "full", "pairs"])
def test_once_resumed_an_epoch_can_begin_again(kind):
    whole, resumed = SAMPLERS[kind](), SAMPLERS[kind]()
    first = list(whole)
    resumed.load_state_dict({**resumed.state_dict(), "position": 2})
    assert take(resumed, 1) == first[2:3]
    resumed.set_epoch(0)
    assert list(resumed) == first
    resumed.load_state_dict({**resumed.state_dict(), "epoch": 0, "position": 2})
    resumed.set_epoch(1)
    assert list(resumed) == list(whole)


@pytest.mark.parametrize(
    ("kind", "num_replicas"),
    [*product(["classes", "pairs"], [2, 3, 5, 20]), ("full", 2), ("full", 3), ("full", 4)],
)
def test_processes_take_disjoint_parts_of_the_plan_of_one(kind, num_replicas):
    make, alone = SAMPLERS[kind], SAMPLERS[kind](seed=4)
    for epoch in range(2):
        plan, parts = list(alone), []
        for rank in range(num_replicas):
            sampler = make(seed=4, num_replicas=num_replicas, rank=rank)
            sampler.set_epoch(epoch)
            parts.append(list(sampler))
            assert len(parts[-1]) == len(sampler)
        dealt = [batch for step in zip(*parts, strict=True) for batch in step]
        assert dealt[: len(plan)] == plan[: len(dealt)]
        if kind == "full":
            assert len(plan) - num_replicas < len(dealt) <= len(plan)
        else:
            assert len(plan) <= len(dealt) < len(plan) + num_replicas
            again = [plan[k % len(plan)] for k in range(len(dealt))]
            assert dealt == again


def test_processes_take_disjoint_pairs_and_the_same_negatives_from_the_same_pools():
    for refresh_every in (3, 100):  # the first counts batches of a process, so pools differ
        plan = list(hard(seed=4, refresh_every=refresh_every))
        parts = [
            list(hard(seed=4, refresh_every=refresh_every, num_replicas=2, rank=rank))
            for rank in (0, 1)
        ]
        dealt = [batch for step in zip(*parts, strict=True) for batch in step]
        pairs = [batch[:4] for batch in plan]
        assert [batch[:4] for batch in dealt] == [*pairs, *pairs[: len(dealt) - len(plan)]]
        assert dealt[:3] == plan[:3]
        assert (dealt[: len(plan)] == plan) == (refresh_every == 100)


@every_sampler
def test_one_state_is_good_for_all_processes(make):
    saving = make(num_replicas=2, rank=0)
    take(saving, 1)
    whole, resumed = (make(num_replicas=2, rank=1) for _ in range(2))
    resumed.load_state_dict(saving.state_dict())
    assert list(resumed) == list(whole)[1:]


def global_random_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    pml_state = pml_globals.NUMPY_RANDOM.bit_generator.state
    return random.getstate(), str(numpy_state), torch.get_rng_state().tolist(), str(pml_state)


@every_sampler
def test_global_random_states_are_neither_read_nor_written(make, monkeypatch):
    epochs = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        monkeypatch.setattr(pml_globals, "NUMPY_RANDOM", np.random.default_rng(seed))
        before = global_random_state()
        sampler = make()
        epochs.append([*sampler, *sampler])
        assert global_random_state() == before
    assert epochs[0] == epochs[1]


@every_sampler
def test_epochs_and_seeds_differ_and_length_does_not(make):
    epochs, lengths = set(), set()
    for seed in range(3):
        sampler = make(seed=seed)
        for _ in range(3):
            lengths.add(len(sampler))
            epochs.add(str(list(sampler)))
    assert len(epochs) == 9
    assert len(lengths) == 1


@every_sampler
def test_copies_are_samplers_of_their_own(make):
    sampler = make(seed=2)
    take(sampler, 2)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        before = sampler.state_dict()
        epoch = list(other)
        assert same(sampler.state_dict(), before)
        assert epoch == list(copy.deepcopy(sampler))


@every_sampler
def test_a_data_loader_resumes_in_the_middle_of_an_epoch(make):
    assert isinstance(make(), BatchSampler)  # what pml's trainers ask
    dataset = TensorDataset(torch.arange(len(LABELS)))
    whole = [batch.tolist() for (batch,) in DataLoader(dataset, batch_sampler=make())]
    stopped, resumed = make(), make()
    first = [x.tolist() for (x,) in islice(DataLoader(dataset, batch_sampler=stopped), 3)]
    resumed.load_state_dict(stopped.state_dict())
    rest = [x.tolist() for (x,) in DataLoader(dataset, batch_sampler=resumed)]
    assert first + rest == whole


@pytest.mark.parametrize(
    ("sampler", "other", "arguments"),
    [
        (SAMPLERS["classes"](), MPerClassBatchSampler(LABELS, 3, 6), "labels, m, batch_size, drop"),
        (SAMPLERS["classes"](), MPerClassBatchSampler(LABELS, 2, 4), "labels, m, batch_size, drop"),
        (SAMPLERS["classes"](), SAMPLERS["full"](), "drop_last and num_replicas"),
        (SAMPLERS["classes"](), SAMPLERS["classes"](num_replicas=2), "num_replicas as they were"),
        (
            SAMPLERS["classes"](),
            MPerClassBatchSampler(LABELS[::-1], 2, 6),
            "labels, m, batch_size, drop",
        ),
        (SAMPLERS["pairs"](), PairBatchSampler(LABELS, 10), "labels, batch_size and num_replicas"),
        (SAMPLERS["pairs"](), PairBatchSampler(LABELS[::-1], 12), "labels, batch_size and"),
        (SAMPLERS["pairs"](), SAMPLERS["pairs"](num_replicas=2), "labels, batch_size and"),
        (SAMPLERS["hard"](), hard(LABELS[::-1]), "labels, num_pairs, num_neighbours, pool, refre"),
        (SAMPLERS["hard"](), hard(refresh_every=3), "refresh_every and num_replicas"),
        (SAMPLERS["hard"](), hard(num_neighbours=2), "refresh_every and num_replicas"),
    ],
)
def test_a_state_of_another_setting_is_refused(sampler, other, arguments):
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=f"setting: expected .*, that of this.*{arguments}"):
        sampler.load_state_dict(other.state_dict())
    assert sampler.state_dict() == before


def test_states_are_plain():
    for kind in ("classes", "full", "pairs"):
        state = SAMPLERS[kind]().state_dict()
        assert json.loads(json.dumps(state)) == state
