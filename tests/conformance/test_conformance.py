"""The promises, over everything public in pml_extras; nothing public may be missing."""

import importlib
import pkgutil

import pytest
import torch

import pml_extras
from pml_extras.testing import Status, promises
from tests.conformance.catalogue import LOSSES, NOT_LOSSES
from tests.conformance.entry import EMBEDDING_SIZE

KINDS = (
    "losses",
    "miners",
    "reducers",
    "pooling",
    "samplers",
    "weighting",
    "wrappers",
    "nn",
    "inference",
    "training",
    "evaluation",
)


def public_names():
    present = {module.name for module in pkgutil.iter_modules(pml_extras.__path__)}
    modules = [importlib.import_module(f"pml_extras.{kind}") for kind in KINDS if kind in present]
    return {f"{m.__name__.rpartition('.')[2]}.{name}" for m in modules for name in m.__all__}


@pytest.mark.parametrize("name", LOSSES)
def test_it_keeps_its_promises(name):
    LOSSES[name].report().raise_if_broken()


@pytest.mark.parametrize("name", LOSSES)
def test_it_keeps_them_with_other_batches_and_parameters(name):
    chosen = promises(without="memory")  # which depends on no number in the batch
    LOSSES[name].report(seed=1, promises=chosen).raise_if_broken()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_it_gives_two_processes_the_gradients_of_one(name):
    LOSSES[name].report(promises="two_processes").raise_if_broken()


@pytest.mark.parametrize("name", LOSSES)
def test_a_plain_batch_is_accepted_and_every_hyper_parameter_is_tried(name):
    report = LOSSES[name].report(promises=["plain", "out_of_range"])
    assert report.status("plain") is Status.KEPT
    assert report.status("out_of_range") is Status.KEPT


def test_everything_public_is_in_the_catalogue():
    made = {type(entry.make()).__name__ for entry in LOSSES.values()}
    catalogued = {f"losses.{name}" for name in made} | set(NOT_LOSSES)
    assert catalogued == public_names()


@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_are_no_tensor_are_refused_by_name(name):
    loss = LOSSES[name].make()
    columns = LOSSES[name].check.get("columns", EMBEDDING_SIZE)
    with pytest.raises(ValueError, match=r"^labels: expected .*; got list"):
        loss(torch.randn(4, columns), [0, 0, 1, 1])
