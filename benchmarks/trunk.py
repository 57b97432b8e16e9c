"""The small convolutional network that every recipe trains, and what a loss adds to it."""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (32, 48, 96)
GREY = (1, 28, 28)


class Trunk(nn.Sequential):
    """Three blocks of convolution, batch norm, ReLU and pooling, then one linear layer.

    Args:
        embedding_size: width of the output; not normalised, pml's distances and testers do that.
        image: (channels, H, W) of the input.

    Input (B, channels, H, W), output (B, embedding_size).
    """

    def __init__(self, embedding_size: int, image: Sequence[int] = GREY) -> None:
        channels, height, width = image
        layers: list[nn.Module] = []
        for width_in, width_out in zip((channels, *WIDTHS), WIDTHS, strict=False):
            layers += [
                nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        features = WIDTHS[-1] * (height // 8) * (width // 8)
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, embedding_size))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, embedding_size)."""
        embeddings: Tensor = super().forward(images)
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
