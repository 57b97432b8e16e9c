"""What is trained on features: one linear layer that starts without a loss of anything."""

from torch import Tensor, nn


class LinearTrunk(nn.Linear):
    """A matrix without a bias that starts as the identity, or with orthonormal rows.

    At full width epoch 0 is therefore the floor, the features as they came. The choice comes from
    trials on clinc150 with features of the encoder, one seed, test classes: a two-layer head of 128
    from a random start ended below the floor (MAP@R .617), this one above (multi-similarity .649).
    A narrower one starts as a random projection on orthonormal rows, a wider one keeps all
    distances (orthonormal columns).

    Args:
        features: width of the input.
        embedding_size: width of the output; not normalised, pml's distances and testers do that.

    Input (B, features), output (B, embedding_size).
    """

    def __init__(self, features: int, embedding_size: int) -> None:
        super().__init__(features, embedding_size, bias=False)
        if features == embedding_size:
            nn.init.eye_(self.weight)
        else:
            nn.init.orthogonal_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, embedding_size)."""
        embeddings: Tensor = super().forward(features)
        return embeddings
