"""What an ensemble of losses may be constructed from, in which forms, and what is refused."""

import re

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torch import nn

from pml_extras.losses import WeightedLossEnsemble

SIZE = 6


def two_losses():
    return {"b": ContrastiveLoss(), "a": TripletMarginLoss()}  # not in the order of the alphabet


def two_heads():
    torch.manual_seed(6)
    return {name: nn.Linear(SIZE, 4) for name in "ba"}


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (dict, ["b", "a"]),
        (nn.ModuleDict, ["b", "a"]),
        (lambda losses: list(losses.items()), ["b", "a"]),
        (lambda losses: list(losses.values()), ["loss_0", "loss_1"]),
        (lambda losses: nn.ModuleList(losses.values()), ["loss_0", "loss_1"]),
    ],
    ids=["mapping", "ModuleDict", "pairs", "list", "ModuleList"],
)
def test_losses_keep_their_order_and_their_names_in_every_form(form, names):
    given = two_losses()
    ensemble = WeightedLossEnsemble(form(given))
    assert list(ensemble.losses) == list(ensemble.loss_weights()) == names
    assert list(ensemble.losses.values()) == list(given.values())


@pytest.mark.parametrize(
    "form",
    [
        dict,
        nn.ModuleDict,
        lambda heads: dict(sorted(heads.items())),
        lambda heads: list(heads.values()),
        lambda heads: nn.ModuleList(heads.values()),
    ],
    ids=["mapping", "ModuleDict", "other_order", "list", "ModuleList"],
)
def test_heads_go_to_their_losses_in_every_form(form):
    heads = two_heads()
    ensemble = WeightedLossEnsemble(two_losses(), heads=form(heads))
    assert list(ensemble.heads.items()) == list(heads.items())  # the order of the losses


@pytest.mark.parametrize(
    "form",
    [
        lambda miner: {"a": miner},
        lambda miner: {"a": miner, "b": None},
        lambda miner: nn.ModuleDict({"a": miner}),
        lambda miner: [None, miner],
    ],
    ids=["mapping", "mapping_with_none", "ModuleDict", "list"],
)
def test_miners_go_to_their_losses_in_every_form(form):
    miner = BatchHardMiner()
    ensemble = WeightedLossEnsemble(two_losses(), miners=form(miner))
    assert dict(ensemble.miners.items()) == {"a": miner}


def test_sizes_of_heads_may_be_integers_of_numpy():
    ensemble = WeightedLossEnsemble(two_losses(), heads=list(np.array([2, 4])))
    assert ensemble.sizes == [2, 4]
    assert all(type(size) is int for size in ensemble.sizes)


def test_a_cap_of_one_and_momenta_near_the_ends_are_in_range():
    for scale in (1e-9, 1 - 1e-9):
        ensemble = WeightedLossEnsemble(two_losses(), scale=scale, max_scale=1)
        assert (ensemble.scale, ensemble.max_scale) == (scale, 1)


MISUSE = [
    ({"losses": 5}, "losses: expected a mapping or a list; got int"),
    (
        {"losses": [("a", ContrastiveLoss(), 1.0)]},
        "losses['loss_0']: expected a loss, a torch module; got tuple",
    ),
    (
        {"losses": {1: ContrastiveLoss()}},
        "losses: expected names that are identifiers and no attributes of a module; got 1",
    ),
    ({"scale": [0.5]}, 'scale: expected "cumulative", a momentum in (0, 1), or None; got [0.5]'),
    ({"scale": True}, 'scale: expected "cumulative", a momentum in (0, 1), or None; got True'),
    ({"scale": 0.0}, 'scale: expected "cumulative", a momentum in (0, 1), or None; got 0.0'),
    ({"max_scale": float("nan")}, "max_scale: expected a finite number; got nan"),
    ({"max_scale": float("inf")}, "max_scale: expected a finite number; got inf"),
    ({"max_scale": 0.99}, "max_scale: expected None or at least 1; got 0.99"),
    ({"miners": BatchHardMiner()}, "miners: expected a mapping by name or a list; got BatchHard"),
    ({"miners": [BatchHardMiner()]}, "miners: expected 2, one a loss or None; got 1"),
    ({"miners": [None] * 3}, "miners: expected 2, one a loss or None; got 3"),
    ({"miners": {"c": BatchHardMiner()}}, "miners: expected names among ['b', 'a']; got 'c'"),
    ({"miners": {"a": BatchHardMiner}}, "miners['a']: expected a miner or None; got type"),
    ({"heads": 4}, "heads: expected a mapping by name, or a list; got int"),
    ({"heads": [nn.Identity()]}, "heads: expected 2 modules, one a loss; got 1"),
    ({"heads": [nn.Identity(), 4]}, "heads['a']: expected a torch module; got int"),
    (
        {"heads": {**two_heads(), "c": nn.Identity()}},
        "heads: expected the names of the losses, ['b', 'a']; got ['b', 'a', 'c']",
    ),
    ({"heads": {"b": nn.Identity(), "a": 4}}, "heads['a']: expected a torch module; got int"),
    ({"heads": [4]}, "heads: expected 2 sizes, one a loss; got 1"),
    ({"heads": [4, 1, 1]}, "heads: expected 2 sizes, one a loss; got 3"),
    ({"heads": [4, 0]}, "heads: expected an integer >= 1; got 0"),
    ({"heads": [4, 1.5]}, "heads: expected an integer >= 1; got 1.5"),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=range(len(MISUSE)))
def test_misuse_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        WeightedLossEnsemble(**{"losses": two_losses(), **arguments})
