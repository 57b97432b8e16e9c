"""Two processes with batches of their own: every rank picks the prototypes of one process."""

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from pml_extras.pooling import GeneralizedSumPooling

WORLD, STEPS = 2, 6
SIZES = (5, 3)  # of the batches of rank 0 and 1


def setting():
    torch.manual_seed(0)
    return GeneralizedSumPooling(6, 4, num_prototypes=3, startup_size=20).double()


def batches(step):
    generator = torch.Generator().manual_seed(step)
    whole = torch.randn(sum(SIZES), 6, 2, 3, generator=generator, dtype=torch.float64)
    return whole.split(SIZES)


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    layer = setting()
    parallel = DistributedDataParallel(layer)  # no find_unused_parameters
    prototypes, started = [], []
    for step in range(STEPS):
        pooled, z = parallel(batches(step)[rank], return_attributes=True)
        (pooled.square().mean() + z.square().mean()).backward()
        prototypes.append(layer.prototypes.detach().clone())
        started.append(layer.started)
    torch.save((prototypes, started, layer.prototypes.grad), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_ranks_start_together_with_the_prototypes_of_one_process(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = setting()
    for step in range(STEPS):
        alone(torch.cat(batches(step)))
        for prototypes, started, _ in (first, second):
            assert started[step] == alone.started == (step >= 3)  # after 8, 16, 20 of 24 rows
            torch.testing.assert_close(prototypes[step], alone.prototypes.detach())
    assert torch.equal(torch.stack(first[0]), torch.stack(second[0]))
    assert torch.equal(first[2], second[2])
    assert first[2].abs().max() > 0
