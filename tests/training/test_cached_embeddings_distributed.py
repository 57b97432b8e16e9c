"""Two processes with batches and numbers of chunks of their own: gradients are averaged once."""

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.training import cached_embeddings

WORLD, STEPS, SIZES, CHUNK_SIZES = 2, 3, (9, 7), (2, 3)  # by rank: 5 chunks, 3 chunks


def setting():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh())
    trunk[1].eval()
    embedder = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    return trunk.double(), embedder.double()


def batches(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(sum(SIZES), 4, generator=generator, dtype=torch.float64).split(SIZES)


def value(z):
    return (z @ z.T).logsumexp(dim=1).square().mean()


def average_in(counts, name):
    """What DistributedDataParallel does of its own accord, counted."""

    def hook(state, bucket):
        counts[name] = counts.get(name, 0) + 1
        tensor = bucket.buffer() / WORLD
        return (
            distributed.all_reduce(tensor, async_op=True).get_future().then(lambda f: f.value()[0])
        )

    return hook


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    modules, counts = setting(), {}
    trunk, embedder = parallel = [DistributedDataParallel(module) for module in modules]
    for name, module in zip(("trunk", "embedder"), parallel, strict=True):
        module.register_comm_hook(None, average_in(counts, name))
    found = []
    for step in range(STEPS):
        for module in parallel:
            module.zero_grad()
        torch.manual_seed(10 * step + rank)
        chunks = batches(step)[rank].split(CHUNK_SIZES[rank])
        z = cached_embeddings(lambda x: embedder(trunk(x)), chunks, modules=parallel)
        value(z).backward()
        found.append([p.grad.clone() for module in modules for p in module.parameters()])
    torch.save((found, counts), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def alone(step):
    """The mean over ranks of the gradients of one graph each."""
    trunk, embedder = setting()
    for rank in range(WORLD):
        torch.manual_seed(10 * step + rank)
        chunks = batches(step)[rank].split(CHUNK_SIZES[rank])
        (value(torch.cat([embedder(trunk(chunk)) for chunk in chunks])) / WORLD).backward()
    return [p.grad for module in (trunk, embedder) for p in module.parameters()]


def test_ranks_average_the_gradients_of_all_their_chunks_once_a_step(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    for rank in range(WORLD):
        found, counts = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert counts == {"trunk": STEPS, "embedder": STEPS}
        for step in range(STEPS):
            torch.testing.assert_close(found[step], alone(step), rtol=1e-12, atol=1e-14)
