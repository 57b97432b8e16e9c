"""Each disease is put into words once; an ordinary training is left in peace."""

import logging
import warnings

import pytest
import torch
from pytorch_metric_learning import losses, trainers
from torch import nn

from pml_extras.training import Diagnostics, GradCache
from tests.training.diseases import (
    CLASSES,
    DISEASES,
    HEALTHY,
    SIZE,
    WINDOW,
    alone,
    batch,
    classes_of,
    network,
    proxies,
)


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


@pytest.mark.parametrize("name", DISEASES)
def test_each_disease_is_named_exactly_once_though_it_stays(name):
    make, words = DISEASES[name]
    loss, arguments = make()
    (message,) = warned(loss, **arguments)
    assert words in message
    assert "{" not in message


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
