"""What a memory holds: across saving, in its own dtype, from the first batch on, in evaluation."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses, miners

from pml_extras.losses import BinomialDevianceLoss, NTXentLoss, PotentialFieldLoss
from pml_extras.testing import check_loss, promises
from pml_extras.wrappers import CrossBatchMemory
from tests.wrappers.test_cross_batch_memory import assert_same, batch_of, memory_of

SIZE = 8


def saved_and_loaded(memory, into):
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    into.load_state_dict(torch.load(file, weights_only=True))
    return into


def unlike(start_after=2):
    torch.manual_seed(0)
    loss = PotentialFieldLoss(num_classes=3, embedding_size=SIZE)
    return memory_of(loss, start_after=start_after, miner=miners.MultiSimilarityMiner())


@pytest.mark.parametrize("broken_off_after", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("how", ["state dict", "pickle", "deep copy"])
def test_saved_loaded_and_continued_is_the_unbroken_run_bit_for_bit(broken_off_after, how):
    unbroken = broken = unlike()
    for step in range(9):
        x, y = batch_of(step, 5 + step % 3)
        if step == broken_off_after:
            if how == "state dict":
                broken = saved_and_loaded(unbroken, into=unlike())
            else:
                broken = (
                    copy.deepcopy(unbroken)
                    if how == "deep copy"
                    else pickle.loads(pickle.dumps(unbroken))
                )
        values = [memory(x, y) for memory in {unbroken, broken}]
        grads = [torch.autograd.grad(value, x)[0] for value in values]
        assert torch.equal(values[0], values[-1])
        assert torch.equal(grads[0], grads[-1])
    assert broken is not unbroken
    for name, found in broken.state_dict().items():
        expected = unbroken.state_dict()[name]
        assert torch.equal(found, expected) if torch.is_tensor(found) else found == expected


@pytest.mark.parametrize("num_batches", [0, 1, 2, 4, 5])
def test_a_state_dict_of_pml_loads_with_its_queue(num_batches):
    of_pml = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, 16)
    for step in range(num_batches):
        x, y = batch_of(step, 4 if step else 6)
        of_pml(x, y)
    ours = memory_of(losses.ContrastiveLoss(), start_after=7)
    state = of_pml.state_dict()
    ours.load_state_dict(state)
    assert "_extra_state" not in state
    full = num_batches >= 4
    assert ours.has_been_filled == full
    assert ours.queue_idx == (0 if full else of_pml.queue_idx)
    assert ours.num_batches == (7 if num_batches else 0)
    assert torch.equal(ours.embedding_memory, of_pml.embedding_memory.double())
    assert torch.equal(ours.label_memory, of_pml.label_memory)


def test_a_state_dict_of_pml_loads_inside_a_module_too():
    of_pml = torch.nn.Sequential(losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, 16))
    of_pml[0](*batch_of(0, 6))
    ours = torch.nn.Sequential(memory_of(losses.ContrastiveLoss()))
    ours.load_state_dict(of_pml.state_dict())
    assert ours[0].queue_idx == 6


@settings(max_examples=40)  # each asks the loss
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(5, 9))
def test_the_memory_holds_the_last_rows_at_all_times(sizes, memory_size):
    memory, stored = CrossBatchMemory(losses.ContrastiveLoss(), 2, memory_size), []
    for step, num in enumerate(sizes):
        x, y = batch_of(step, num, size=2)
        memory(x, y)
        stored = [*stored, *zip(x.detach().float().tolist(), y.tolist(), strict=True)]
        stored = stored[-memory_size:]
        held = memory._newest(memory_size)
        assert memory.embedding_memory[held].tolist() == [row for row, _ in stored]
        assert memory.label_memory[held].tolist() == [label for _, label in stored]
        assert memory.has_been_filled == (sum(sizes[: step + 1]) >= memory_size)


def test_a_queue_that_is_reset_is_that_of_a_new_memory_in_its_dtype():
    memory, new = memory_of(losses.NTXentLoss()), memory_of(losses.NTXentLoss())
    for step in range(4):
        memory(*batch_of(step, 6))
    memory.reset_queue()
    for step in range(4):
        x, y = batch_of(step, 6)
        assert torch.equal(memory(x, y), new(x, y))
    assert torch.equal(memory.embedding_memory, new.embedding_memory)
    assert memory.embedding_memory.dtype == torch.float64


def test_at_first_the_batch_is_compared_alone_and_not_stored():
    inside, apart = memory_of(losses.NTXentLoss(), start_after=2), losses.NTXentLoss()
    for step in range(2):
        x, y = batch_of(step, 6)
        assert_same(inside(x, y), apart(x, y), x)
        assert inside.queue_idx == 0
    x, y = batch_of(2, 6)
    found = inside(x, y)
    assert found.item() == pytest.approx(apart(x, y).item())  # against its copies, though
    grads = [torch.autograd.grad(value, x)[0] for value in (found, apart(x, y))]
    assert not torch.allclose(*grads)
    assert inside.queue_idx == 6
    assert inside.num_batches == 3


def test_at_first_the_miner_and_a_tuple_choose_the_pairs():
    miner, apart = miners.MultiSimilarityMiner(epsilon=0.5), losses.ContrastiveLoss()
    inside = memory_of(losses.ContrastiveLoss(), start_after=9, miner=miner)
    x, y = batch_of(0, 9)
    mined = miner(x, y)
    assert_same(inside(x, y), apart(x, y, mined), x)
    a, p, n = (torch.tensor([0]) for _ in range(3))
    joined = tuple(torch.cat(both) for both in zip(mined, (a, p, a, n), strict=True))
    assert_same(inside(x, y, (a, p, n)), apart(x, y, joined), x)
    without_miner = memory_of(losses.ContrastiveLoss(), start_after=9)
    assert_same(without_miner(x, y, mined), apart(x, y, mined), x)


def test_at_first_rows_are_compared_with_those_under_the_mask():
    inside, apart = memory_of(losses.NTXentLoss(), start_after=1), losses.NTXentLoss()
    x, y = batch_of(0, 9)
    mask = torch.arange(9) % 2 == 0
    expected = apart(x[~mask], y[~mask], None, x[mask].detach(), y[mask])
    assert_same(inside(x, y, enqueue_mask=mask), expected, x)
    assert inside.queue_idx == 0


def test_in_evaluation_the_batch_is_compared_alone_and_nothing_changes():
    inside, apart = memory_of(losses.NTXentLoss()), losses.NTXentLoss()
    inside(*batch_of(0, 6))
    before = copy.deepcopy(inside.state_dict())
    x, y = batch_of(1, 6)
    assert_same(inside.eval()(x, y), apart(x, y), x)
    for name, value in inside.state_dict().items():
        assert torch.equal(value, before[name]) if torch.is_tensor(value) else value == before[name]


def test_without_gradients_training_mode_stores_and_compares_as_ever():
    one, other = memory_of(losses.NTXentLoss()), memory_of(losses.NTXentLoss())
    for step in range(4):
        x, y = batch_of(step, 6)
        with torch.no_grad():
            value = one(x, y)
        assert torch.equal(value, other(x, y))
    assert torch.equal(one.embedding_memory, other.embedding_memory)


@pytest.mark.parametrize("kept_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float64])
def test_a_memory_keeps_its_dtype_and_the_loss_its_own(kept_in, given_in):
    torch.manual_seed(0)
    loss = PotentialFieldLoss(num_classes=3, embedding_size=SIZE)
    inside = CrossBatchMemory(loss, SIZE, 16, miner=miners.MultiSimilarityMiner())
    inside.embedding_memory = inside.embedding_memory.to(kept_in)
    for step in range(4):
        x, y = batch_of(step, 6)
        value = inside(x.to(given_in), y)
        (grad,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert grad.isfinite().all()
        assert (grad != 0).any()
        stored = inside.embedding_memory[inside.curr_batch_idx]
        assert torch.equal(stored, x.detach().to(given_in).to(kept_in))
    assert inside.embedding_memory.dtype == kept_in
    assert {p.dtype for p in loss.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_and_autocast_are_computed_in_float32(dtype):
    under, apart = (CrossBatchMemory(losses.NTXentLoss(), SIZE, 16) for _ in range(2))
    for step in range(4):
        x, y = batch_of(step, 6)
        x = x.to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = under(x, y)
        assert value.dtype == torch.float32
        assert torch.equal(value, apart(x.float(), y))


@pytest.mark.parametrize("start_after", [0, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_against_a_half_memory_or_none_are_computed_in_float32(dtype, start_after):
    narrow, wide = (
        CrossBatchMemory(losses.NTXentLoss(), SIZE, 16, start_after=start_after) for _ in range(2)
    )
    narrow = narrow.to(dtype)
    for step in range(4):
        x, y = batch_of(step, 6)
        x = x.to(dtype)
        value = narrow(x, y)
        assert value.dtype == torch.float32
        assert torch.equal(value, wide(x.float(), y))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_any_integer_type_are_stored_as_int64(dtype):
    one, other = memory_of(losses.NTXentLoss()), memory_of(losses.NTXentLoss())
    for step in range(4):
        x, y = batch_of(step, 6)
        assert torch.equal(one(x, y.to(dtype)), other(x, y))
    assert one.label_memory.dtype == torch.int64


ONE = torch.tensor([0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embeddings": torch.ones(6, 3)}, r"^embeddings: expected embedding_size = 8 columns"),
        ({"embeddings": torch.ones(6)}, r"^embeddings: expected a floating tensor"),
        ({"labels": None}, r"^labels: expected a tensor of shape \(6,\)"),
        ({"labels": torch.zeros(5).long()}, r"^labels: expected a tensor of shape \(6,\)"),
        ({"labels": torch.zeros(6)}, r"^labels: expected integers; got torch.float32"),
        ({"indices_tuple": (ONE, ONE + 6, ONE)}, r"^indices_tuple: expected positions in \[0, 6\)"),
        ({"enqueue_mask": torch.ones(6)}, r"^enqueue_mask: expected torch.bool; got torch.float32"),
        ({"enqueue_mask": torch.ones(5).bool()}, r"^enqueue_mask: expected a tensor of shape"),
        (
            {"enqueue_mask": torch.ones(6).bool(), "indices_tuple": (ONE, ONE, ONE)},
            r"^indices_tuple: expected None beside an `enqueue_mask`",
        ),
    ],
)
def test_what_is_no_batch_is_refused_and_not_counted(changed, message):
    inside = memory_of(BinomialDevianceLoss())
    x, y = batch_of(0, 6)
    with pytest.raises(ValueError, match=message):
        inside(**{"embeddings": x, "labels": y, **changed})
    assert (inside.num_batches, inside.queue_idx) == (0, 0)


def test_more_rows_than_the_memory_holds_are_refused_unless_a_mask_leaves_some_out():
    inside = memory_of(BinomialDevianceLoss(), memory_size=6)
    x, y = batch_of(0, 7)
    with pytest.raises(ValueError, match=r"^embeddings: expected at most memory_size = 6 rows"):
        inside(x, y)
    inside(x, y, enqueue_mask=torch.arange(7) > 0)
    assert inside.has_been_filled


@pytest.mark.parametrize(
    "changed",
    [{"embedding_size": 0}, {"memory_size": 0}, {"memory_size": 1.5}, {"start_after": -1}],
)
def test_each_argument_out_of_range_is_refused_by_name(changed):
    (name,) = changed
    with pytest.raises(ValueError, match=rf"^{name}: expected an integer"):
        CrossBatchMemory(**{"loss": BinomialDevianceLoss(), "embedding_size": SIZE, **changed})


class WithoutReferences(CrossBatchMemory):
    """Called as losses are."""

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if ref_emb is not None and ref_emb is not embeddings:
            raise ValueError("ref_emb: expected None")
        return super().forward(embeddings, labels, indices_tuple)


@pytest.mark.parametrize(
    "loss", [BinomialDevianceLoss, NTXentLoss, losses.MultiSimilarityLoss, losses.SupConLoss]
)
def test_it_keeps_the_promises_that_losses_keep(loss):
    def make(**others):
        arguments = {"loss": loss(), "embedding_size": SIZE, "memory_size": 24, **others}
        return WithoutReferences(**arguments)

    out_of_range = {"loss": losses.ArcFaceLoss, "embedding_size": 0, "memory_size": 0}
    # A zero row in float16 makes pml's own losses NaN.
    of_pml = loss in (losses.MultiSimilarityLoss, losses.SupConLoss)
    check_loss(
        make,
        embedding_size=SIZE,
        stateful=True,
        out_of_range=out_of_range,
        promises=promises(without="half_degenerate" if of_pml else ()),
    ).raise_if_broken()
