"""A loss with proxies in Accelerate: broken off in the middle of an epoch, and continued exactly.

Real scans of digits, one half for training, retrieval in the other. What to note, in its place
below: proxies have a rate of their own, the state holds proxies and the place of the sampler, the
loader is not prepared, and the same lines train in several processes. Writes a folder ``half_way``.
Needs Accelerate, scikit-learn for the scans and faiss for neighbours: pip install ".[bench,dev]" in
a clone. Takes seconds on a CPU:

    python examples/accelerate_loop.py
    torchrun --nproc-per-node 2 examples/accelerate_loop.py
"""

from itertools import chain, repeat

import torch
from accelerate import Accelerator
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.losses import PotentialFieldLoss
from pml_extras.samplers import MPerClassBatchSampler
from pml_extras.wrappers import DistributedLossWrapper

BATCH_SIZE, STEPS = 40, 200  # of all processes together; no epoch ends half-way
FOLDER = "half_way"


def trained(data: TensorDataset, steps: range) -> tuple[Accelerator, nn.Module, nn.Module]:
    """Take these steps with new objects, later ones from the state that the first half leaves."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    trunk: nn.Module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    potential = PotentialFieldLoss(10, 64, reduction="batch_mean")
    # The groups before ``prepare``, which may wrap the loss: proxies learn faster than the trunk.
    optimizer = torch.optim.Adam(
        [{"params": trunk.parameters()}, *potential.param_groups(lr=1e-4)], lr=1e-4
    )
    # Prepared as a network is: on the device, in the state, its gradients averaged over processes.
    # (A loss without parameters is not prepared: there is nothing to average.) The wrapper makes it
    # the loss of the joined batch in several processes; in one it is the loss itself.
    trunk, loss_func, optimizer = accelerator.prepare(
        trunk, DistributedLossWrapper(potential), optimizer
    )
    sampler = MPerClassBatchSampler(
        data.tensors[1],
        m=4,
        batch_size=BATCH_SIZE // accelerator.num_processes,
        num_replicas=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    # Not prepared: Accelerate would give processes parts of a part, and fetch a batch ahead, as
    # workers do, which the state of the sampler would count.
    loader = DataLoader(data, batch_sampler=sampler)
    accelerator.register_for_checkpointing(sampler)
    if steps.start > 0:
        accelerator.load_state(FOLDER)
    batches = chain.from_iterable(repeat(loader))  # each time round a new epoch
    for step, batch in zip(steps, batches, strict=False):
        scans, digits = (x.to(accelerator.device) for x in batch)
        optimizer.zero_grad()
        accelerator.backward(loss_func(trunk(scans), digits))
        optimizer.step()
        if step + 1 == STEPS // 2:
            accelerator.save_state(FOLDER)
    return accelerator, trunk, loss_func


def main() -> None:
    """Not at all, without a break, and from the state half-way."""
    torch.set_num_threads(1)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = (images / 16).float()
    seen = torch.arange(len(digits)) % 2 == 0
    data = TensorDataset(images[seen], digits[seen])
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
    )
    states = []
    for steps in (range(0), range(STEPS), range(STEPS // 2, STEPS)):
        accelerator, trunk, loss_func = trained(data, steps)
        with torch.no_grad():
            embeddings = nn.functional.normalize(trunk(images[~seen]))
        found = calculator.get_accuracy(embeddings, digits[~seen])
        accelerator.print(
            f"steps {steps.start:3d} to {steps.stop:3d}, new scans: "
            f"recall at 1 {found['precision_at_1']:.3f}, "
            f"MAP@R {found['mean_average_precision_at_r']:.3f}"
        )
        states.append([*trunk.parameters(), *loss_func.parameters()])
    same = all(torch.equal(x, y) for x, y in zip(*states[1:], strict=True))
    accelerator.print(f"{'the same' if same else 'another'} network and proxies")
    accelerator.end_training()


if __name__ == "__main__":
    main()
