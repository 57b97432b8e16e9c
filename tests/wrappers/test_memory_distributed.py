"""Two processes: one memory, of the rows of both in the order of their ranks."""

import pytest
import torch
from pytorch_metric_learning import losses
from torch import distributed, multiprocessing

from pml_extras.wrappers import CrossBatchMemory, DistributedLossWrapper
from tests.oracles import cross_batch_memory as oracle

WORLD, MEMORY, SIZE = 2, 14, 3
SIZES = [(4, 4), (3, 5), (0, 6), (2, 1), (5, 0), (6, 6)]  # by step, then by rank


def batch_of(step, rank):
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(SIZES[step][rank], SIZE, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), torch.randint(3, (len(x),), generator=generator)


def mask_of(x):
    return torch.arange(len(x)) % 2 == 0


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    results = [run(rank, masked) for masked in (False, True)]
    results.append(run_inside_the_wrapper(rank))
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def run(rank, masked):
    memory = CrossBatchMemory(losses.SupConLoss(), SIZE, MEMORY, start_after=1).double()
    memory(*batch_of(0, rank))  # not stored
    found = []
    for step in range(len(SIZES)):
        x, y = batch_of(step, rank)
        value = memory(x, y, enqueue_mask=mask_of(x) if masked else None)
        (grad,) = torch.autograd.grad(value, x)
        held = memory.embedding_memory.clone(), memory.label_memory.clone()
        found.append((value.detach(), grad, *held, memory.queue_idx))
    refused = ""
    try:
        memory(torch.zeros(7 + rank, SIZE), torch.zeros(7 + rank).long())
    except ValueError as error:
        refused = str(error)
    return found, refused


def run_inside_the_wrapper(rank):
    memory = CrossBatchMemory(losses.ContrastiveLoss(), SIZE, MEMORY).double()
    wrapped = DistributedLossWrapper(memory)
    found = []
    for step in range(len(SIZES)):
        x, y = batch_of(step, rank)
        value = wrapped(x, y)
        (grad,) = torch.autograd.grad(value, x)
        held = memory.embedding_memory.clone(), memory.label_memory.clone()
        found.append((value.detach(), grad / WORLD, *held))
    return found


@pytest.fixture(scope="module")
def of_both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("masked", [False, True])
def test_each_process_compares_its_rows_with_the_rows_of_all(of_both, masked):
    results, refusals = zip(*(of_one[masked] for of_one in of_both), strict=True)
    stored, loss = oracle.Memory(MEMORY), losses.SupConLoss()
    for step in range(len(SIZES)):
        batches = [batch_of(step, rank) for rank in range(WORLD)]
        keys = [(x[mask_of(x)], y[mask_of(x)]) if masked else (x, y) for x, y in batches]
        together = (
            [x.tolist() for key, _ in keys for x in key],
            [y for _, k in keys for y in k.tolist()],
        )
        refs, ref_labels = stored.references(*together)
        first = len(keys[0][0])
        for rank, (x, y) in enumerate(batches):
            value, grad, memory, labels, queue_idx = results[rank][step]
            own = slice(0, first) if rank == 0 else slice(first, first + len(keys[1][0]))
            others = [i for i in range(len(refs)) if not own.start <= i < own.stop]
            order = [*range(own.start, own.stop), *others]
            rows, row_labels = (x[~mask_of(x)], y[~mask_of(x)]) if masked else (x, y)
            ordered = torch.tensor([refs[i] for i in order], dtype=torch.float64).reshape(-1, SIZE)
            ordered_labels = torch.tensor([ref_labels[i] for i in order], dtype=torch.int64)
            listed = oracle.all_pairs(
                row_labels.tolist(), ordered_labels.tolist(), copies_first=not masked
            )
            listed = tuple(torch.tensor(column, dtype=torch.int64) for column in listed)
            if len(rows) > 0:
                expected = loss(rows, row_labels, listed, ordered, ordered_labels)
                torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-12)
                torch.testing.assert_close(
                    grad, torch.autograd.grad(expected, x)[0], rtol=1e-10, atol=1e-12
                )
            else:
                assert value == 0
            assert torch.equal(memory, results[0][step][2])
            assert torch.equal(labels, results[0][step][3])
            assert queue_idx == results[0][step][4]
        stored.store(*together)
        last = results[0][step]
        slots = [(last[4] - 1 - k) % MEMORY for k in range(len(stored.stored))]
        assert last[2][slots].tolist() == [row for row, _ in stored.stored[::-1]]
        assert last[3][slots].tolist() == [label for _, label in stored.stored[::-1]]
    for refused in refusals:
        assert refused.startswith(
            "embeddings: expected at most memory_size = 14 rows, of all processes together; got 15"
        )


def test_inside_the_wrapper_all_is_that_of_one_process_with_the_joined_batch(of_both):
    memory = CrossBatchMemory(losses.ContrastiveLoss(), SIZE, MEMORY).double()
    for step in range(len(SIZES)):
        parts = [batch_of(step, rank) for rank in range(WORLD)]
        value = memory(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        grads = torch.autograd.grad(value, [x for x, _ in parts])
        for rank in range(WORLD):
            expected = value.detach(), grads[rank], memory.embedding_memory, memory.label_memory
            torch.testing.assert_close(of_both[rank][2][step], expected, rtol=1e-12, atol=1e-12)
