import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import losses, reducers
from torch.nn.functional import cosine_similarity

from pml_extras.losses import DelayedMemoryLoss, LiftedStructureLoss, ZeroShotPredictionLoss
from pml_extras.testing import check_loss, promises

SIZE, MEMORY = 3, 14


def loss_of(start_after=0, memory_size=MEMORY, **options):
    return DelayedMemoryLoss(SIZE, memory_size, start_after, **options)


def batch_of(seed, num=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, SIZE, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), torch.arange(num) % 4


def pair_sum(x, y, stored):
    """Of the contrastive loss over all rows of ``stored``, those of the batch too."""
    total = 0.0
    for row, label in zip(x, y, strict=True):
        for other, other_label in stored:
            s = cosine_similarity(row, other, dim=0)
            if label == other_label:
                total = total + (1 - 1e-5 - s).clamp(min=0)
            else:
                total = total + (s - 0.5).clamp(min=0)
    return total / len(x)


@pytest.mark.parametrize("start_after", [0, 3])
def test_every_batch_costs_its_pairs_and_from_the_start_those_with_the_last_rows(start_after):
    loss, stored = loss_of(start_after).double(), []
    for t in range(1, 8):
        x, y = batch_of(t, num=5 + t % 2)
        stored = [*stored, *zip(x.detach(), y, strict=True)][-MEMORY:]
        expected = pair_sum(x, y, list(zip(x, y, strict=True)))
        if t > start_after:
            expected = expected + pair_sum(x, y, stored)
        found = loss(x, y)
        # Pairs of a row with itself, which cost 0 in the sum, are not compared.
        assert found.item() == pytest.approx(expected.item(), rel=1e-10)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, x)[0] for value in (found, expected)),
            rtol=1e-9,
            atol=1e-11,
        )


def test_the_first_batch_counts_twice_and_pulls_more_within_the_batch_alone():
    x, y = batch_of(0)
    once, twice = loss_of(start_after=1)(x, y), loss_of(start_after=0)(x, y)
    torch.testing.assert_close(twice, 2 * once)
    (half,), (whole,) = torch.autograd.grad(once, x), torch.autograd.grad(twice, x)
    assert not torch.allclose(whole, 2 * half)  # rows in memory have no gradient


def test_memory_is_filled_before_the_start_with_rows_as_they_come():
    loss = loss_of(start_after=100)
    x, y = batch_of(0)
    loss(100 * x, y)
    torch.testing.assert_close(loss.memory.embedding_memory[:6], 100 * x.detach().float())
    assert loss.memory.label_memory[:6].tolist() == y.tolist()
    assert loss.num_batches == 1


def test_before_the_start_nothing_is_compared_with_the_memory():
    loss, compared = loss_of(start_after=2), []
    loss.memory.loss.register_forward_hook(lambda module, args, value: compared.append(args))
    for t, in_all in enumerate([1, 2, 4], start=1):
        loss(*batch_of(t))
        assert len(compared) == in_all


@pytest.mark.parametrize("kept_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.bfloat16, torch.float32, torch.float64])
def test_storing_alone_leaves_the_memory_that_comparing_leaves(kept_in, given_in):
    compares, stores = (
        loss_of(start_after, reducer=reducers.DoNothingReducer()).to(kept_in)
        for start_after in (0, 4)
    )
    for t in range(1, 7):  # sizes 7, 6, 7: the third batch wraps
        x, y = batch_of(t, num=6 + t % 2)
        parts = [loss(x.to(given_in), y)["memory_loss"]["losses"] for loss in (compares, stores)]
        memories = [loss.memory for loss in (compares, stores)]
        for name in ("embedding_memory", "label_memory"):
            expected, found = (getattr(memory, name) for memory in memories)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        assert len({(memory.queue_idx, memory.has_been_filled) for memory in memories}) == 1
        assert parts[1] == (0 if t <= 4 else parts[0])
        assert parts[0] > 0
    assert stores.memory.embedding_memory.dtype == kept_in
    assert stores.memory.has_been_filled


def test_in_evaluation_the_batch_is_compared_alone_and_not_stored():
    loss = loss_of()
    loss(*batch_of(0))
    x, y = batch_of(1)
    before = copy.deepcopy(loss.state_dict())
    found = loss.eval()(x, y)
    torch.testing.assert_close(found, loss_of(start_after=9)(x, y))
    for key, value in loss.state_dict().items():
        assert torch.equal(value, before[key]) if torch.is_tensor(value) else value == before[key]
    assert loss.memory.queue_idx == 6


@pytest.mark.parametrize("num_before", [1, 3])  # before and after the queue is full
def test_a_reloaded_loss_goes_on_where_it_stood(num_before):
    loss = loss_of(start_after=2)
    for t in range(num_before):
        loss(*batch_of(t))
    again = loss_of(start_after=2)
    again.load_state_dict(pickle.loads(pickle.dumps(loss.state_dict())))
    assert again.memory.has_been_filled == (num_before == 3)
    for t in range(5, 10):
        torch.testing.assert_close(again(*batch_of(t)), loss(*batch_of(t)), rtol=0, atol=0)


def test_a_miner_s_tuple_chooses_pairs_of_the_batch_alone():
    x, y = batch_of(3)
    chosen = tuple(torch.tensor(i) for i in ([0, 1], [4, 5], [0, 1, 2], [1, 2, 3]))
    mined, plain = loss_of(), loss_of()
    for loss in (mined, plain):
        loss(*batch_of(0))
    difference = mined(x, y, chosen) - plain(x, y)
    within = loss_of().eval()
    torch.testing.assert_close(difference, within(x, y, chosen) - within(x, y))
    assert difference != 0


def test_another_loss_and_its_reducer_are_used_in_both_terms():
    x, y = batch_of(0)
    own = losses.MultiSimilarityLoss(alpha=3.0)
    torch.testing.assert_close(loss_of(loss=own)(x, y), 2 * own(x, y))
    torch.testing.assert_close(
        loss_of(loss=own)(x, y), losses.CrossBatchMemory(own, SIZE)(x, y) + own(x, y)
    )


def test_both_terms_are_sub_losses():
    parts = loss_of(reducer=reducers.DoNothingReducer())(*batch_of(0))
    values = {name: part["losses"].item() for name, part in parts.items()}
    assert values["batch_loss"] == pytest.approx(values["memory_loss"])
    assert set(values) == {"batch_loss", "memory_loss"}
    parts = loss_of(1, reducer=reducers.DoNothingReducer())(*batch_of(0))
    assert parts["memory_loss"]["losses"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("labels", [torch.int32, torch.uint8])
def test_what_is_stored_keeps_its_types(dtype, labels):
    loss = loss_of()
    x, y = batch_of(0)
    for _ in range(3):
        value = loss(x.to(dtype), y.to(labels))
    assert value.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert loss.memory.embedding_memory.dtype == torch.float32
    assert loss.memory.label_memory.dtype == torch.int64
    torch.testing.assert_close(
        loss.memory.embedding_memory[:4], x.detach().to(dtype).float()[2:], rtol=1e-6, atol=0
    )


def test_a_row_of_zeros_has_zero_gradient():
    x, y = batch_of(0)
    x = (x.detach() * (torch.arange(6) != 1)[:, None]).requires_grad_()
    loss_of()(x, y).backward()
    assert torch.equal(x.grad[1], torch.zeros(SIZE, dtype=torch.float64))
    assert x.grad.abs().max() < 100


def test_a_batch_as_large_as_the_memory_replaces_it():
    loss = loss_of(memory_size=6)
    for t in range(2):
        x, y = batch_of(t)
        torch.testing.assert_close(loss(x, y), 2 * loss_of(start_after=9)(x, y))


def test_without_gradients_both_terms_have_none():
    learned = losses.MarginLoss(learn_beta=True)
    loss = loss_of(loss=learned, reducer=reducers.DoNothingReducer())
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            parts = loss(*batch_of(0)).values()
        assert [part["losses"].requires_grad for part in parts] == [enabled, enabled]


def test_no_rows_are_no_batch():
    loss = loss_of()
    x = torch.zeros(0, SIZE, requires_grad=True)
    loss(x, torch.zeros(0, dtype=torch.int64)).backward()
    assert loss.num_batches == 0
    assert x.grad.shape == (0, SIZE)


class InTraining(DelayedMemoryLoss):
    """The checker calls losses in evaluation mode."""

    is_stateful = True

    def train(self, mode=True):
        return super().train()


@pytest.mark.parametrize("start_after", [0, 1])
def test_in_training_it_keeps_the_promises_of_a_loss_with_a_memory(start_after):
    def make(**options):
        return InTraining(8, 25, start_after, **options)

    # Rows in memory have no gradient, those of the batch among them.
    without = {"gradient"} if start_after == 0 else set()
    check_loss(make, promises=promises().keys() - without).raise_if_broken()


def test_with_zero_shot_prediction_it_stores_embeddings_and_no_attributes():
    loss = ZeroShotPredictionLoss(4, SIZE, 5, inner=loss_of())
    x, y = batch_of(0)
    z = torch.rand(6, 5, dtype=torch.float64)
    loss(torch.cat([x, z], dim=1), y).backward()
    stored = loss.inner.memory.embedding_memory
    assert stored.shape == (MEMORY, SIZE)
    torch.testing.assert_close(stored[:6], x.detach().float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_size": 0}, "memory_size: expected an integer >= 1; got 0"),
        ({"start_after": 0.5}, "start_after: expected an integer >= 0; got 0.5"),
        ({"loss": LiftedStructureLoss}, "loss: expected a loss, a torch module; got"),
        ({"loss": losses.ArcFaceLoss(4, 3)}, "loss: expected one of pml's .*; got ArcFaceLoss"),
        (
            {"loss": losses.NTXentLoss(reducer=reducers.DoNothingReducer())},
            "loss: expected a loss that reduces; got DoNothingReducer",
        ),
        ({"distance": losses.ContrastiveLoss().distance}, "distance: expected None; got Lp"),
    ],
)
def test_other_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :2], y), "embeddings: expected embedding_size = 3 columns; got 2"),
        (lambda x, y: (x, None), r"labels: expected \(B,\) integers; got None"),
        (lambda x, y: (x, y.float()), r"labels: expected \(B,\) integers; got torch.float32"),
        (lambda x, y: (x, y, None, x + 1, y), "ref_emb: expected None; got a tensor"),
        (
            lambda x, y: (x.repeat(3, 1), y.repeat(3)),
            "embeddings: expected at most memory_size = 14 rows; got 18 rows",
        ),
        (lambda x, y: (x, y, (y, y)), "indices_tuple: expected"),
    ],
)
def test_other_batches_are_refused_and_not_stored(change, message):
    loss = loss_of()
    with pytest.raises(ValueError, match=message):
        loss(*change(*batch_of(0)))
    assert loss.memory.queue_idx == 0
