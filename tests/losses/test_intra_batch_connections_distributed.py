"""Two processes with half of the batch each learn as one process with all of it."""

import copy

import pytest
import torch
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.losses import IntraBatchConnectionsLoss

WORLD, ROWS = 2, 10


def setting():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    loss = IntraBatchConnectionsLoss(3, 4, num_layers=2, dropout=0.0, add_zero_attn=True).double()
    with torch.no_grad():
        loss.classifier.mul_(100)
    return trunk, loss, torch.randn(ROWS, 5, dtype=torch.float64), torch.arange(ROWS) % 3


def state(trunk, loss):
    """Gradients, and what batch norm has seen."""
    found = {f"trunk.{name}": p.grad for name, p in trunk.named_parameters()}
    found |= {f"loss.{name}": p.grad for name, p in loss.named_parameters()}
    return {**found, "mean": loss.neck.running_mean, "variance": loss.neck.running_var}


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    trunk, loss, x, labels = setting()
    mine = slice(rank * ROWS // WORLD, (rank + 1) * ROWS // WORLD)
    parallel_trunk = DistributedDataParallel(trunk)
    parallel_loss = DistributedDataParallel(DistributedLossWrapper(loss))
    parallel_loss(parallel_trunk(x[mine]), labels[mine]).backward()
    torch.save(state(trunk, loss), f"{folder}/{rank}.pt")
    with pytest.raises(ValueError, match="ref_emb: expected None"):
        DistributedLossWrapper(copy.deepcopy(loss), efficient=True)(trunk(x[mine]), labels[mine])
    distributed.destroy_process_group()


def test_gradients_are_those_of_one_process_but_for_the_factor_of_pml(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    trunk, loss, x, labels = setting()
    loss(trunk(x), labels).backward()
    expected = state(trunk, loss)
    assert [name for name, v in expected.items() if v.abs().max() < 1e-9] == [
        "loss.network.layers.1.norm2.bias"  # batch norm takes a common shift away
    ]
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            if name.startswith("loss."):
                value = value / WORLD
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10, msg=name)
