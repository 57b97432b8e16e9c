"""Soft ranks: how many candidates score higher than a given one, by sigmoids."""

import torch
from torch import Tensor

from pml_extras._checks import check_one_of, check_positive, check_vector

PNP_VARIANTS = ("Ds", "Dq", "Iu", "Ib", "O")
"""Of :func:`pnp`."""


def soft_count(candidates: Tensor, score: Tensor, row: Tensor) -> Tensor:
    r"""How many candidates of its row score higher than each item, smoothly.

    .. math:: c_t = \sum_k \sigma(a_{r_t k} - s_t)

    Args:
        candidates: (B, K) :math:`a`, divided by the temperature; ``-inf`` is no candidate.
        score: (T,) s of the items, finite, divided by the temperature too.
        row: (T,) int64 r, the row of each item.

    Returns:
        (T,); an item that is its own candidate counts 1/2 for itself. Memory: (T, K).

    >>> soft_count(torch.tensor([[9.0, -9.0, 0.0]]), torch.zeros(1), torch.tensor([0]))
    tensor([1.5000])
    """
    check_vector(len(row), score=score)
    return candidates.index_select(0, row).sub_(score[:, None]).sigmoid_().sum(dim=1)


def smooth_precision(positives: Tensor, negatives: Tensor, score: Tensor, row: Tensor) -> Tensor:
    r"""Precision of a ranking at each positive, whose mean over positives is Smooth-AP.

    .. math::
        R(j, A) = 1 + \sum_{k \in A,\, k \ne j} \sigma\Big(\frac{s_{ik} - s_{ij}}{\tau}\Big),
        \qquad p_{ij} = \frac{R(j, P_i)}{R(j, P_i \cup N_i)},
        \qquad AP_i = \frac{1}{|P_i|} \sum_{j \in P_i} p_{ij}

    Args:
        positives: (B, K) :math:`s_{ik} / \tau` for k in :math:`P_i`, ``-inf`` beyond them.
        negatives: (B, R) :math:`s_{ik} / \tau` for k in :math:`N_i`, ``-inf`` elsewhere.
        score: (T,) :math:`s_{ij} / \tau` of one positive j each, among those of its row.
        row: (T,) int64, its anchor i.

    Returns:
        (T,) in (0, 1], exactly 1 with zero gradient without negatives.

    Source: Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV
    2020, https://arxiv.org/abs/2007.12163.

    >>> ranks = torch.tensor([[5.0, -5.0]]), torch.tensor([[0.0]])
    >>> smooth_precision(*ranks, torch.tensor([5.0, -5.0]), torch.tensor([0, 0]))
    tensor([0.9934, 0.6682])
    """
    before = 0.5 + soft_count(positives, score, row)  # j itself counts 1/2 of its 1
    return 1 / (1 + soft_count(negatives, score, row) / before)


def pnp(before: Tensor, *, variant: str, alpha: float, b: float) -> Tensor:
    r"""Penalty of a positive for the negatives that are ranked before it.

    .. math::
        \ell_O &= r \qquad
        \ell_{Iu} = (1 + r) \log(1 + r) \qquad
        \ell_{Ib} = \frac{b r - \log(1 + b r)}{b^2} \\
        \ell_{Ds} &= \log(1 + r) \qquad
        \ell_{Dq} = 1 - (1 + r)^{-\alpha}

    Args:
        before: any shape, r >= 0, how many negatives score higher, as :func:`soft_count` has it.
        variant: "O", "Iu", "Ib", "Ds" or "Dq".
        alpha: > 0, of "Dq".
        b: > 0, of "Ib".

    Returns:
        The shape of ``before``; 0 where it is 0.

    Raises:
        ValueError: another variant, or ``alpha`` or ``b`` is not a finite number above 0.

    Source: Li et al., "Rethinking the Optimization of Average Precision: Only Penalizing Negative
    Instances before Positive Ones is Enough", AAAI 2022, https://arxiv.org/abs/2102.04640.

    >>> pnp(torch.tensor([0.0, 1.0]), variant="Dq", alpha=2.0, b=2.0)
    tensor([0.0000, 0.7500])
    """
    check_one_of(PNP_VARIANTS, variant=variant)
    check_positive(alpha=alpha, b=b)
    if variant == "Iu":
        return (1 + before) * before.log1p()
    if variant == "Ib":
        return (b * before - (b * before).log1p()) / b**2
    if variant == "Ds":
        return before.log1p()
    if variant == "Dq":
        return -torch.expm1(-alpha * before.log1p())
    return before
