"""Potential field loss on real scans of digits: trained on one half, retrieval in the other.

Needs scikit-learn for the scans and faiss for neighbours: pip install ".[bench]" in a clone.
Takes seconds on a CPU:

    python examples/potential_field_quickstart.py
"""

import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.losses import PotentialFieldLoss


def main() -> None:
    torch.manual_seed(0)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = (images / 16).float()
    seen = torch.arange(len(digits)) % 2 == 0  # for training; the others are new at the end
    train = TensorDataset(images[seen], digits[seen])

    trunk = torch.nn.Sequential(
        torch.nn.Linear(64, 256),
        torch.nn.BatchNorm1d(256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 64),
    )
    loss_func = PotentialFieldLoss(
        num_classes=10, embedding_size=64, reduction="batch_mean", collect_stats=True
    )
    optimizer = torch.optim.Adam(
        [{"params": trunk.parameters()}, *loss_func.param_groups(lr=1e-4)], lr=1e-4
    )
    sampler = MPerClassSampler(train.tensors[1], m=4, batch_size=40, length_before_new_iter=800)
    loader = DataLoader(train, batch_size=40, sampler=sampler, drop_last=True)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
    )

    def accuracy() -> str:
        trunk.eval()
        with torch.no_grad():
            embeddings = torch.nn.functional.normalize(trunk(images[~seen]))
        measured = calculator.get_accuracy(embeddings, digits[~seen])
        return ", ".join(f"{name} {value:.3f}" for name, value in sorted(measured.items()))

    print(f"new scans, untrained: {accuracy()}")
    for epoch in range(10):
        trunk.train()
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = loss_func(trunk(batch), labels)
            loss.backward()
            optimizer.step()
        # The total is dominated by pairs of proxies; the excess says how far samples are from rest.
        print(
            f"epoch {epoch + 1:2d}  loss {loss.item():9.1f}  attraction still to gain: "
            f"sample-sample {loss_func.excess_sample_sample:7.1f}, "
            f"sample-proxy {loss_func.excess_sample_proxy:7.1f}"
        )
    print(f"new scans, trained:   {accuracy()}")


if __name__ == "__main__":
    main()
