"""Lifted structured feature embedding, and its per-anchor generalisation."""

from torch import Tensor

from pml_extras._checks import check_vector
from pml_extras.functional.masked import logaddexp_or_empty


def lifted_structure(
    positive_excess: Tensor, log_negatives_i: Tensor, log_negatives_j: Tensor
) -> Tensor:
    r"""Loss of each positive pair against all negatives of both of its ends.

    .. math::
        L_i &= \log \sum_{k \in N_i} e^{\alpha - D_{ik}} \\
        \tilde J_{ij} &= D_{ij} - \beta + \log\left(e^{L_i} + e^{L_j}\right) \\
        \ell_{ij} &= \tfrac12 \max(0, \tilde J_{ij})^2

    The published sum over :math:`N_i` and :math:`N_j` is one logarithm over both sets, so the
    :math:`L_i` of the anchors, B numbers, are all that a pair needs: O(B^2) for a batch.

    Args:
        positive_excess: (P,) :math:`D_{ij} - \beta` of the positive pairs, in units of distance;
            :math:`\beta - s_{ij}` for a similarity.
        log_negatives_i: (P,) :math:`L_i` of the first end, ``-inf`` where it has no negative.
        log_negatives_j: (P,) :math:`L_j` of the second end, likewise.

    Returns:
        (P,), exactly 0 with zero gradient for a pair neither end of which has a negative.

    Raises:
        ValueError: the three are not vectors of one length.

    Source: Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016,
    Eq. 4, https://arxiv.org/abs/1511.06452, whose sum over unordered pairs, divided by 2 |P|, is
    the mean of this over pairs listed once (or over pairs listed in both orders). Departure:
    :math:`\beta` (0 in the paper) is pytorch-metric-learning's ``pos_margin``.

    >>> import torch
    >>> lifted_structure(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([-torch.inf]))
    tensor([0.5000])
    """
    size = len(positive_excess)
    check_vector(size, log_negatives_i=log_negatives_i, log_negatives_j=log_negatives_j)
    joint = logaddexp_or_empty(log_negatives_i, log_negatives_j)  # (P,)
    hinge = (positive_excess + joint).clamp(min=0)  # -inf, no negative, is a closed hinge
    return 0.5 * hinge.square()


def generalized_lifted_structure(log_positives: Tensor, log_negatives: Tensor) -> Tensor:
    r"""Loss of each anchor: all of its positives against all of its negatives.

    .. math::
        \ell_i = \max\left(0,\; \log \sum_{p \in P_i} e^{D_{ip} - \beta}
                               + \log \sum_{n \in N_i} e^{\alpha - D_{in}}\right)

    Args:
        log_positives: (B,) first logarithm, ``-inf`` for an anchor without positives.
        log_negatives: (B,) second logarithm, ``-inf`` for an anchor without negatives.

    Returns:
        (B,), exactly 0 with zero gradient for an anchor that lacks either.

    Raises:
        ValueError: the two are not vectors of one length.

    Source: Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017, the
    generalized lifted structure loss, https://arxiv.org/abs/1703.07737. Departures: the paper sums
    over anchors where the class takes the mean by default; :math:`\beta` is our ``pos_margin``.

    >>> import torch
    >>> generalized_lifted_structure(torch.tensor([1.0, -torch.inf]), torch.tensor([2.0, 3.0]))
    tensor([3., 0.])
    """
    check_vector(len(log_positives), log_negatives=log_negatives)
    return (log_positives + log_negatives).clamp(min=0)  # -inf, a side missing, is a closed hinge
