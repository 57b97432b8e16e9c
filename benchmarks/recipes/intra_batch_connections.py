"""Intra-batch connections as published for CUB, without each of its parts, and as released.

One learning rate for trunk and loss, the trunk's, and one weight decay, as published; the loss's
own parameters are a network here, not proxies.
"""

import inspect
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from benchmarks.recipes.budget import Budget
from benchmarks.recipes.recipe import Recipe, at_the_rate_of_the_trunk
from benchmarks.recipes.schedule import TEST_SELECTED, ReloadAndDrop
from benchmarks.recipes.space import RATE, Range
from pml_extras.losses import IntraBatchConnectionsLoss
from pml_extras.samplers import EpochMPerClassSampler


class WithoutMessages(IntraBatchConnectionsLoss):
    """Attention that gives zero, for good: exactly no messages.

    What remains of the network, projection, feed-forward and layer norms, sees one image at a time.
    """

    __signature__ = inspect.signature(IntraBatchConnectionsLoss)  # the records name its defaults

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for attention in self.modules():
            if isinstance(attention, nn.MultiheadAttention):
                for parameter in attention.out_proj.parameters():
                    nn.init.zeros_(parameter)
                attention.requires_grad_(False)  # the rest of it has no gradient either


def every_image_a_pass(labels: Tensor, budget: Budget, seed: int) -> EpochMPerClassSampler:
    """All images in each pass, with another number of images a class; as released for CUB."""
    return EpochMPerClassSampler(labels, batch_size=budget.batch_size, seed=seed)


IBC = Recipe(
    "ibc",
    "Intra-batch connections (IBC)",
    IntraBatchConnectionsLoss,
    has_classes=True,
    groups=at_the_rate_of_the_trunk,
    space={**RATE, "loss.temperature": Range(0.01, 1, "released code: 0 to 1, without 0")},
)
AS_RELEASED = replace(
    IBC,
    name="ibc_released",
    title=f"IBC, released recipe {TEST_SELECTED}",
    loss_args={"add_zero_attn": True},
    sampler=every_image_a_pass,
    schedule=ReloadAndDrop(select_on="test"),
)
VARIANTS = (
    replace(
        IBC,
        name="ibc_auxiliary",
        title="IBC, auxiliary classifier alone",
        loss_args={"mpn_weight": 0.0},
    ),
    replace(IBC, name="ibc_no_attention", title="IBC, no messages", loss=WithoutMessages),
    replace(
        IBC,
        name="ibc_null_neighbour",
        title="IBC, null neighbour",
        loss_args={"add_zero_attn": True},
    ),
    replace(IBC, name="ibc_2_layers", title="IBC, 2 layers", loss_args={"num_layers": 2}),
    replace(
        IBC,
        name="ibc_network_only",
        title="IBC, no auxiliary classifier",
        loss_args={"aux_weight": 0.0},
    ),
    AS_RELEASED,
)
