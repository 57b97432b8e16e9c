"""The small convolutional network that every recipe trains."""

from torch import Tensor, nn

WIDTHS = (32, 48, 96)


class Trunk(nn.Sequential):
    """Three blocks of convolution, batch norm, ReLU and pooling, then one linear layer.

    Args:
        embedding_size: width of the output; not normalised, pml's distances and testers do that.

    Input (B, 1, 28, 28), output (B, embedding_size).
    """

    def __init__(self, embedding_size: int) -> None:
        layers: list[nn.Module] = []
        for width_in, width_out in zip((1, *WIDTHS), WIDTHS, strict=False):
            layers += [
                nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * 3 * 3, embedding_size))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, embedding_size)."""
        embeddings: Tensor = super().forward(images)
        return embeddings
