"""Train generalized sum pooling on collages of digits, and draw where an image is pooled from.

Needs scikit-learn for scans of digits and matplotlib for the pictures: pip install ".[bench]" in a
clone. Takes ten seconds on a CPU, and writes pooling_heatmaps.png and pooling_smoothing.png (into
the folder that is given):

    python examples/pooling_heatmaps.py

A collage of 4 x 4 scans has two of one digit from 0 to 5, which is its class; the others are
digits from 6 to 9 and mean nothing. No label tells where the two are: the pooling weights come to
lie on them. The second picture is a map of two patches under weights of rising sharpness.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, no window
import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from sklearn.datasets import load_digits
from torch import nn

from pml_extras.functional import sum_pooling_weights
from pml_extras.pooling import GeneralizedSumPooling

STEPS, CLASSES, PER_CLASS, SIDE, TARGETS = 300, 6, 8, 4, 2


class Collages:
    """Of 4 x 4 scans; scans of their own for training and test."""

    def __init__(self, scans: torch.Tensor, digits: torch.Tensor) -> None:
        self.targets = [scans[digits == c] for c in range(CLASSES)]
        self.others = scans[digits >= CLASSES]

    def draw(self, per_class: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 1, 32, 32) collages, (B,) classes, (B, 4, 4) True where a target is."""
        labels = torch.arange(CLASSES).repeat_interleave(per_class)
        num = len(labels)
        tiles = self.others[torch.randint(len(self.others), (num, SIDE**2))]  # (B, 16, 8, 8)
        places = torch.rand(num, SIDE**2).argsort(dim=1)[:, :TARGETS]
        for b, label in enumerate(labels.tolist()):
            scans = self.targets[label]
            tiles[b, places[b]] = scans[torch.randint(len(scans), (TARGETS,))]
        images = tiles.reshape(num, SIDE, SIDE, 8, 8).transpose(2, 3)
        is_target = torch.zeros(num, SIDE**2, dtype=torch.bool).scatter(1, places, True)
        return images.reshape(num, 1, 8 * SIDE, 8 * SIDE), labels, is_target.reshape(-1, SIDE, SIDE)


def train(collages: Collages, pooling: GeneralizedSumPooling) -> nn.Module:
    """A small trunk from scratch, each location of which sees one scan."""
    trunk = nn.Sequential(
        nn.Conv2d(1, 128, kernel_size=8, stride=8), nn.ReLU(), nn.Conv2d(128, 64, 1), nn.ReLU()
    )
    model = nn.Sequential(trunk, pooling)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_func = ContrastiveLoss()
    for step in range(STEPS):
        images, labels, _ = collages.draw(PER_CLASS)
        optimizer.zero_grad()
        loss = loss_func(model(images), labels)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:3d}  loss {loss.item():.3f}")
    return trunk.eval()


def draw_heatmaps(images: torch.Tensor, plan: torch.Tensor, path: Path) -> None:
    """A row an image: itself, what is pooled of each location, what of it by three prototypes."""
    top = plan.sum(dim=(0, 2, 3)).topk(3).indices
    columns = ["image", "pooled", *(f"by prototype {j}" for j in top.tolist())]
    figure, axes = plt.subplots(len(images), len(columns), figsize=(10, 2 * len(images)))
    for row, image, of_image in zip(axes, images, plan, strict=True):
        row[0].imshow(image[0], cmap="gray")
        for axis, shown in zip(row[1:], (of_image.sum(dim=0), *of_image[top]), strict=True):
            axis.imshow(image[0], cmap="gray")
            extent = (-0.5, 31.5, 31.5, -0.5)
            axis.imshow(shown, cmap="magma", alpha=0.6, extent=extent, vmin=0, vmax=1)
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
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    scans, digits = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    scans = (scans / 16).float().reshape(-1, 8, 8)
    seen = torch.arange(len(digits)) % 2 == 0
    pooling = GeneralizedSumPooling(
        64, 32, num_prototypes=16, mass=0.15, sharpness=20.0, startup_size=512
    )
    trunk = train(Collages(scans[seen], digits[seen]), pooling)

    pooling.eval()
    new, _, is_target = Collages(scans[~seen], digits[~seen]).draw(per_class=50)
    with torch.no_grad():
        features = trunk(new)
        weights, plan = pooling.weights(features), pooling.plan(features)
    share = (weights * is_target).sum(dim=(1, 2)).mean()
    print(f"share of the weights on the two targets: {share:.2f}; of the plain mean: 0.12")
    one_each = slice(None, None, 50)
    draw_heatmaps(new[one_each], plan[one_each], folder / "pooling_heatmaps.png")
    draw_smoothing(folder / "pooling_smoothing.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
