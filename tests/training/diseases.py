"""Trainings that go wrong in one way each, and some that do not."""

import copy

import torch
from pytorch_metric_learning import losses, miners
from torch import nn

from pml_extras.losses import PotentialFieldLoss, WeightedLossEnsemble
from pml_extras.weighting import LearnedSimplex

CLASSES, SIZE, WINDOW = 6, 8, 10
CENTRES = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(5))


def classes_of(step, num=24):
    """Labels of a batch, several of each class, in another order each step."""
    return (torch.arange(num) + step) % CLASSES


def alone(step):
    """All labels of a batch differ."""
    return torch.arange(24) + 24 * step


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, SIZE))


def batch(step, labels):
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(len(labels), 12, generator=generator)
    return CENTRES[labels % CLASSES] + 0.5 * noise


class Constant(nn.Module):
    """All rows along the bias, so that all embeddings almost coincide."""

    def __init__(self, spread=0.01):
        super().__init__()
        self.net = network()
        self.spread = spread

    def forward(self, x):
        return 1.0 + self.spread * self.net(x)


class Line(nn.Module):
    """Rows on a line through the origin."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(12, 1)

    def forward(self, x):
        return self.net(x) * torch.linspace(1, 2, SIZE)


def proxies():
    torch.manual_seed(1)
    return losses.ProxyAnchorLoss(CLASSES, SIZE)


class WithUnused(losses.ContrastiveLoss):
    """A parameter on which the value does not depend."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


def nothing(embeddings, labels):
    """A miner that takes all pairs for easy."""
    empty = torch.zeros(0, dtype=torch.int64)
    return empty, empty, empty


def of_network_alone(**arguments):
    net = network()
    return {"net": net, "optimizers": [torch.optim.Adam(net.parameters(), lr=1e-3)], **arguments}


def still(net, loss):
    """An optimizer of the network, and one of the loss that has the rate 0."""
    rates = [{"params": net.parameters()}, {"params": loss.parameters(), "lr": 0.0}]
    return [torch.optim.Adam(rates, lr=1e-3)]


def with_still_proxies():
    net, loss = network(), proxies()
    return loss, {"net": net, "optimizers": still(net, loss)}


def with_optimizer_of_a_copy():
    net, loss = network(), proxies()
    learnt = [*net.parameters(), *copy.deepcopy(loss).parameters()]
    return loss, {"net": net, "optimizers": [torch.optim.Adam(learnt, lr=1e-3)]}


DISEASES = {
    "one row a class": (
        lambda: (losses.ContrastiveLoss(), {"labels_of": alone}),
        "ContrastiveLoss: in the last 10 iterations, 100% of the rows had none of their class",
    ),
    "one row a class for triplets, whose losses are then zero too": (
        lambda: (losses.TripletMarginLoss(), {"labels_of": alone}),
        "TripletMarginLoss: in the last 10 iterations, 100% of the rows had none of their class",
    ),
    "a miner that finds nothing": (
        lambda: (losses.TripletMarginLoss(), {"miner": nothing}),
        "TripletMarginLoss: in the last 10 iterations, the miner found no positive pair",
    ),
    "almost one direction": (
        lambda: (losses.TripletMarginLoss(), {"net": Constant(), "lr": 1e-6}),
        "had nearly one direction (mean cosine 1.000",
    ),
    "a line": (
        lambda: (losses.TripletMarginLoss(), {"net": Line(), "lr": 1e-6}),
        "effective rank 1.0",
    ),
    "no margin": (
        lambda: (losses.TripletMarginLoss(margin=-5.0), {}),
        "TripletMarginLoss: in the last 10 iterations, all terms were exactly zero in 100%",
    ),
    "proxies without optimizer": (
        lambda: (proxies(), of_network_alone()),
        "no optimizer held its parameters proxies, and they stayed as they are",
    ),
    "proxies of ours without optimizer": (
        lambda: (PotentialFieldLoss(CLASSES, SIZE, 2, reduction="pair_mean"), of_network_alone()),
        "PotentialFieldLoss: in the last 10 iterations, no optimizer held its parameters proxies",
    ),
    "an optimizer of a copy": (
        with_optimizer_of_a_copy,
        "no optimizer held its parameters proxies",
    ),
    "proxies and weights of an ensemble without optimizer": (
        lambda: (
            WeightedLossEnsemble([proxies(), losses.ContrastiveLoss()], weighting=LearnedSimplex()),
            of_network_alone(),
        ),
        "WeightedLossEnsemble: in the last 10 iterations, no optimizer held its parameters",
    ),
    "a rate of zero": (with_still_proxies, "proxies had gradients and an optimizer, and stayed"),
    "no step": (lambda: (proxies(), {"stepped": False}), "proxies had gradients and an optimizer"),
    "a parameter without gradient": (
        lambda: (WithUnused(), {}),
        "WithUnused: in the last 10 iterations, its parameters unused had no gradient",
    ),
}


def frozen(loss):
    return loss.requires_grad_(False)


HEALTHY = {
    "triplets": lambda: (losses.TripletMarginLoss(), {}),
    "pairs": lambda: (losses.ContrastiveLoss(), {}),
    "mined": lambda: (losses.MultiSimilarityLoss(), {"miner": miners.MultiSimilarityMiner()}),
    "proxies": lambda: (proxies(), {}),
    "proxies, one row a class in most batches": lambda: (
        losses.ProxyAnchorLoss(24, SIZE),
        {"labels_of": lambda step: torch.arange(24)},
    ),
    "ours": lambda: (PotentialFieldLoss(CLASSES, SIZE, 2, reduction="pair_mean"), {}),
    "frozen proxies": lambda: (frozen(proxies()), of_network_alone()),
    "two classes on a line": lambda: (
        losses.ContrastiveLoss(),
        {"net": Line(), "labels_of": lambda step: classes_of(step) % 2},
    ),
    "starts in one direction": lambda: (
        losses.TripletMarginLoss(),
        {"net": Constant(), "steps": WINDOW},
    ),
}
