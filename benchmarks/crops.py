"""What becomes of a picture before the network sees it: the crops of each paper."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

Transform = Callable[[Image.Image], Tensor]
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Colours:
    """(value - mean) / std of values from 0 to ``largest``, RGB or BGR; the means in that order."""

    mean: Three = (0.485, 0.456, 0.406)
    std: Three = (0.229, 0.224, 0.225)
    largest: int = 1
    order: Literal["RGB", "BGR"] = "RGB"

    def of(self, pixels: Tensor) -> Tensor:
        """(3, H, W) bytes, RGB, to float32."""
        ordered = pixels if self.order == "RGB" else pixels.flip(0)
        scale = self.largest / 255
        mean, std = (torch.tensor(three)[:, None, None] for three in (self.mean, self.std))
        return (ordered.float() * scale - mean) / std


IMAGENET = Colours()
CAFFE = Colours((104.0, 117.0, 128.0), (1.0, 1.0, 1.0), largest=255, order="BGR")


@dataclass(frozen=True)
class Crops:
    """Of training pictures one at random and mirrored half of the time, of others the central one.

    Args:
        name: of the paper or protocol.
        size: of the square that the network sees, in pixels.
        area: of a random crop, as part of the picture, uniform; None: a square of ``size``
            anywhere.
        aspect: width by height of a random crop, log-uniform.
        before: shorter side in pixels before a random crop; None: as the picture is.
        warped: whether pictures become squares of 256 first, whatever their aspect, training and
            test alike.
        colours: see :class:`Colours`.
        erasing: random erasing of the paper of intra-batch connections.
    """

    name: str
    size: int
    area: tuple[float, float] | None = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    before: int | None = None
    warped: bool = False
    colours: Colours = IMAGENET
    erasing: bool = False

    def settings(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def train(self) -> Transform:
        """RGB picture to (3, size, size) float32; draws from torch's generator."""
        steps: list[Any] = []
        if self.warped:
            steps.append(v2.Resize((SHORTER, SHORTER)))
        if self.before is not None:
            steps.append(v2.Resize(self.before))
        steps += [
            v2.RandomCrop(self.size)
            if self.area is None
            else v2.RandomResizedCrop(self.size, scale=self.area, ratio=self.aspect),
            v2.RandomHorizontalFlip(),
            *self._tensor(),
        ]
        if self.erasing:
            steps.append(
                v2.RandomErasing(
                    p=0.5, scale=(0.02, 0.4), ratio=(0.3, 3.3), value=[0.4914, 0.4822, 0.4465]
                )
            )
        return _composed(steps)

    def test(self) -> Transform:
        """RGB picture to (3, size, size) float32: the centre of one with a shorter side of 256."""
        size = (SHORTER, SHORTER) if self.warped else SHORTER
        return _composed([v2.Resize(size), v2.CenterCrop(self.size), *self._tensor()])

    def _tensor(self) -> list[Any]:
        return [v2.PILToTensor(), self.colours.of]


def _composed(steps: list[Any]) -> Transform:
    transform: Transform = v2.Compose(steps)
    return transform


SHORTER = 256
POTENTIAL_FIELD = Crops("potential field", 224)
"""224 and the test crop are the paper's; the training crop is ours: it does not say."""
SUM_POOLING = Crops(
    "generalized sum pooling",
    227,
    area=(0.16, 1.0),
    colours=Colours((255 * 0.406, 255 * 0.456, 255 * 0.485), (1.0, 1.0, 1.0), 255, "BGR"),
)
"""As released: means of ImageNet, no division."""
INTRA_BATCH = Crops(
    "intra-batch connections", 227, colours=Colours(std=(0.299, 0.224, 0.225)), erasing=True
)
"""0.299 as released; ImageNet has 0.229."""
ENSEMBLE = Crops("ensemble of losses", 227, colours=CAFFE)
LIFTED = Crops("lifted structure", 227, area=None, warped=True, colours=CAFFE)
"""One mean a channel, where the paper subtracts a mean image. Of Stanford Online Products the
authors cut white borders off and pad to squares instead of warping, which is left out."""
REALITY_CHECK = Crops("reality check", 227, area=(0.16, 1.0), before=256)
REVISITING = Crops("revisiting", 224)
CROPS = {
    crops.name: crops
    for crops in (
        POTENTIAL_FIELD,
        SUM_POOLING,
        INTRA_BATCH,
        ENSEMBLE,
        LIFTED,
        REALITY_CHECK,
        REVISITING,
    )
}
"""Each paper's, and of two protocols: Musgrave et al., "A metric learning reality check", ECCV
2020, and Roth et al., "Revisiting training strategies and generalization performance in deep metric
learning", ICML 2020."""
