"""Train generalized sum pooling on collages of digits, and draw where an image is pooled from.

Needs scikit-learn for scans of digits and matplotlib for the pictures: pip install ".[bench]" in a
clone. Takes half a minute on a CPU, and writes pooling_heatmaps.png and pooling_smoothing.png (into
the folder that is given):

    python examples/pooling_heatmaps.py

A collage has one target, a digit from 0 to 5, which is its class, and three scans of 6 to 9 that
mean nothing. No label tells where the target is; the pooling weights come to lie on it. The second
picture is a map of two patches under weights of rising sharpness.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no window
import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from sklearn.datasets import load_digits
from torch import nn

from pml_extras.functional import sum_pooling_weights
from pml_extras.pooling import GeneralizedSumPooling

STEPS, CLASSES, PER_CLASS, SHOWN = 300, 6, 8, 6


class Collages:
    """(B, 1, 16, 16) collages of 8 x 8 scans, of rows of their own for training and test."""

    def __init__(self, images: torch.Tensor, digits: torch.Tensor) -> None:
        self.targets = [images[digits == c] for c in range(CLASSES)]
        self.others = images[digits >= CLASSES]

    def draw(self, per_class: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Collages, classes, and the quarter that the target is in, row by row."""
        labels = torch.arange(CLASSES).repeat_interleave(per_class)
        num = len(labels)
        tiles = self.others[torch.randint(len(self.others), (num, 4))]  # (B, 4, 8, 8)
        quarter = torch.randint(4, (num,))
        for b, (label, place) in enumerate(zip(labels.tolist(), quarter.tolist(), strict=True)):
            scans = self.targets[label]
            tiles[b, place] = scans[torch.randint(len(scans), ())]
        rows = tiles.reshape(num, 2, 2, 8, 8).transpose(2, 3)
        return rows.reshape(num, 1, 16, 16), labels, quarter


def train(collages: Collages, pooling: GeneralizedSumPooling) -> nn.Module:
    """A small trunk from scratch; 4 x 4 locations, each of which sees about a quarter."""
    trunk = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
    )
    model = nn.Sequential(trunk, pooling)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_func = MultiSimilarityLoss()
    for step in range(STEPS):
        images, labels, _ = collages.draw(PER_CLASS)
        optimizer.zero_grad()
        loss = loss_func(model(images), labels)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:3d}  loss {loss.item():.3f}  pooling started: {pooling.started}")
    return trunk.eval()


def on_target(weights: torch.Tensor, quarter: torch.Tensor) -> float:
    """Mean share of (B, H, W) weights in the quarter of the target."""
    num, height, width = weights.shape
    shares = weights.reshape(num, 2, height // 2, 2, width // 2).sum(dim=(2, 4)).flatten(1)
    return shares[torch.arange(num), quarter].mean().item()


def draw_heatmaps(
    images: torch.Tensor, weights: torch.Tensor, plan: torch.Tensor, path: Path
) -> None:
    """A row an image: itself, its weights, and what goes to three prototypes."""
    top = plan.sum(dim=(0, 2, 3)).topk(3).indices
    columns = ["image", "weights n p", *(f"to prototype {j}" for j in top.tolist())]
    figure, axes = plt.subplots(len(images), len(columns), figsize=(10, 2 * len(images)))
    for row, image, p, maps in zip(axes, images, weights, plan[:, top], strict=True):
        row[0].imshow(image[0], cmap="gray")
        for axis, shown in zip(row[1:], (p * p.numel(), *maps), strict=True):
            axis.imshow(image[0], cmap="gray")
            axis.imshow(shown, cmap="magma", alpha=0.6, extent=(-0.5, 15.5, 15.5, -0.5), vmin=0)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def two_patches() -> torch.Tensor:
    """(10, 10, 3) green ground with a red and a blue patch, brightest in their middles."""
    image = torch.zeros(10, 10, 3)
    image[..., 1] = 1
    offset = torch.arange(5.0) - 2
    distance = (offset[:, None] ** 2 + offset**2).sqrt()
    patch = 0.5 + 0.5 * (1 - distance / distance.max())
    image[:5, :5] = patch[..., None] * torch.tensor([1.0, 0, 0])
    image[5:, 5:] = patch[..., None] * torch.tensor([0, 0, 1.0])
    return image


def draw_smoothing(path: Path) -> None:
    """Weights of that map for pure red and pure blue as prototypes, a fifth of it pooled."""
    image = two_patches()
    prototypes = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    cost = (prototypes[:, None] - image.reshape(1, 100, 3)).norm(dim=2)[None]  # (1, 2, 100)
    sharpnesses = (0.5, 5.0, 50.0, 500.0)
    figure, axes = plt.subplots(1, 5, figsize=(14, 3))
    axes[0].imshow(image)
    axes[0].set_title("map")
    for axis, sharpness in zip(axes[1:], sharpnesses, strict=True):
        p, _ = sum_pooling_weights(cost, mass=0.2, sharpness=sharpness)
        shown = axis.imshow(100 * p.reshape(10, 10), cmap="magma", vmin=0, vmax=5)
        axis.set_title(f"n p, sharpness {sharpness:g}")
    figure.colorbar(shown, ax=axes)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"wrote {path}")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    images, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images = (images / 16).float().reshape(-1, 8, 8)
    seen = torch.arange(len(digits)) % 2 == 0
    pooling = GeneralizedSumPooling(64, 32, num_prototypes=16, sharpness=10.0, startup_size=512)
    trunk = train(Collages(images[seen], digits[seen]), pooling)

    pooling.eval()
    new, _, quarter = Collages(images[~seen], digits[~seen]).draw(50)
    with torch.no_grad():
        features = trunk(new)
        weights, plan = pooling.weights(features), pooling.plan(features)
    share = on_target(weights, quarter)
    print(f"share of the weights on the target's quarter: {share:.2f}; of the plain mean: 0.25")
    chosen = torch.arange(SHOWN) * 50  # one of each class
    draw_heatmaps(new[chosen], weights[chosen], plan[chosen], folder / "pooling_heatmaps.png")
    draw_smoothing(folder / "pooling_smoothing.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
