"""One pass of a network and a loss over a whole batch, and the same by chunks."""

from collections.abc import Callable

import torch

from benchmarks.trunk import GREY, Trunk
from pml_extras.losses import LiftedStructureLoss
from pml_extras.training import cached_embeddings

DIM, PER_CLASS = 128, 4

Pass = Callable[[int], None]


def of_network(chunks: int, device: torch.device) -> Pass:
    """Forward and backward of the recipes' network under lifted structure loss; 1 is pml's way."""
    trunk, loss = Trunk(DIM).to(device).train(), LiftedStructureLoss()

    def one_pass(rows: int) -> None:
        trunk.zero_grad()
        images = torch.rand(rows, *GREY, device=device)
        labels = torch.arange(rows, device=device) // PER_CLASS
        if chunks == 1:
            embeddings = trunk(images)
        else:
            embeddings = cached_embeddings(trunk, images.split(-(-rows // chunks)))
        loss(embeddings, labels).backward()

    return one_pass
