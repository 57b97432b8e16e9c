"""Normalised temperature-scaled cross entropy of positive pairs."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from pml_extras._checks import check_vector


def ntxent(positive: Tensor, log_negatives: Tensor) -> Tensor:
    r"""Loss of each positive pair against all negatives of its anchor.

    .. math::
        L_i &= \log \sum_{n \in N_i} e^{s_{in} / \tau} \\
        \ell_{ip} &= -\log \frac{e^{s_{ip} / \tau}}{e^{s_{ip} / \tau} + e^{L_i}}
                   = \log\left(1 + e^{L_i - s_{ip} / \tau}\right)

    The negatives enter by one number an anchor: O(B^2) for a batch, where a table of positive pairs
    by negative pairs is O(B^3).

    Args:
        positive: (P,) :math:`s_{ip} / \tau` of the positive pairs.
        log_negatives: (P,) :math:`L_i` of their anchors, ``-inf`` for one without negatives.

    Returns:
        (P,), exactly 0 with zero gradient for a pair whose anchor has no negative.

    Raises:
        ValueError: the two are not vectors of one length.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS
    2016, and Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, https://arxiv.org/abs/2002.05709. Departure, that of
    pytorch-metric-learning: the other positives of an anchor are not in the denominator of a pair.

    >>> import torch
    >>> ntxent(torch.tensor([1.0, 1.0]), torch.tensor([1.0, -torch.inf]))
    tensor([0.6931, 0.0000])
    """
    check_vector(len(positive), log_negatives=log_negatives)
    return 0.0 - logsigmoid(positive - log_negatives)  # 0.0, where a minus sign gives -0.0
