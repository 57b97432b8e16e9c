"""Losses of pairs with ``match_fn`` inside of wrappers and ensembles, or refused by them."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras import losses
from pml_extras.miners import RelationMiner
from pml_extras.wrappers import (
    CrossBatchMemory,
    DistributedLossWrapper,
    DistributedMinerWrapper,
    SelfSupervisedLoss,
)

WORLD, ROWS, FIRST = 2, 20, 13


def equal(a, b):
    return a[:, None] == b


def batch(num=ROWS, seed=0):
    """Rows, and a table of which pairs there are, that of (i, j) by chance not that of (j, i)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(-1, 2, (num, num), generator=generator)


class Lookup:
    """Of positions in a table; spawned processes make their own."""

    def __init__(self, table):
        self.table = table

    def __call__(self, i, j):
        return self.table[i][:, j]


def setting():
    torch.manual_seed(0)
    x, table = batch()
    return nn.Linear(5, 4).double(), losses.LiftedStructureLoss(match_fn=Lookup(table)), x


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    trunk, loss, x = setting()
    mine = slice(0, FIRST) if rank == 0 else slice(FIRST, ROWS)
    positions = torch.arange(ROWS)[mine]
    parallel = DistributedDataParallel(trunk)
    value = DistributedLossWrapper(loss)(parallel(x[mine]), positions)
    value.backward()
    found = [value.detach(), *(p.grad for p in trunk.parameters())]

    with pytest.raises(ValueError, match=r"^efficient: expected False .* beside `match_fn`"):
        DistributedLossWrapper(losses.NTXentLoss(match_fn=equal), efficient=True)(x, positions)
    with pytest.raises(ValueError, match=r"^labels: expected a tensor of shape"):
        DistributedLossWrapper(loss)(x[mine], loss.match_fn.table[mine])

    miner = DistributedMinerWrapper(RelationMiner(loss.match_fn), efficient=True)
    trunk, _, x = setting()
    parallel = DistributedDataParallel(trunk)
    rows = parallel(x[mine])
    pairs = miner(rows, positions)
    efficient = DistributedLossWrapper(losses.NTXentLoss(), efficient=True)
    efficient(rows, positions, pairs).backward()
    torch.save([found, [p.grad for p in trunk.parameters()]], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_with_positions_in_a_table_are_one(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    trunk, loss, x = setting()
    value = loss(trunk(x), torch.arange(ROWS))
    expected = [value.detach(), *torch.autograd.grad(value, list(trunk.parameters()))]
    related = losses.NTXentLoss(match_fn=loss.match_fn)(trunk(x), torch.arange(ROWS))
    by_rows = torch.autograd.grad(related, list(trunk.parameters()))
    for rank in range(WORLD):
        found, efficient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(efficient, list(by_rows), rtol=1e-10, atol=1e-12)


def test_a_memory_refuses_it():
    with pytest.raises(ValueError, match=r"^loss: .*which raises ValueError: indices_tuple"):
        CrossBatchMemory(losses.NTXentLoss(match_fn=equal), 6)


def test_two_views_are_compared_by_equality_alone():
    views = batch(5)[0], batch(5, seed=1)[0]
    expected = SelfSupervisedLoss(losses.NTXentLoss())(*views)
    wrapped = SelfSupervisedLoss(losses.NTXentLoss(match_fn=equal))
    torch.testing.assert_close(wrapped(*views), expected)
    with pytest.raises(ValueError, match=r"^loss: expected one that compares rows among"):
        SelfSupervisedLoss(losses.NTXentLoss(match_fn=lambda a, b: (a[:, None] - b).abs() < 2))


def test_a_member_of_an_ensemble_compares_positions_beside_one_that_compares_classes():
    x, table = batch()
    classes = torch.arange(ROWS) % 4
    by_table = losses.NTXentLoss(match_fn=Lookup(table))
    by_class = losses.NTXentLoss(match_fn=lambda i, j: classes[i][:, None] == classes[j])
    ensemble = losses.WeightedLossEnsemble([by_table, by_class], scale=None)
    positions = torch.arange(ROWS)
    parts = [by_table(x, positions), by_class(x, positions)]
    torch.testing.assert_close(ensemble(x, positions), sum(parts) / 2, rtol=1e-10, atol=0)
