"""What is measured of cost: computations that stand beside each other, by name.

Losses, and three of pml under each strategy of weighting beside their bare sum:
:mod:`benchmarks.cost_losses`. Attention: a message passing network of 512 dimensions and 8 heads,
as it is computed, with its weights held, and with dropout of its weights. Pooling: generalized sum
pooling of two shapes of feature maps, its weights alone, the whole layer, and a training step of a
network that has it. Large batches: a network and a loss in one pass, and in chunks.
"""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks import large_batch_cost, pooling_cost
from benchmarks.cost_losses import OF_EMBEDDINGS, Pass, Setting, Side, Subject
from pml_extras.nn import MessagePassingNetwork

ATTENTION, NODE_SIZE, HEADS, ATTENTION_BATCHES = "attention", 512, 8, (1024, 2048, 4096)
POOLINGS = {"pooling_49": (112, 49, 512, 128), "pooling_196": (32, 196, 512, 64)}  # B, n, d, m
POOLING_STEP = "pooling_step"
LARGE_BATCH = "large_batch"


def of_network(*, explicit: bool, dropout: float, device: torch.device) -> Pass:
    """``explicit`` holds the (heads, rows, rows) weights; ``dropout`` is of them alone."""
    network = MessagePassingNetwork(NODE_SIZE, HEADS, dropout=0.0, attention_dropout=dropout)
    network.to(device).train()

    def one_pass(rows: int) -> None:
        x = torch.randn(rows, NODE_SIZE, device=device, requires_grad=True)
        refined = network.forward_with_attention(x)[0] if explicit else network(x)
        refined.square().sum().backward()

    return one_pass


def _on(make: Callable[[torch.device], Pass]) -> Callable[[Setting], Pass]:
    """What a pass is made of depends on the device alone."""
    return lambda setting: make(setting.device)


def _network(title: str, *, explicit: bool = False, dropout: float = 0.0) -> Side:
    return Side(title, lambda s: of_network(explicit=explicit, dropout=dropout, device=s.device))


def _pooling(images: int, locations: int, size: int, prototypes: int) -> Subject:
    closed, unrolled = pooling_cost.closed_form, pooling_cost.unrolled

    def weights(how: pooling_cost.Weights) -> Callable[[Setting], Pass]:
        return _on(partial(pooling_cost.of_weights, how, images, locations, prototypes))

    def layer(how: pooling_cost.Weights | None) -> Callable[[Setting], Pass]:
        return _on(partial(pooling_cost.of_layer, how, locations, size, prototypes))

    return Subject(
        {
            "weights": Side("weights from given costs, closed form", weights(closed)),
            "weights_unrolled": Side("weights, autograd through 100 steps", weights(unrolled)),
            "layer": Side("`GeneralizedSumPooling`", layer(None)),
            "layer_unrolled": Side("its layer, autograd through 100 steps", layer(unrolled)),
            "average": Side(
                "average pooling and linear", _on(partial(pooling_cost.of_average, locations, size))
            ),
        },
        (images,),
        growth=2,
        about={"locations": locations, "dim": size, "prototypes": prototypes},
        warm_up=2,
    )


def _training_step() -> Subject:
    def step(pooled: bool) -> Callable[[Setting], Pass]:
        return lambda s: pooling_cost.of_training_step(pooled=pooled, device=s.device)

    sides = {
        "average": Side("resnet50, average pooling and linear", step(pooled=False)),
        "layer": Side("resnet50, `GeneralizedSumPooling`", step(pooled=True)),
    }
    return Subject(sides, (8,), growth=2, about={"pixels": pooling_cost.PIXELS}, warm_up=2)


def _large_batch() -> Subject:
    sides = {
        "one_pass": Side("in one pass", _on(partial(large_batch_cost.of_network, 1))),
        "chunks_8": Side(
            "`cached_embeddings`, 8 chunks", _on(partial(large_batch_cost.of_network, 8))
        ),
        "chunks_32": Side("the same, 32 chunks", _on(partial(large_batch_cost.of_network, 32))),
    }
    return Subject(sides, (512, 1024, 2048), growth=2, about={"dim": large_batch_cost.DIM})


SUBJECTS = {
    **OF_EMBEDDINGS,
    ATTENTION: Subject(
        {
            "fused": _network("fused"),
            "explicit": _network("explicit, weights held", explicit=True),
            "dropout": _network("fused, attention dropout 0.1", dropout=0.1),
        },
        ATTENTION_BATCHES,
        growth=4,
        about={"dim": NODE_SIZE, "heads": HEADS},
    ),
    **{name: _pooling(*shape) for name, shape in POOLINGS.items()},
    POOLING_STEP: _training_step(),
    LARGE_BATCH: _large_batch(),
}
