"""Losses that break one promise each: of overflow, memory, parts, graphs, processes."""

import torch
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch import distributed, nn

from tests.testing.broken_losses import Honest, direction


class DropsWhatIsNoNumber(Honest):
    def __init__(self) -> None:
        super().__init__(reducer=AvgNonZeroReducer())


class CountsNoNumber(Honest):
    def spoilt(self, value, x, labels):
        if x.isnan().any():
            raise IndexError("index -9223372036854775808 is out of bounds")
        return value


class ListsTriplets(Honest):
    def spoilt(self, value, x, labels):
        cosines = x @ x.T
        return value + 0 * (cosines[:, :, None] - cosines[:, None, :]).sum()  # (B, B, B)


class SubtractsEachRowFromEach(Honest):
    def spoilt(self, value, x, labels):
        return value + 0 * (x[:, None] - x[None, :]).sum()  # (B, B, D)


class SubtractsInHalf(Honest):
    def spoilt(self, value, x, labels):
        if x.dtype is torch.float16:
            return value + 0 * (x[:, None] - x[None, :]).sum()
        return value


class DoublesForALeaf(Honest):
    """Cached embeddings are leaves of the graph; those of a network are not."""

    def spoilt(self, value, x, labels):
        return value * 2 if x.is_leaf else value


class CountsFromTheTile(Honest):
    def __init__(self, tile: int | None = None) -> None:
        super().__init__()
        self.tile = tile

    def spoilt(self, value, x, labels):
        if self.tile is None:
            return value
        tiles = -(-len(x) // self.tile)
        return value * len(x) / max(1, tiles * self.tile)


class DetachesInTiles(Honest):
    def __init__(self, tile: int | None = None) -> None:
        super().__init__()
        self.tile = tile

    def spoilt(self, value, x, labels):
        return value if self.tile is None else value.detach() + 0 * value


class OverflowsWhereARowIsZero(Honest):
    def spoilt(self, value, x, labels):
        return value + nn.functional.normalize(x, eps=1e-5).sum() if len(x) > 1 else value


class SkipsWithoutPairs(Honest):
    """Keeps what pml's bases do not: 0 next to infinity."""

    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if len(x) < 2 and ref_emb is None:
            return x[:0].sum()
        return super().forward(x, labels, indices_tuple, ref_emb, ref_labels)


class WantsEqualClasses(SkipsWithoutPairs):
    def spoilt(self, value, x, labels):
        if len(labels.unique(return_counts=True)[1].unique()) > 1:
            raise ValueError("labels: expected as many rows of each class")
        return value


class ScalesByItsRank(SkipsWithoutPairs):
    def spoilt(self, value, x, labels):
        return value * (1 + distributed.get_rank()) if distributed.is_initialized() else value


class PullsByItsRank(SkipsWithoutPairs):
    """The value of one process, and another gradient."""

    def spoilt(self, value, x, labels):
        if not distributed.is_initialized():
            return value
        return value + distributed.get_rank() * (value - value.detach())


class Learns(SkipsWithoutPairs):
    """Honest, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def spoilt(self, value, x, labels):
        return value * self.scale


class LearnsByItsRank(Learns):
    """The value and the gradients of rows of one process, and another gradient of its own."""

    def spoilt(self, value, x, labels):
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return value * self.scale + rank * (self.scale - self.scale.detach())


class RefusesInProcesses(SkipsWithoutPairs):
    def spoilt(self, value, x, labels):
        if distributed.is_initialized():
            raise ValueError("one process alone")
        return value


class CompilesInOneGraph(nn.Module):
    """Classes far from each other within themselves."""

    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if indices_tuple is not None or ref_emb is not None:
            raise ValueError("indices_tuple, ref_emb: expected None")
        z = direction(x)
        others = ~torch.eye(len(x), dtype=torch.bool)
        same = (labels[:, None] == labels[None, :]) & others
        return ((z @ z.T) * same).square().sum() / max(1, len(x))


class ReadsANumber(CompilesInOneGraph):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        value = super().forward(x, labels, indices_tuple, ref_emb, ref_labels)
        return value if value.item() >= 0 else -value


class DetachesInAGraph(CompilesInOneGraph):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        value = super().forward(x, labels, indices_tuple, ref_emb, ref_labels)
        if torch.compiler.is_compiling():
            return value.detach() + x.sum() - x.sum().detach()
        return value
