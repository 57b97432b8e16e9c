"""Values and gradients: the loss of the batch against batch and memory, pair by pair."""

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners

from pml_extras.losses import NTXentLoss
from pml_extras.wrappers import CrossBatchMemory
from tests.oracles import cross_batch_memory as oracle
from tests.wrappers.public_losses import IN_MEMORY, SIZE, made

MEMORY = 16
BATCHES = (5, 7, 6, 1, 16, 4, 7)  # the third wraps round, the fifth fills the memory
MINERS = {
    "all pairs": lambda: None,
    "pairs": miners.MultiSimilarityMiner,
    "triplets": lambda: miners.TripletMarginMiner(margin=0.3),
    "hardest": miners.BatchHardMiner,
}


def batch_of(step, num, size=SIZE):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(num, size, generator=generator, dtype=torch.float64) + 0.3
    return x.requires_grad_(), torch.randint(3, (num,), generator=generator)


def memory_of(loss, memory_size=MEMORY, size=SIZE, **options):
    return CrossBatchMemory(loss, size, memory_size, **options).double()


def as_tensors(refs, ref_labels, size=SIZE):
    return torch.tensor(refs, dtype=torch.float64).reshape(-1, size), torch.tensor(ref_labels)


def index(listed):
    return tuple(torch.as_tensor(column, dtype=torch.int64) for column in listed)


def pairs_by_loops(miner, x, y, refs, ref_labels):
    if miner is None:
        return index(oracle.all_pairs(y.tolist(), ref_labels.tolist(), copies_first=True))
    mined = miner(x.detach(), y, refs, ref_labels)
    return index(oracle.without_copies([column.tolist() for column in mined]))


def assert_same(found, expected, *leaves):
    """In value and, for each leaf, in gradient."""
    assert found.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    for leaf in leaves:
        grads = [
            torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
            for value in (found, expected)
        ]
        grads = [torch.zeros_like(leaf) if grad is None else grad for grad in grads]
        scale = grads[1].abs().max().item()
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12 + 1e-10 * scale)


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_each_loss_sees_the_batch_against_its_copies_and_the_rows_before(name, mining):
    apart, miner, stored = made(name), MINERS[mining](), oracle.Memory(MEMORY)
    inside = memory_of(made(name), miner=miner)
    moved = 0
    for step, num in enumerate(BATCHES):
        x, y = batch_of(step, num)
        refs, ref_labels = as_tensors(*stored.references(x.tolist(), y.tolist()))
        listed = pairs_by_loops(miner, x, y, refs, ref_labels)
        expected = apart(x, y, listed, refs, ref_labels)
        found = inside(x, y)
        assert_same(found, expected, x)
        for mine, other in zip(inside.loss.parameters(), apart.parameters(), strict=True):
            torch.testing.assert_close(mine, other)
        moved += torch.autograd.grad(found, x, retain_graph=True)[0].abs().max().item() > 1e-6
        stored.store(x.tolist(), y.tolist())
    assert moved >= len(BATCHES) - 2  # one row may have nothing to be compared with


FORMULAS = {
    "contrastive": (losses.ContrastiveLoss, oracle.contrastive),
    "triplet margin": (
        lambda: losses.TripletMarginLoss(margin=0.2),
        lambda *rows: oracle.triplet_margin(*rows, margin=0.2),
    ),
    "ntxent": (
        lambda: losses.NTXentLoss(temperature=0.2),
        lambda *rows: oracle.ntxent(*rows, temperature=0.2),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_value_is_that_of_the_equation_over_every_row_in_memory(name):
    make, formula = FORMULAS[name]
    inside, stored = memory_of(make()), oracle.Memory(MEMORY)
    for step, num in enumerate(BATCHES):
        x, y = batch_of(step, num)
        refs, ref_labels = stored.references(x.tolist(), y.tolist())
        listed = oracle.all_pairs(y.tolist(), ref_labels, copies_first=True)
        expected = formula(x.tolist(), refs, listed)
        assert inside(x, y).item() == pytest.approx(expected, rel=1e-10)
        stored.store(x.tolist(), y.tolist())


@pytest.mark.parametrize("given_as", ["pairs", "triplets"])
@pytest.mark.parametrize("mining", ["all pairs", "triplets"])
def test_a_tuple_of_the_batch_is_added_and_concerns_the_rows_of_the_batch(mining, given_as):
    miner, stored = MINERS[mining](), oracle.Memory(MEMORY)
    inside, apart = memory_of(losses.ContrastiveLoss(), miner=miner), losses.ContrastiveLoss()
    for step, num in enumerate(BATCHES):
        x, y = batch_of(step, num)
        refs, ref_labels = as_tensors(*stored.references(x.tolist(), y.tolist()))
        listed = pairs_by_loops(miner, x, y, refs, ref_labels)
        found_outside = index(oracle.all_pairs(y.tolist(), y.tolist(), copies_first=True))
        found_outside = tuple(column[: 3 + step] for column in found_outside)
        if given_as == "triplets":
            found_outside = index(oracle.triplets([c.tolist() for c in found_outside]))
        added = found_outside
        if mining == "triplets" and given_as == "pairs":
            added = index(oracle.triplets([c.tolist() for c in found_outside]))
        if mining == "all pairs" and given_as == "triplets":
            a, p, n = found_outside
            added = (a, p, a, n)
        joined = tuple(torch.cat(both) for both in zip(listed, added, strict=True))
        assert_same(inside(x, y, found_outside), apart(x, y, joined, refs, ref_labels), x)
        stored.store(x.tolist(), y.tolist())


@pytest.mark.parametrize("entries", [3, 4])
@pytest.mark.parametrize("mining", ["all pairs", "triplets"])
def test_a_tuple_that_lists_nothing_adds_nothing_in_any_dtype(mining, entries):
    one, other = (memory_of(losses.ContrastiveLoss(), miner=MINERS[mining]()) for _ in range(2))
    for step in range(3):
        x, y = batch_of(step, 6)
        assert torch.equal(one(x, y, (torch.tensor([]),) * entries), other(x, y))


def test_rows_under_the_mask_are_stored_and_the_others_compared_with_them():
    inside, apart = memory_of(losses.NTXentLoss()), losses.NTXentLoss()
    stored = oracle.Memory(MEMORY)
    for step, num in enumerate((8, 9, 11, 10)):
        x, y = batch_of(step, num)
        mask = torch.arange(num) % 3 != 1
        refs, ref_labels = stored.references(x[mask].tolist(), y[mask].tolist())
        listed = index(oracle.all_pairs(y[~mask].tolist(), ref_labels, copies_first=False))
        expected = apart(x[~mask], y[~mask], listed, *as_tensors(refs, ref_labels))
        assert_same(inside(x, y, enqueue_mask=mask), expected, x)
        stored.store(x[mask].tolist(), y[mask].tolist())


def test_rows_that_the_mask_leaves_out_are_not_stored():
    inside = memory_of(losses.ContrastiveLoss())
    x, y = batch_of(0, 6)
    inside(x, y)
    nothing = inside(x, y, enqueue_mask=torch.zeros(6, dtype=torch.bool))
    assert nothing > 0  # compared with the six rows in memory
    assert (inside.queue_idx, inside.has_been_filled) == (6, False)
    everything = inside(x, y, enqueue_mask=torch.ones(6, dtype=torch.bool))
    assert everything == 0
    assert inside.queue_idx == 12


def test_a_mask_that_stores_nothing_in_an_empty_memory_gives_an_attached_zero():
    inside = memory_of(losses.NCALoss())
    x, y = batch_of(0, 6)
    value = inside(x, y, enqueue_mask=torch.zeros(6, dtype=torch.bool))
    assert value == 0
    assert not inside.has_been_filled
    assert (torch.autograd.grad(value, x)[0] == 0).all()


@pytest.mark.parametrize("name", IN_MEMORY)
def test_an_empty_batch_is_an_attached_zero_and_stores_nothing(name):
    inside = memory_of(made(name))
    for step in range(2):
        x = torch.zeros(0, SIZE, dtype=torch.float64, requires_grad=True)
        value = inside(x, torch.zeros(0, dtype=torch.int64))
        value.backward()
        assert value == 0
        assert all(p.grad is not None for p in inside.loss.parameters())
        assert (inside.queue_idx, inside.has_been_filled) == (5 * step, False)
        inside(*batch_of(step, 5))


def test_a_row_alone_is_not_compared_with_itself():
    inside = memory_of(NTXentLoss())
    for step in range(2):
        x, y = batch_of(step, 1)
        assert inside(x, torch.zeros_like(y) + step) == 0
    x, y = batch_of(2, 1)
    assert inside(x, torch.zeros_like(y)) > 0  # one positive, one negative


@pytest.mark.parametrize("mining", [None, "triplets", "hardest", "pairs"])
def test_triplet_losses_go_on_past_the_first_batch(mining):
    miner = MINERS[mining]() if mining else None
    inside = memory_of(losses.TripletMarginLoss(triplets_per_anchor=5), miner=miner)
    for step in range(6):
        x, y = batch_of(step, 6)
        value = inside(x, y)
        (grad,) = torch.autograd.grad(value, x)
        assert value > 0
        assert (grad != 0).any()


def test_rows_may_be_replaced_before_the_backward_pass():
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    inside = memory_of(losses.ContrastiveLoss(1, 0, distance=distance), memory_size=6)
    apart = memory_of(losses.ContrastiveLoss(1, 0, distance=distance), memory_size=6)
    (x, y), (other, other_y) = batch_of(0, 6), batch_of(1, 6)
    first = inside(x, y)
    inside(other, other_y)
    assert_same(first, apart(x, y), x)
