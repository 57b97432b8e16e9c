import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml

from pml_extras import losses
from pml_extras.miners import RelationMiner
from pml_extras.wrappers import CrossBatchMemory
from tests.oracles import relation as oracle


def ready(relation, _):
    return relation


def overlap(a, b):
    return a.float() @ b.float().T > 0


def batch(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 4, dtype=torch.float64, generator=generator)
    return x, torch.rand(num, 3, generator=generator) < 0.4


@given(st.data(), st.booleans())
def test_pairs_are_those_of_the_table(data, with_ref):
    num = data.draw(st.integers(0, 5))
    num_ref = data.draw(st.integers(0, 5)) if with_ref else num
    row = st.lists(st.sampled_from((1, 0, -1)), min_size=num_ref, max_size=num_ref)
    drawn = data.draw(st.lists(row, min_size=num, max_size=num))
    table = torch.tensor(drawn, dtype=torch.int8).reshape(num, num_ref)
    x, ref = torch.zeros(num, 2), torch.zeros(num_ref, 2)
    found = RelationMiner(ready)(x, table, *((ref, table.T) if with_ref else ()))
    assert tuple(side.tolist() for side in found) == oracle.listed(drawn, same=not with_ref)
    assert all(side.dtype == torch.int64 for side in found)


def test_a_loss_with_the_tuple_is_the_loss_with_the_comparison():
    x, targets = batch(30)
    ref, ref_targets = batch(20, seed=1)
    for given_ref in ((), (ref, ref_targets)):
        pairs = RelationMiner(overlap)(x, targets, *given_ref)
        assert min(len(side) for side in pairs) > 30
        no_labels = (ref, None) if given_ref else ()
        for make in (losses.NTXentLoss, losses.LiftedStructureLoss, losses.BinomialDevianceLoss):
            expected = make(match_fn=overlap)(x, targets, None, *given_ref)
            torch.testing.assert_close(make()(x, None, pairs, *no_labels), expected)


def test_losses_of_pml_take_it():
    x, targets = batch(30)
    pairs = RelationMiner(overlap)(x, targets)
    positions = torch.arange(30)
    ours = losses.NTXentLoss(match_fn=overlap)(x, targets)
    torch.testing.assert_close(pml.NTXentLoss()(x, positions, pairs), ours)


def test_a_memory_compares_by_it_through_positions_in_a_table():
    x, targets = batch(12)
    targets[:, 0] |= ~targets.any(dim=1)  # a row without labels would be its copy's negative
    miner = RelationMiner(lambda i, j: overlap(targets[i], targets[j]))
    memory = CrossBatchMemory(losses.NTXentLoss(), 4, memory_size=12, miner=miner)
    memory.embedding_memory = memory.embedding_memory.double()
    first, second = torch.arange(5), torch.arange(5, 12)
    memory(x[first], first)
    value = memory(x[second], second)
    table = overlap(targets[second], targets[torch.cat([second, first])]).to(torch.int8)
    table[torch.arange(7), torch.arange(7)] = -1
    ref = x[torch.cat([second, first])]
    expected = losses.NTXentLoss(match_fn=ready)(x[second], table, None, ref, table.T)
    torch.testing.assert_close(value, expected)
    assert value > 0.1


def test_the_batch_under_other_labels_is_references():
    x, targets = batch(6)
    other = targets.roll(1, 0)
    expected = RelationMiner(overlap)(x, targets, x.clone(), other)
    found = RelationMiner(overlap)(x, targets, x, other)
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine, wanted)
    assert (found[0] == found[1]).any() or (found[2] == found[3]).any()


def test_numbers_of_pairs_are_recorded():
    miner = RelationMiner(ready, collect_stats=True)
    miner(torch.zeros(3, 2), torch.tensor([[1, 1, 0], [0, 1, -1], [0, 0, 1]]))
    assert (miner.num_pos_pairs, miner.num_neg_pairs) == (1, 4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((torch.zeros(3), torch.zeros(3, 3)), "embeddings: expected a floating tensor"),
        ((torch.zeros(3, 2), torch.zeros(2, 3)), "labels: expected a tensor of 3 labels"),
        ((torch.zeros(3, 2), None), "labels: expected a tensor of 3 labels"),
        (
            (torch.zeros(3, 2), torch.zeros(3, 3), torch.zeros(2, 2), torch.zeros(3, 3)),
            "ref_labels: expected a tensor of 2 labels",
        ),
        ((torch.zeros(3, 2), torch.zeros(3, 3)), "match_fn: expected to return bool or integers"),
    ],
)
def test_other_forms_are_refused(given, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        RelationMiner(ready)(*given)


def test_what_is_no_callable_is_refused():
    with pytest.raises(ValueError, match=r"^match_fn: expected a callable .*; got str"):
        RelationMiner("equal")
