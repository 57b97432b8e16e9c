"""A training with two mistakes that nothing else complains about, and what the hook says of them.

300 classes of eight rows, a triplet loss and one with proxies, pml's trainer. The first time
batches are drawn at random, so that most rows have none of their class beside them, and no
optimizer holds the proxies. The second time both are mended, and nothing is said. Takes seconds on
a CPU:

    python examples/diagnostics.py
"""

import warnings

import torch
from pytorch_metric_learning.losses import MultipleLosses, ProxyAnchorLoss, TripletMarginLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pml_extras.training import Diagnostics

CLASSES, ROWS, SIZE, BATCH, EPOCHS = 300, 8, 32, 60, 10


def rows() -> tuple[Tensor, Tensor]:
    """Classes differ in eight hidden numbers, mixed into 64 with as much noise."""
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(ROWS)
    mixed = torch.randn(CLASSES, 8)[labels] @ torch.randn(8, 64) / 8**0.5
    return mixed + 0.7 * torch.randn(len(labels), 64), labels


def precision_at_1(embeddings: Tensor, labels: Tensor) -> float:
    cosines = nn.functional.normalize(embeddings) @ nn.functional.normalize(embeddings).T
    nearest = cosines.fill_diagonal_(-2).argmax(dim=1)
    return (labels[nearest] == labels).double().mean().item()


def train(mended: bool) -> None:
    x, labels = rows()
    trunk = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, SIZE))
    triplets, proxies = TripletMarginLoss(), ProxyAnchorLoss(CLASSES, SIZE)
    loss_func = MultipleLosses([triplets, proxies])
    optimizers = {"trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=1e-3)}
    sampler: torch.utils.data.Sampler[int] = torch.utils.data.RandomSampler(labels.tolist())
    if mended:
        optimizers["metric_loss_optimizer"] = torch.optim.Adam(loss_func.parameters(), lr=1e-2)
        sampler = MPerClassSampler(labels, m=4, batch_size=BATCH, length_before_new_iter=len(x))

    diagnostics = Diagnostics(loss_func)
    trainer = MetricLossOnly(
        models={"trunk": trunk},
        optimizers=optimizers,
        batch_size=BATCH,
        loss_funcs={"metric_loss": loss_func},
        dataset=TensorDataset(x, labels),
        data_device=torch.device("cpu"),
        sampler=sampler,
        dataloader_num_workers=0,
        end_of_iteration_hook=diagnostics.end_of_iteration_hook,
    )
    with warnings.catch_warnings(record=True) as caught:  # to print them below, not among the rest
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="Converting a tensor")  # the trainer's bar
        trainer.train(num_epochs=EPOCHS)

    print(f"\n{'Mended' if mended else 'With two mistakes'}, {len(caught)} warnings")
    for warning in caught:
        print(f"- {warning.message}")
    with torch.no_grad():
        print(f"precision at 1: {precision_at_1(trunk(x), labels):.3f}. Of the last batch:")
    for name in triplets._record_these_stats:
        print(f"  {name:24s}{float(getattr(triplets, name)):7.3f}")


if __name__ == "__main__":
    for mended in (False, True):
        train(mended)
