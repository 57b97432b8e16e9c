"""A small network that squeezes the heads of an ensemble into one short vector."""

import torch
from torch import Tensor, nn

from pml_extras._checks import check_count, check_rows, refuse
from pml_extras.functional.precision import at_least_float32, call_in, no_autocast


class CompressionHead(nn.Module):
    r"""Two linear layers with a hyperbolic tangent between them.

    .. math::
        z = W_2 \tanh(W_1 x + b_1) + b_2

    Trained with :class:`pml_extras.losses.DistancePreservingLoss` to keep the distances of its
    input, it takes the place of that input at test time, compared by Euclidean distance.

    Args:
        input_size: X, columns of the input.
        output_size: Z, columns of the output; None is half of ``input_size``, rounded up. The
            released code has 2 d outputs for 4 heads of d columns each (256 to 128).
        hidden_size: rows of :math:`W_1`; None is ``output_size``, as in the released code.

    The input's norm matters: the paper gives rows of norm 1, on which the tangent is close to
    linear at the start. Half inputs are computed in float32, float64 inputs in float64, and
    parameters keep their dtype. Initialisation: that of torch's linear layers.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, the compression network of the authors' released code.

    Raises:
        ValueError: an argument out of its range, or rows of another size.

    >>> CompressionHead(256)(torch.randn(6, 256)).shape
    torch.Size([6, 128])
    """

    def __init__(
        self, input_size: int, output_size: int | None = None, hidden_size: int | None = None
    ) -> None:
        super().__init__()
        check_count(1, input_size=input_size)
        if output_size is None:
            output_size = (input_size + 1) // 2
        check_count(1, output_size=output_size)
        if hidden_size is None:
            hidden_size = output_size
        check_count(1, hidden_size=hidden_size)
        self.input_size = input_size
        self.output_size = output_size
        self.hidden_size = hidden_size
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, output_size)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, X) to (B, Z)."""
        check_rows(embeddings=embeddings)
        if embeddings.shape[1] != self.input_size:
            expected = f"input_size = {self.input_size} columns"
            raise refuse("embeddings", expected, f"{embeddings.shape[1]} columns")
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            dtype = torch.promote_types(x.dtype, next(self.parameters()).dtype)
            compressed: Tensor = call_in(dtype, self.layers, x.to(dtype))
        return compressed
