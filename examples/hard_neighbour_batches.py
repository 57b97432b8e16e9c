"""The same loss on batches of random pairs, of classes, and of pairs with their hard neighbours.

Trains a small network on made-up classes that come in families: a random negative is of another
family and far away, a hard one is a sibling. All batches have 48 images, each sampler gives 400:

    python examples/hard_neighbour_batches.py

Prints the share of negatives in the batches that are siblings, and how often the nearest image is
of the same class, over classes that were not trained on: mean and spread of 3 seeds. Needs faiss:
pip install ".[bench]" in a clone. Takes about half a minute on a CPU.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from pml_extras.losses import LiftedStructureLoss
from pml_extras.miners import HardNeighbourMiner
from pml_extras.samplers import (
    HardNeighbourBatchSampler,
    MPerClassBatchSampler,
    PairBatchSampler,
)

FAMILIES, SIBLINGS, IMAGES, STEPS = 60, 10, 6, 400


def made_up_images(seed: int) -> tuple[Tensor, Tensor]:
    """(3600, 64) images and their 600 classes, those of a family in a row.

    What tells siblings apart is small, what tells two images of a class apart is not.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    family = draw(FAMILIES, 1, 1, 12).expand(-1, SIBLINGS, IMAGES, -1)
    own = 0.6 * draw(FAMILIES, SIBLINGS, 1, 12).expand(-1, -1, IMAGES, -1)
    own = own + 0.15 * draw(FAMILIES, SIBLINGS, IMAGES, 12)
    other = 1.2 * draw(FAMILIES, SIBLINGS, IMAGES, 24)
    hidden = torch.cat([family, own, other], dim=-1).flatten(0, 2)  # (N, 48)
    images = (hidden @ draw(48, 64) / 48**0.5).tanh()
    return images, torch.arange(FAMILIES * SIBLINGS).repeat_interleave(IMAGES)


def recall_at_1(rows: Tensor, labels: Tensor) -> float:
    nearest = torch.cdist(rows, rows).fill_diagonal_(torch.inf).argmin(dim=1)
    return (labels[nearest] == labels).float().mean().item()


def batches(kind: str, labels: Tensor, features: Callable[[], Tensor], seed: int) -> BatchSampler:
    if kind == "pairs, as released":
        return PairBatchSampler(labels, batch_size=48, seed=seed)
    if kind == "2 images of 24 classes":
        return MPerClassBatchSampler(labels, m=2, batch_size=48, seed=seed)
    if kind == "hard neighbours":
        return HardNeighbourBatchSampler(
            labels, features, num_pairs=8, num_neighbours=2, pool=20, refresh_every=50, seed=seed
        )
    return MPerClassBatchSampler(labels, m=2, batch_size=384, seed=seed)  # candidates


def train(kind: str, seed: int) -> tuple[float, float]:
    images, labels = made_up_images(seed)
    is_train = labels < FAMILIES * SIBLINGS // 2
    train_images, train_labels = images[is_train], labels[is_train]
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
    loss_func, miner = LiftedStructureLoss(), HardNeighbourMiner(8, 2, seed=seed)
    sampler = batches(kind, train_labels, lambda: trunk(train_images), seed)
    siblings = negatives = step = 0
    while step < STEPS:
        for batch in islice(sampler, STEPS - step):  # a DataLoader takes it as batch_sampler
            x, y = train_images[batch], train_labels[batch]
            if kind == "mined from 384":
                with torch.no_grad():
                    chosen = miner(trunk(x), y)
                x, y = x[chosen], y[chosen]
            optimizer.zero_grad()
            loss_func(trunk(x), y).backward()
            optimizer.step()
            other = y[:, None] != y
            negatives += int(other.sum())
            siblings += int((other & (y[:, None] // SIBLINGS == y // SIBLINGS)).sum())
            step += 1
    with torch.no_grad():
        return siblings / negatives, recall_at_1(trunk(images[~is_train]), labels[~is_train])


def main() -> None:
    images, labels = made_up_images(0)
    is_test = labels >= FAMILIES * SIBLINGS // 2
    untrained = recall_at_1(images[is_test], labels[is_test])
    print(f"{'images as they are':50s}   same class nearest {untrained:5.1%}")
    for kind in (
        "pairs, as released",
        "2 images of 24 classes",
        "hard neighbours",
        "mined from 384",
    ):
        share, recall = torch.tensor([train(kind, seed) for seed in range(3)]).unbind(1)
        print(
            f"{kind:22s}  siblings {share.mean():5.1%} of negatives"
            f"   same class nearest {recall.mean():5.1%} ± {recall.std():.1%}"
        )


if __name__ == "__main__":
    main()
