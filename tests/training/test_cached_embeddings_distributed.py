"""Two processes with batches and numbers of chunks of their own, and buffers of one of them."""

import pytest
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


def steps_of_two_modules(rank):
    """Gradients, and how often they were averaged."""
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
    return found, counts


class Averaging(nn.Module):
    """Subtracts a running mean, of which processes have their own until the next broadcast."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        with torch.no_grad():
            self.mean.mul_(0.5).add_(0.5 * x.mean(dim=0))
        return (x - self.mean) * self.weight


def steps_with_buffers(rank):
    """By chunks and in one graph."""
    found = []
    for by_chunks in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3).double(), nn.Tanh(), Averaging())
        parallel = DistributedDataParallel(net)
        for step in range(STEPS):
            chunks = batches(step)[rank].split(CHUNK_SIZES[rank])
            net.zero_grad()
            if by_chunks:
                z = cached_embeddings(parallel, chunks)
                hooks = len(net._forward_pre_hooks)
            else:  # it broadcasts once a step here too
                z = torch.cat([parallel(chunks[0]), *map(net, chunks[1:])])
            value(z).backward()
            found.append([*(p.grad.clone() for p in net.parameters()), net[2].mean.clone()])
    return found[:STEPS], found[STEPS:], hooks


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    torch.save((steps_of_two_modules(rank), steps_with_buffers(rank)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def alone(step):
    """The mean over ranks of the gradients of one graph each."""
    trunk, embedder = setting()
    for rank in range(WORLD):
        torch.manual_seed(10 * step + rank)
        chunks = batches(step)[rank].split(CHUNK_SIZES[rank])
        (value(torch.cat([embedder(trunk(chunk)) for chunk in chunks])) / WORLD).backward()
    return [p.grad for module in (trunk, embedder) for p in module.parameters()]


def test_ranks_average_the_gradients_of_all_their_chunks_once_a_step(ranks):
    for rank in range(WORLD):
        found, counts = ranks[rank][0]
        assert counts == {"trunk": STEPS, "embedder": STEPS}
        for step in range(STEPS):
            torch.testing.assert_close(found[step], alone(step), rtol=1e-12, atol=1e-14)


def test_ranks_replay_the_buffers_that_they_have_been_sent(ranks):
    means = []
    for rank in range(WORLD):
        actual, expected, hooks = ranks[rank][1]
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
        assert hooks == 0
        means.append(actual[-1][-1])
    assert not torch.allclose(*means)
