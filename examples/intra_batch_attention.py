"""Train with intra-batch connections, and draw who listens to whom in a batch of new scans.

Needs scikit-learn for scans of digits and matplotlib for the picture: pip install ".[bench]" in a
clone. Takes seconds on a CPU and writes intra_batch_attention.png (or the path that is given):

    python examples/intra_batch_attention.py

Rows receive and columns send; both are sorted by class, so that messages within a class fill the
outlined blocks. At test time nothing of this is used: the embeddings of the trunk are compared.
"""

import sys

import matplotlib

matplotlib.use("Agg")  # a file, no window
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pml_extras.losses import IntraBatchConnectionsLoss
from pml_extras.nn import MessagePassingNetwork
from pml_extras.samplers import EpochMPerClassSampler

EPOCHS, ROWS_PER_CLASS = 40, 6


def train(images: torch.Tensor, digits: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
    """As the released recipe does, but at a rate for a trunk from scratch.

    All senders start out with about the same weight; it takes some steps until they differ.
    """
    trunk = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64)
    )  # raw rows: no normalisation at the end
    loss_func = IntraBatchConnectionsLoss(num_classes=10, embedding_size=64)
    optimizer = torch.optim.RAdam(
        [{"params": trunk.parameters()}, *loss_func.param_groups(lr=1e-2, weight_decay=6e-6)],
        lr=1e-2,
        weight_decay=6e-6,
        decoupled_weight_decay=True,
    )
    sampler = EpochMPerClassSampler(digits, batch_size=54)
    loader = DataLoader(TensorDataset(images, digits), batch_size=54, sampler=sampler)
    for epoch in range(EPOCHS):
        losses = []
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = loss_func(trunk(batch), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if (epoch + 1) % 5 == 0:
            print(f"epoch {epoch + 1:2d}  loss {sum(losses) / len(losses):.3f}")
    return trunk.eval(), loss_func.eval()


def share_within_class(weights: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(H,) mean share of its attention that a row gives to rows of its class."""
    same = labels[:, None] == labels
    return (weights * same).sum(dim=-1).mean(dim=-1)


def main(path: str) -> None:
    torch.manual_seed(0)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = (images / 16).float()
    seen = torch.arange(len(digits)) % 2 == 0
    trunk, loss_func = train(images[seen], digits[seen])

    new, labels = images[~seen], digits[~seen]
    chosen = torch.cat([torch.where(labels == c)[0][:ROWS_PER_CLASS] for c in range(10)])
    network = loss_func.network
    assert isinstance(network, MessagePassingNetwork)
    with torch.no_grad():
        _, weights = network.forward_with_attention(trunk(new[chosen]))  # (L, H, B, B)
    weights = weights[0]

    figure, axes = plt.subplots(1, len(weights), figsize=(5 * len(weights), 5), squeeze=False)
    for head, (axis, shown) in enumerate(zip(axes[0], weights, strict=True)):
        axis.imshow(shown, cmap="magma")
        for c in range(10):
            corner = c * ROWS_PER_CLASS - 0.5
            axis.add_patch(
                Rectangle(
                    (corner, corner),
                    ROWS_PER_CLASS,
                    ROWS_PER_CLASS,
                    fill=False,
                    edgecolor="white",
                    linewidth=0.8,
                )
            )
        middle = [c * ROWS_PER_CLASS + (ROWS_PER_CLASS - 1) / 2 for c in range(10)]
        axis.set_xticks(middle, [str(c) for c in range(10)])
        axis.set_yticks(middle, [str(c) for c in range(10)])
        axis.set(title=f"head {head + 1}", xlabel="sender's digit", ylabel="receiver's digit")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    shares = ", ".join(f"{share:.2f}" for share in share_within_class(weights, labels[chosen]))
    print(f"attention within the class, by head: {shares}; without any preference: 0.10")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "intra_batch_attention.png")
