"""Poolings that generalized sum pooling is compared with, of maps and of tokens."""

import torch
from torch import Tensor, nn

from pml_extras.functional.masked import mean_of_valid
from pml_extras.functional.precision import at_least_float32


class AveragePooling(nn.Module):
    """Mean over all places of maps, or over the tokens of texts, then the projection."""

    def __init__(self, in_channels: int, embedding_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channels, embedding_size, bias=False)

    def forward(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, H, W), or (B, T, C) tokens with ``valid`` (B, T) -> (B, embedding_size)."""
        embeddings: Tensor = self.projection(self.pool(maps, valid))
        return embeddings

    def pool(self, maps: Tensor, valid: Tensor | None) -> Tensor:
        """(B, C, H, W) or (B, T, C) -> (B, C)."""
        return maps.mean(dim=(2, 3)) if valid is None else mean_of_valid(maps, valid)


class MaxPooling(AveragePooling):
    """Largest value of each channel instead."""

    def pool(self, maps: Tensor, valid: Tensor | None) -> Tensor:
        """(B, C, H, W) or (B, T, C) -> (B, C)."""
        if valid is None:
            return maps.amax(dim=(2, 3))
        return maps.masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)


class GeneralizedMeanPooling(AveragePooling):
    """Generalized mean (GeM) instead, with one exponent that is learned.

    Args:
        in_channels: C.
        embedding_size: width of the output.
        exponent: where it starts; 1 is the mean, infinity the maximum.
        floor: values below count as this, for the power's gradient.
    """

    def __init__(
        self, in_channels: int, embedding_size: int, exponent: float = 3.0, floor: float = 1e-6
    ) -> None:
        super().__init__(in_channels, embedding_size)
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.floor = floor

    def pool(self, maps: Tensor, valid: Tensor | None) -> Tensor:
        """(B, C, H, W) or (B, T, C) -> (B, C)."""
        maps = at_least_float32(maps)  # in float16 the power of the floor is 0, without a logarithm
        powers = maps.clamp(min=self.floor).pow(self.exponent)
        return super().pool(powers, valid).pow(1 / self.exponent)
