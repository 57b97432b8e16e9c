"""The small convolutional network that every recipe trains, and what a loss or a pooling adds."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WIDTHS = (32, 48, 96)
GREY = (1, 28, 28)
MAP_BLOCKS = 2  # with pooling, where a pooling of its own follows


def _blocks(channels: int, pooled: int) -> list[nn.Module]:
    """Three blocks of convolution, batch norm and ReLU; the first ``pooled`` halve height and
    width."""
    layers: list[nn.Module] = []
    for block, (width_in, width_out) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False)):
        layers += [
            nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        ]
        if block < pooled:
            layers.append(nn.MaxPool2d(2))
    return layers


class Trunk(nn.Sequential):
    """Three blocks of convolution, batch norm, ReLU and pooling, then one linear layer.

    Args:
        embedding_size: width of the output; not normalised, pml's distances and testers do that.
        image: (channels, H, W) of the input.

    Input (B, channels, H, W), output (B, embedding_size).
    """

    def __init__(self, embedding_size: int, image: Sequence[int] = GREY) -> None:
        channels, height, width = image
        features = WIDTHS[-1] * (height // 8) * (width // 8)
        blocks = _blocks(channels, pooled=len(WIDTHS))
        super().__init__(*blocks, nn.Flatten(), nn.Linear(features, embedding_size))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, embedding_size)."""
        embeddings: Tensor = super().forward(images)
        return embeddings


class MapTrunk(nn.Module):
    """The same blocks, of which the last does not pool, and a pooling of their maps.

    Args:
        embedding_size: width of what the pooling gives.
        image: (channels, H, W) of the input.
        pooling: (channels of a map, embedding_size) -> module, maps -> embeddings; has a
            ``projection`` with a ``weight`` (embedding_size, channels).

    Input (B, channels, H, W), maps (B, 96, H / 4, W / 4), output as the pooling. Convolutions and
    projection start alike for every pooling: the projection Glorot uniform.
    """

    def __init__(
        self, embedding_size: int, image: Sequence[int], pooling: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_blocks(image[0], pooled=MAP_BLOCKS))
        start = nn.init.xavier_uniform_(torch.empty(embedding_size, WIDTHS[-1]))
        self.pooling = pooling(WIDTHS[-1], embedding_size)
        with torch.no_grad():
            self.pooling.projection.weight.copy_(start)  # type: ignore[union-attr, operator]

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> what the pooling gives, (B, embedding_size) at evaluation."""
        embeddings: Tensor = self.pooling(self.blocks(images))
        return embeddings


class Retrieval(nn.Module):
    """The trunk, and the vector that a loss makes of its output to retrieve with.

    Args:
        trunk: images -> features.
        loss: has ``embed``, features -> vectors.
    """

    def __init__(self, trunk: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.loss = loss

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, D)."""
        embeddings: Tensor = self.loss.embed(self.trunk(images))  # type: ignore[operator]
        return embeddings
