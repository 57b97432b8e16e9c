"""Two processes with half of the batch each: equal means and weights, step after step."""

import torch
from pytorch_metric_learning.losses import ContrastiveLoss, NormalizedSoftmaxLoss, TripletMarginLoss
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.losses import WeightedLossEnsemble

WORLD, ROWS, STEPS = 2, 12, 100


def setting():
    torch.manual_seed(0)
    members = {
        "pairs": ContrastiveLoss(),
        "triplets": TripletMarginLoss(),
        "classes": NormalizedSoftmaxLoss(3, 4),
    }
    return nn.Linear(5, 4), WeightedLossEnsemble(members, max_scale=10.0)


def train(trunk, ensemble, call, part, divide_by):
    """Weights and means after every step; the own gradients divided as pml's factor asks."""
    groups = [{"params": list(trunk.parameters())}, *ensemble.param_groups(lr=0.01)]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    labels = torch.arange(ROWS) % 3
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(ROWS, 5, generator=generator) + torch.eye(5)[labels]
        optimizer.zero_grad()
        call(x[part], labels[part]).backward()
        for p in ensemble.parameters():
            p.grad /= divide_by
        optimizer.step()
        weights = torch.tensor(list(ensemble.loss_weights().values()))
        found.append(torch.cat([weights, ensemble.running_mean]))
    return torch.stack(found)


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    trunk, ensemble = setting()
    parallel_trunk = DistributedDataParallel(trunk)
    parallel = DistributedDataParallel(DistributedLossWrapper(ensemble))
    part = slice(rank * ROWS // WORLD, (rank + 1) * ROWS // WORLD)
    found = train(trunk, ensemble, lambda x, y: parallel(parallel_trunk(x), y), part, WORLD)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_means_and_weights_stay_equal_and_are_those_of_one_process(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    trunk, ensemble = setting()
    alone = train(trunk, ensemble, lambda x, y: ensemble(trunk(x), y), slice(None), 1)
    torch.testing.assert_close(first[:20], alone[:20], rtol=1e-3, atol=1e-3)
    assert (alone[-1, :3] - 1 / 3).abs().max() > 0.05  # the weights have learned
