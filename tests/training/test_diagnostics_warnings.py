"""Each disease is put into words once; an ordinary training is left in peace."""

import copy
import logging
import warnings

import pytest
import torch
from pytorch_metric_learning import losses, miners, trainers
from torch import nn

from pml_extras.losses import PotentialFieldLoss, WeightedLossEnsemble
from pml_extras.training import Diagnostics, GradCache
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


def warned(
    loss,
    *,
    net=None,
    labels_of=classes_of,
    steps=3 * WINDOW,
    lr=1e-3,
    optimizers=None,
    miner=None,
    stepped=True,
):
    """Messages of a training of the network, and of the loss unless optimizers are given."""
    net = network() if net is None else net
    if optimizers is None:
        optimizers = [torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=lr)]
    diagnostics = Diagnostics(loss, window=WINDOW)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            labels = labels_of(step)
            for optimizer in optimizers:
                optimizer.zero_grad()
            embeddings = net(batch(step, labels))
            mined = () if miner is None else (miner(embeddings, labels),)
            loss(embeddings, labels, *mined).backward()
            for optimizer in optimizers if stepped else ():
                optimizer.step()
            diagnostics.after_step(*optimizers)
    assert all(w.category is UserWarning for w in caught)
    assert all(w.filename == __file__ for w in caught)  # where a reader looks: the loop
    return [str(w.message) for w in caught]


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


@pytest.mark.parametrize("name", DISEASES)
def test_each_disease_is_named_exactly_once_though_it_stays(name):
    make, words = DISEASES[name]
    loss, arguments = make()
    (message,) = warned(loss, **arguments)
    assert words in message
    assert "{" not in message


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


@pytest.mark.parametrize("name", HEALTHY)
def test_an_ordinary_training_raises_no_warning(name):
    loss, arguments = HEALTHY[name]()
    assert warned(loss, **{"steps": 6 * WINDOW, **arguments}) == []


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop"])
@pytest.mark.parametrize("options", [{}, {"foreach": True}])
def test_steps_of_any_optimizer_are_seen(kind, options):
    net, loss = network(), proxies()
    of_loss = getattr(torch.optim, kind)(loss.parameters(), lr=1e-4, **options)
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3), of_loss]
    assert warned(loss, net=net, optimizers=optimizers) == []


def test_before_the_end_of_a_window_nothing_is_said():
    assert warned(losses.ContrastiveLoss(), labels_of=alone, steps=WINDOW - 1) == []


def test_another_disease_is_said_later():
    def labels_of(step):
        return alone(step) if step < WINDOW else classes_of(step)

    loss = losses.TripletMarginLoss(margin=-5.0)
    first, second = warned(loss, labels_of=labels_of)
    assert "had none of their class" in first
    assert "exactly zero" in second


def test_a_loss_that_is_not_called_is_not_judged():
    diagnostics = Diagnostics(proxies(), window=2)
    for _ in range(4):
        diagnostics.after_step()


def test_parameters_that_something_else_writes_need_no_optimizer():
    loss, x = proxies(), torch.randn(24, SIZE)
    diagnostics = Diagnostics(loss, window=2)
    for step in range(4):
        loss(x, classes_of(step)).backward()
        with torch.no_grad():
            loss.proxies.mul_(0.9)
        diagnostics.after_step()


def test_sparse_gradients_are_gradients():
    class Looked(losses.ContrastiveLoss):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(CLASSES, SIZE, sparse=True)

        def forward(self, embeddings, labels):
            return super().forward(embeddings + self.table(labels), labels)

    net, loss = network(), Looked()
    optimizers = [torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)]
    assert warned(loss, net=net, optimizers=optimizers) == []


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 24 * WINDOW

    def __getitem__(self, index):
        return batch(index, torch.tensor([index % CLASSES]))[0], index % CLASSES


@pytest.mark.parametrize("trainer", [trainers.MetricLossOnly, GradCache])
@pytest.mark.parametrize("learns", [True, False])
def test_as_a_hook_of_trainers_it_is_called_with_their_optimizers(trainer, learns):
    logging.getLogger("PML").setLevel(logging.ERROR)
    net, loss = network(), proxies()
    diagnostics, seen = Diagnostics(loss, window=WINDOW), []

    def hook(trainer):
        diagnostics.end_of_iteration_hook(trainer)
        seen.append({name: float(getattr(loss, name)) for name in loss._record_these_stats})

    optimizers = {"trunk_optimizer": torch.optim.Adam(net.parameters(), lr=1e-3)}
    if learns:
        optimizers["metric_loss_optimizer"] = torch.optim.Adam(loss.parameters(), lr=1e-3)
    trained = trainer(
        **({"chunk_size": 7} if trainer is GradCache else {}),
        models={"trunk": net},
        optimizers=optimizers,
        batch_size=24,
        loss_funcs={"metric_loss": loss},
        dataset=Data(),
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
        end_of_iteration_hook=hook,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained.train(num_epochs=2)
    messages = [str(w.message) for w in caught if "ProxyAnchorLoss" in str(w.message)]
    assert len(messages) == (0 if learns else 1)
    assert len(seen) == 2 * WINDOW
    assert all(0 < abs(values["mean_cosine"]) < 1 for values in seen)
    assert all(1 < values["effective_rank"] <= SIZE for values in seen)
