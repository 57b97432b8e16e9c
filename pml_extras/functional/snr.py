"""Ratio of the variance of a difference to the variance of an anchor."""

import torch
from torch import Tensor

from pml_extras._checks import check_rows
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.precision import at_least_float32


def snr_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Noise to signal: how much a reference varies about an anchor, over how much that varies.

    .. math::
        d_{ij} = \frac{\operatorname{var}(y_j - x_i)}{\operatorname{var}(x_i)}
               = \frac{\lVert (y_j - \bar y_j) - (x_i - \bar x_i) \rVert^2}
                      {\lVert x_i - \bar x_i \rVert^2}

    with variances over the D coordinates. The second form is a Euclidean distance of centred rows:
    (B, R) where the first has (B, R, D) differences.

    Args:
        x: (B, D) anchors, floating; half types are computed in float32.
        y: (R, D) references in the dtype of ``x``; ``x`` itself compares rows with themselves.

    Returns:
        (B, R), float32 at least, 0 where rows differ by a constant. An anchor whose coordinates are
        equal to rounding carries no signal: its distances are 0 with zero gradient.

    Raises:
        ValueError: an argument is no (rows, size) tensor, or the sizes differ.

    Source: Yuan et al., "Signal-to-noise Ratio: A Robust Distance Metric for Deep Metric Learning",
    CVPR 2019, https://arxiv.org/abs/1904.02616. Departure: anchors without signal (there, and in
    pytorch-metric-learning, a division by 0).

    >>> snr_distance(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 0.0], [4.0, -4.0]]))
    tensor([[0.0000, 9.0000]])
    """
    check_rows(x=x, y=y)
    same = y is x
    x = at_least_float32(x)
    centred = _centred(x)
    other = None if same else _centred(at_least_float32(y))
    noise = euclidean_distance(centred, other).square()  # (B, R)
    signal = centred.square().sum(dim=1)  # (B,)
    rounding = 4 * torch.finfo(x.dtype).eps * x.detach().norm(dim=1)
    silent = signal <= rounding.square()
    noise = noise.masked_fill(silent[:, None], 0.0)
    return noise / signal.masked_fill(silent, 1.0)[:, None]


def sum_above_zero(hinge: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Row-wise sum of those members that are above 0, and how many they are.

    Args:
        hinge: (B, R) float; NaN is not above 0.
        member: (B, R) bool.

    Returns:
        (B,) sums, 0 with zero gradient for a row without any, and (B,) numbers, int64.

    >>> sum_above_zero(torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[True, True, False]]))
    (tensor([0.5000]), tensor([1]))
    """
    counted = member & (hinge > 0)
    return hinge.masked_fill(~counted, 0.0).sum(dim=1), counted.sum(dim=1)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=1, keepdim=True)
