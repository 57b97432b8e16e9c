"""Three losses of pml trained as one, and their weights over training.

Needs scikit-learn for scans of digits and matplotlib for the picture: pip install ".[bench]" in a
clone. Takes seconds on a CPU and writes loss_ensemble.png (or the path that is given):

    python examples/loss_ensemble.py

Each loss is brought to the scale of their common mean first. The weights learn with the trunk: by
default weight moves to the loss that has fallen most against its own mean, never below a floor. See
pml_extras.weighting for strategies that move it elsewhere.
"""

import sys

import matplotlib

matplotlib.use("Agg")  # a file, no window
import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.samplers import MPerClassSampler
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.losses import WeightedLossEnsemble

STEPS = 400


def main(path: str) -> None:
    torch.manual_seed(0)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = (images / 16).float()
    sampler = MPerClassSampler(digits, m=4, batch_size=40, length_before_new_iter=40 * STEPS)
    loader = DataLoader(TensorDataset(images, digits), batch_size=40, sampler=sampler)

    trunk = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
    loss_func = WeightedLossEnsemble(
        {
            "similarity": losses.MultiSimilarityLoss(),
            "proxies": losses.ProxyAnchorLoss(num_classes=10, embedding_size=64),
            "triplets": losses.TripletMarginLoss(),
        },
        miners={"triplets": miners.TripletMarginMiner(type_of_triplets="semihard")},
        collect_stats=True,
    )
    optimizer = torch.optim.Adam(
        [{"params": trunk.parameters()}, *loss_func.param_groups(lr=1e-3, weighting_lr=1e-2)],
        lr=1e-3,
    )
    weights: dict[str, list[float]] = {name: [] for name in loss_func.loss_weights()}
    for step, (batch, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = loss_func(trunk(batch), labels)
        loss.backward()
        optimizer.step()
        for name, weight in loss_func.loss_weights().items():
            weights[name].append(weight)
        if step % 80 == 0 or step == STEPS - 1:
            now = ", ".join(
                f"{name} {getattr(loss_func, f'value_{name}'):.3f} (weight {of_loss[-1]:.2f})"
                for name, of_loss in weights.items()
            )
            print(f"step {step:3d}  total {loss.item():.3f}  {now}")

    figure, axis = plt.subplots(figsize=(6, 4))
    for name, of_loss in weights.items():
        axis.plot(of_loss, label=name)
    axis.axhline(1 / 12, color="grey", linestyle=":", label="floor")
    axis.set(xlabel="step", ylabel="weight", ylim=(0, 1))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "loss_ensemble.png")
