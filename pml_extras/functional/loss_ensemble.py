"""What an ensemble of losses adds to its members: one scale, heads that differ, one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pml_extras._checks import check_finite, refuse

_SILENT = 1e-12  # of the common mean: no factor of a loss that counts overflows float32


def scale_factors(means: Sequence[float], *, max_scale: float | None = None) -> list[float]:
    r"""Factors that bring losses to their common mean.

    .. math::
        \hat\ell_j = \frac{\bar\ell}{\bar\ell_j} \ell_j, \qquad
        \bar\ell = \frac{1}{m} \sum_j \bar\ell_j

    Args:
        means: m running means, >= 0; numbers, through which no gradient flows.
        max_scale: cap of a factor. A loss that was 0 for n - 1 batches and then is not has n times
            its share in that batch.

    Returns:
        m factors; 1 for a loss whose mean is 0, or below 1e-12 of the common one: there is nothing
        to scale.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, Eq. 8. Departures: the factor of a mean of 0, and the cap.

    >>> scale_factors([1.0, 4.0, 0.0, 3.0])
    [2.0, 0.5, 1.0, 0.6666666666666666]
    """
    common = sum(means) / len(means)
    factors = [common / mean if mean > _SILENT * common else 1.0 for mean in means]
    return factors if max_scale is None else [min(max_scale, factor) for factor in factors]


def head_diversity(heads: Sequence[Tensor], *, margin: float = 2.0) -> Tensor:
    r"""Hinge on the mean distance between what two heads make of one sample.

    .. math::
        \max\Bigl(0, M - \frac{2}{m (m - 1)} \sum_{i < j} \frac{1}{B}
        \sum_b \lVert x_i^{(b)} - x_j^{(b)} \rVert_2\Bigr)

    Rotating a head moves this term and changes nothing of what is retrieved. Unit vectors cannot
    reach 0 for m > 2: their mean distance is at most :math:`\sqrt{2 m / (m - 1)}`.

    Args:
        heads: m tensors (B, D), m >= 2, B >= 1.
        margin: M, in the unit of the distance; 2 is the diameter of the unit sphere.

    Returns:
        A 0-dim tensor >= 0; coincident vectors have zero gradient.

    Raises:
        ValueError: fewer than two heads, or other shapes than the first one's.

    Source: the released code of the paper of :func:`scale_factors`, its variant with heads,
    https://github.com/d-zabihzadeh/DML-Ensemble-of-Losses.
    """
    check_finite(margin=margin)
    if len(heads) < 2:
        raise refuse("heads", "two at least", len(heads))
    for x in heads:
        if x.shape != heads[0].shape:
            raise refuse("heads", f"one shape, {tuple(heads[0].shape)}", tuple(x.shape))
    pairs = [(heads[i], heads[j]) for j in range(len(heads)) for i in range(j)]
    distances = [torch.linalg.vector_norm(x - y, dim=1).mean() for x, y in pairs]
    return (margin - torch.stack(distances).mean()).clamp(min=0)


def weighted_concatenation(heads: Sequence[Tensor], weights: Tensor) -> Tensor:
    r"""One vector whose squared distance is the weighted sum of those of the heads.

    .. math::
        X = [\sqrt{w_1} x_1, \dots, \sqrt{w_m} x_m], \qquad
        \lVert X_a - X_b \rVert^2 = \sum_j w_j \lVert x_j(a) - x_j(b) \rVert^2

    Args:
        heads: m tensors (B, D_j).
        weights: (m,), >= 0.

    Returns:
        (B, sum of D_j), of norm 1 where heads are unit vectors and the weights sum to 1.

    Source: as :func:`head_diversity`; that the root of the weight is the factor is read from the
    released code.
    """
    roots = weights.sqrt().unbind()
    return torch.cat([root * x for root, x in zip(roots, heads, strict=True)], dim=1)
