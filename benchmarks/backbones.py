"""Networks of the papers, by torchvision or timm, with weights from a local file."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from pml_extras._checks import refuse

Pooling = Callable[[int, int], nn.Module]
TIMM = "timm:"
TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "googlenet": lambda: models.googlenet(
        aux_logits=False, transform_input=True, init_weights=False
    ),
}
"""googlenet stands in for BN-Inception, which neither library has: Inception blocks with batch
norm, of another layout."""
CLASSIFIERS = ("fc.", "aux1.", "aux2.", "head.", "classifier.")


@dataclass(frozen=True)
class Backbone:
    """What is built.

    Args:
        name: one of ``TORCHVISION``, or "timm:" and a name of timm.
        frozen_batch_norm: keep its running statistics as they were loaded, in training too; scales
            and shifts are trained, as in the two protocols.
        weights: a state dict that ``torch.save`` wrote, with or without a classifier, which is not
            used; None is a random start.

    Raises:
        ValueError: another name.
    """

    name: str = "resnet50"
    frozen_batch_norm: bool = True
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.name not in TORCHVISION and not self.name.startswith(TIMM):
            raise refuse("backbone", f"one of {', '.join(TORCHVISION)}, or {TIMM}NAME", self.name)

    def settings(self) -> dict[str, Any]:
        """As plain JSON; of the weights a digest of the file, wherever it lies.

        Raises:
            ValueError: there is no such file.
        """
        return {
            "name": self.name,
            "frozen_batch_norm": self.frozen_batch_norm,
            "weights": None if self.weights is None else _digest(self.weights.absolute()),
        }


class ImageTrunk(nn.Module):
    """A backbone, and a pooling with the embedding layer.

    Args:
        backbone: what is built; its random start, if it has one, draws from torch's generator.
        embedding_size: D, not normalised: pml's distances and testers do that.
        pooling: (channels, D) -> module, maps -> embeddings; None is the average over all places
            and a linear layer, which is the head of the papers.

    Input (B, 3, S, S), output (B, D). ``features`` alone gives maps (B, C, s, s); timm's networks
    pool by themselves and take no other pooling.

    Raises:
        ValueError: timm is not installed or does not know the name, the file of weights is missing
            or of another network, or timm's network shall have a pooling.
    """

    def __init__(
        self, backbone: Backbone, embedding_size: int, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        of_timm = backbone.name.startswith(TIMM)
        if of_timm and pooling is not None:
            raise refuse("pooling", f"None for {backbone.name}, which pools by itself", pooling,
                         f"Take one of {', '.join(TORCHVISION)}.")  # fmt: skip
        self.features, channels = (
            _of_timm(backbone.name) if of_timm else _maps_of(TORCHVISION[backbone.name]())
        )
        if backbone.weights is not None:
            _load(self.features, backbone.weights)
        self._frozen = [
            module
            for module in self.features.modules()
            if backbone.frozen_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        if of_timm:
            self.pooling: nn.Module = nn.Linear(channels, embedding_size)
        elif pooling is None:
            self.pooling = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, embedding_size)
            )
        else:
            self.pooling = pooling(channels, embedding_size)

    def train(self, mode: bool = True) -> "ImageTrunk":
        """As in torch, but for frozen batch norms."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        embeddings: Tensor = self.pooling(self.features(images))
        return embeddings


class _Maps(nn.Module):
    """(B, C * s * s) -> (B, C, s, s): torchvision flattens what its pooling gives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, flat: Tensor) -> Tensor:
        side = math.isqrt(flat.shape[1] // self.channels)
        return flat.view(-1, self.channels, side, side)


def _maps_of(model: Any) -> tuple[nn.Module, int]:
    """torchvision's ResNet or GoogLeNet, which ends in ``avgpool``, perhaps ``dropout`` and
    ``fc``, up to its maps; and their channels."""
    channels = int(model.fc.in_features)
    model.avgpool, model.fc = nn.Identity(), _Maps(channels)
    if hasattr(model, "dropout"):
        model.dropout = nn.Identity()
    return model, channels


def _of_timm(name: str) -> tuple[nn.Module, int]:
    """Without its classifier; and the width of what it gives."""
    try:
        import timm
    except ImportError as error:
        raise refuse("backbone", "an installed timm", "none", "Run `pip install timm`.") from error
    try:
        model = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=0)
    except RuntimeError as error:  # timm's for a name that it does not know
        raise refuse("backbone", "a name of timm.list_models()", name, str(error)) from error
    width: Any = model.num_features
    return model, int(width)


def _load(model: nn.Module, path: Path) -> None:
    """All weights of the network, which has no classifier any more."""
    way_out = (
        "Pass --weights with a state dict of this network as torch.save writes it, or leave it out "
        "for a random start."
    )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none raises
        came = repr(error)[:200]
        raise refuse("--weights", f"a file of weights at {path}", came, way_out) from error
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        came = f"{type(state).__name__} of something else in {path}"
        raise refuse("--weights", "a mapping from names to tensors", came, way_out)
    try:
        missing, others = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        came = str(error)[:300]
        raise refuse("--weights", "the shapes of this network", came, way_out) from error
    others = [name for name in others if not name.startswith(CLASSIFIERS)]
    if missing or others:
        came = f"{len(missing)} missing {missing[:3]} and {len(others)} others {others[:3]}"
        raise refuse("--weights", "the names of this network", came, way_out)


@cache
def _digest(path: Path) -> str:
    """Sixteen hexadecimal digits of its content."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        way_out = "Check --weights, or leave it out for a random start."
        raise refuse("--weights", f"a file at {path}", repr(error), way_out) from error
