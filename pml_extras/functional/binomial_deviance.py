"""Binomial deviance: a logistic penalty for each pair on the wrong side of a threshold."""

import torch
from torch import Tensor

from pml_extras._checks import check_positive, refuse


def binomial_deviance(excess: Tensor, *, scale: float) -> Tensor:
    r"""Penalty of each pair for how far it is on the wrong side of a threshold.

    .. math::
        \ell = \log\left(1 + e^{\gamma \epsilon}\right)

    with the excess :math:`\epsilon_{ip} = \beta - s_{ip}` of a positive pair and
    :math:`\epsilon_{in} = s_{in} - \beta` of a negative one, for a similarity s and a threshold
    :math:`\beta`; both with the other sign for a distance.

    Args:
        excess: any shape, floating; in the unit of the similarity.
        scale: :math:`\gamma > 0`, in 1 / unit of ``excess``.

    Returns:
        The shape and dtype of ``excess``; no argument overflows.

    Raises:
        ValueError: ``scale`` out of its range.

    Source: Yi, Lei, Li, "Deep Metric Learning for Practical Person Re-Identification", 2014,
    https://arxiv.org/abs/1407.4979. There :math:`\gamma = \alpha` for positive pairs,
    :math:`\gamma = C \alpha` for negative ones with their cost C, and the mean of each kind is
    taken over the batch: as independent implementations agree (the paper itself was not at hand).

    >>> binomial_deviance(torch.tensor([-1.0, 0.0, 1.0]), scale=2.0)
    tensor([0.1269, 0.6931, 2.1269])
    """
    check_positive(scale=scale)
    return -torch.nn.functional.logsigmoid(-scale * excess)


def mean_binomial_deviance(excess: Tensor, members: Tensor, *, scale: float) -> Tensor:
    r"""Mean of each anchor's pairs of one kind.

    .. math::
        L_i = \frac{1}{|M_i|} \sum_{j \in M_i} \log\left(1 + e^{\gamma \epsilon_{ij}}\right)

    Args:
        excess: (B, R) floating, :math:`\epsilon` of :func:`binomial_deviance`.
        members: (B, R) bool, True for the pairs :math:`M_i` of anchor i.
        scale: :math:`\gamma > 0`.

    Returns:
        (B,); exactly 0 with zero gradient for an anchor without pairs.

    Raises:
        ValueError: ``members`` is not bool in the shape of ``excess``, or ``scale`` <= 0.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, in the form of the authors' released code, which means over
    each anchor's pairs and then over anchors, those without pairs among them.

    >>> members = torch.tensor([[True, True], [False, False]])
    >>> mean_binomial_deviance(torch.zeros(2, 2), members, scale=2.0)
    tensor([0.6931, 0.0000])
    """
    if members.dtype != torch.bool or members.shape != excess.shape:
        came = f"{members.dtype} {tuple(members.shape)}"
        raise refuse("members", f"bool {tuple(excess.shape)}, the shape of `excess`", came)
    deviance = binomial_deviance(excess, scale=scale).masked_fill(~members, 0.0)  # (B, R)
    return deviance.sum(dim=1) / members.sum(dim=1).clamp(min=1)
