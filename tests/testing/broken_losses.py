"""Losses that break one promise each, and some that break none; a module's, to be pickled."""

import os
from typing import Any

import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss, SupConLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn


def direction(x: Tensor | None) -> Tensor | None:
    """Rows of a length of almost 1, in float32 at least; rows near 0 have small gradients."""
    if x is None:
        return None
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-3).sqrt()


class Honest(ContrastiveLoss):
    """pml's contrastive loss on directions; subclasses spoil what goes in or what comes out."""

    def __init__(self, **kwargs: Any) -> None:
        distance = DotProductSimilarity(normalize_embeddings=False)
        given = {"distance": distance, "reducer": MeanReducer(), **kwargs}
        super().__init__(pos_margin=1, neg_margin=0, **given)

    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        z, ref_z = direction(x), direction(ref_emb)
        value = super().forward(z, labels, indices_tuple, ref_z, ref_labels)
        return self.spoilt(value, x, labels)

    def spoilt(self, value: Tensor, x: Tensor, labels: Tensor) -> Any:
        return value


class HonestAnchors(SupConLoss):
    """With one sub-loss, of anchors."""

    def __init__(self) -> None:
        super().__init__(distance=DotProductSimilarity(normalize_embeddings=False))

    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        z, ref_z = direction(x), direction(ref_emb)
        return super().forward(z, labels, indices_tuple, ref_z, ref_labels)


class HonestProxies(nn.Module):
    """Cross-entropy against one proxy a class, not built on pml."""

    def __init__(self, num_classes: int = 5, embedding_size: int = 8) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2; got {num_classes}")
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_size))

    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if indices_tuple is not None or ref_emb is not None:
            raise ValueError("indices_tuple, ref_emb: expected None")
        logits = x @ self.held_in(x.dtype).T  # (B, C)
        target = self.targets(labels.long())
        total = nn.functional.cross_entropy(logits, target, reduction="sum")
        return total / max(1, len(x))

    def held_in(self, dtype: torch.dtype) -> Tensor:
        return self.proxies.to(dtype)

    def targets(self, labels: Tensor) -> Tensor:
        num_classes = len(self.proxies)
        if ((labels < 0) | (labels >= num_classes)).any():
            raise ValueError(f"labels: expected values in [0, {num_classes}); got {labels}")
        return labels


class CastsItsProxies(HonestProxies):
    def held_in(self, dtype):
        self.proxies.data = self.proxies.data.to(dtype)
        return self.proxies


class AcceptsAnyLabel(HonestProxies):
    def targets(self, labels):
        return labels.clamp(0, len(self.proxies) - 1)


class AcceptsAnyConstruction(HonestProxies):
    def __init__(self, num_classes: int = 5, embedding_size: int = 8) -> None:
        super().__init__(max(2, num_classes), embedding_size)


class RefusesWithoutAName(HonestProxies):
    def __init__(self, num_classes: int = 5, embedding_size: int = 8) -> None:
        if num_classes < 2:
            raise ValueError("too few")
        super().__init__(num_classes, embedding_size)


class AssertsItsArguments(HonestProxies):
    def __init__(self, num_classes: int = 5, embedding_size: int = 8) -> None:
        if num_classes < 2:
            raise AssertionError("num_classes")
        super().__init__(num_classes, embedding_size)


class RefusesEverything(Honest):
    def spoilt(self, value, x, labels):
        raise ValueError("labels: expected something else")


class ReturnsAVector(Honest):
    def spoilt(self, value, x, labels):
        return value.expand(2)


class OverflowsInFloat32(Honest):
    def spoilt(self, value, x, labels):
        return value * (torch.inf if x.dtype is torch.float32 and len(x) == 9 else 1)


class FavoursTheFirstRow(Honest):
    def spoilt(self, value, x, labels):
        return value * (1 + x[0].sigmoid().sum()) if len(x) > 1 else value


class ReadsTheNames(Honest):
    def spoilt(self, value, x, labels):
        return value * (1 + labels.sum() / 100)


class CutsTheGraph(Honest):
    def spoilt(self, value, x, labels):
        return value if len(x) > 1 else torch.tensor(0.0)


class PullsALonelyRow(Honest):
    def spoilt(self, value, x, labels):
        return value if len(x) > 1 else (x - x.detach()).sum()


class DividesByTheNorm(Honest):
    def spoilt(self, value, x, labels):
        return value + 0 * (x / x.norm(dim=1, keepdim=True)).sum()


class TakesAnglesByArcCosine(Honest):
    def spoilt(self, value, x, labels):
        if x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled("cpu"):
            return value
        unit = nn.functional.normalize(x)
        others = ~torch.eye(len(x), dtype=torch.bool)
        return value * (1 + (unit @ unit.T)[others].acos().sum())


class CrashesOnOneClass(Honest):
    def spoilt(self, value, x, labels):
        if len(x) > 1 and len(labels.unique()) == 1:
            raise IndexError("no negatives")
        return value


class IgnoresReferences(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        return super().forward(x, labels, indices_tuple)


class IgnoresLabelsOfReferences(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if ref_emb is not None:
            ref_labels = torch.arange(len(ref_emb)) % 2
        return super().forward(x, labels, indices_tuple, ref_emb, ref_labels)


class CrashesOnReferences(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if ref_emb is not None:
            raise NotImplementedError
        return super().forward(x, labels, indices_tuple)


class IgnoresTuples(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        return super().forward(x, labels, None, ref_emb, ref_labels)


class CrashesOnTriplets(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if indices_tuple is not None and len(indices_tuple) == 3:
            raise TypeError("not enough values to unpack")
        return super().forward(x, labels, indices_tuple, ref_emb, ref_labels)


class WantsInt64(Honest):
    def spoilt(self, value, x, labels):
        if labels.dtype is not torch.int64:
            raise RuntimeError("expected Long")
        return value


class LacksBfloat16(Honest):
    def spoilt(self, value, x, labels):
        if x.dtype is torch.bfloat16:
            raise NotImplementedError("not implemented for 'BFloat16'")
        return value


class OverflowsInFloat16(Honest):
    def spoilt(self, value, x, labels):
        return value + 0 * (x.sum() * 60_000).square()


class DetachesATerm(Honest):
    def spoilt(self, value, x, labels):
        return value * value.detach()


class DrawsFromTheSystem(Honest):
    def spoilt(self, value, x, labels):
        return value * (1 + os.urandom(1)[0])


class CountsCalls(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def spoilt(self, value, x, labels):
        self.calls += 1
        return value * (1 + self.calls)


class DeclaresThatItCountsCalls(CountsCalls):
    is_stateful = True


class ScalesItsInput(Honest):
    def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if not x.is_leaf:  # of which torch would complain
            x.mul_(1 + 1e-9)
        return super().forward(x, labels, indices_tuple, ref_emb, ref_labels)


class RenamesItsLabels(Honest):
    def spoilt(self, value, x, labels):
        labels += 1
        return value


class DrawsAndForgets(Honest):
    def spoilt(self, value, x, labels):
        torch.rand(1)
        return value


class DeclaresThatItDraws(Honest):
    is_stochastic = True

    def spoilt(self, value, x, labels):
        return value * (1 + torch.rand(()))


class SwitchesGradientsOff(Honest):
    def spoilt(self, value, x, labels):
        torch.set_grad_enabled(False)
        return value


class HoldsALambda(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda value: value


class KeepsTheLastValue(Honest):
    def spoilt(self, value, x, labels):
        self.last = value
        return value


class ForgetsItsScale(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1 + torch.rand(()).item()

    def spoilt(self, value, x, labels):
        return value * self.scale


class RecordsAnInverse(Honest):
    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = 1 / temperature
        self.add_to_recordable_attributes(name="temperature")


class AnnouncesAnotherKey(HonestAnchors):
    def _sub_loss_names(self):
        return ["announced"]
