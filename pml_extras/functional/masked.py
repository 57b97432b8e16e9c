"""Log-sum-exp and mean over some entries; a set without entries has a value and a gradient."""

import torch
from torch import Tensor


def masked_logsumexp(scores: Tensor, mask: Tensor) -> Tensor:
    r"""Row-wise :math:`\log \sum_{k \in M_i} e^{s_{ik}}`.

    Args:
        scores: (B, R) float.
        mask: (B, R) bool, True for the members of :math:`M_i`.

    Returns:
        (B,); ``-inf`` with zero gradient for a row without members.

    >>> masked_logsumexp(torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3]))
    tensor([0.6931,   -inf])
    """
    if scores.shape[1] == 0:
        return scores.sum(dim=1) - torch.inf
    # Filled with -inf, a row without members would meet -inf - (-inf) in the gradient.
    nothing = torch.finfo(scores.dtype).min / 2
    log_sum = scores.masked_fill(~mask, nothing).logsumexp(dim=1)
    return log_sum.masked_fill(log_sum < nothing / 2, -torch.inf)


def segment_logsumexp(scores: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    r""":math:`\log \sum_{t: g_t = i} e^{s_t}` over a list; what is listed twice counts twice.

    Args:
        scores: (N,) float.
        segment: (N,) int64 in [0, num_segments), the set each score belongs to.
        num_segments: number of sets, S.

    Returns:
        (S,); ``-inf`` with zero gradient for a set without members.

    >>> segment_logsumexp(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), 3)
    tensor([0.6931,   -inf, 1.0000])
    """
    largest = scores.new_full((num_segments,), -torch.inf)
    largest = largest.scatter_reduce(0, segment, scores.detach(), "amax")  # (S,)
    empty = largest.isneginf()
    shift = largest.masked_fill(empty, 0.0)
    total = scores.new_zeros(num_segments).index_add(0, segment, (scores - shift[segment]).exp())
    log_sum = shift + total.masked_fill(empty, 1.0).log()
    return log_sum.masked_fill(empty, -torch.inf)


def logaddexp_or_empty(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log(e^a + e^b)`, ``-inf`` with zero gradient where both are ``-inf``.

    ``torch.logaddexp`` has a NaN derivative there.

    >>> logaddexp_or_empty(torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, -torch.inf]))
    tensor([0., -inf])
    """
    empty = a.isneginf() & b.isneginf()
    joint = torch.logaddexp(a.masked_fill(empty, 0.0), b.masked_fill(empty, 0.0))
    return joint.masked_fill(empty, -torch.inf)


def mean_of_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, K) mean over n of (B, n, K), of the entries where ``valid`` (B, n) bool is True; None is
    everywhere, and 0 the mean of none.

    >>> mean_of_valid(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if valid is None:
        return x.mean(dim=1)
    number = valid.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    return x.masked_fill(~valid[:, :, None], 0).sum(dim=1) / number
