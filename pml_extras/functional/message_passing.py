"""Messages between the nodes of a fully connected graph: dot-product attention over a batch."""

import torch.nn.functional as F
from torch import Tensor

from pml_extras._checks import refuse


def neighbour_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    add_zero_attn: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    r"""What each node receives from all nodes, itself included.

    .. math::
        a_i = \sum_j \alpha_{ij} v_j, \qquad
        \alpha_{ij} = \frac{e^{s_{ij}}}{z + \sum_{j'} e^{s_{ij'}}}, \qquad
        s_{ij} = \frac{q_i^\top k_j}{\sqrt{d_h}}

    with z = 0, the softmax of the paper, whose weights sum to 1 for each receiver i; or z = 1, the
    softmax of the authors' released code, whose weights sum to less. The 1 is a null neighbour of
    score and value 0, to which a node may listen instead of the others; it is appended as one key
    and one value of zeros.

    Args:
        query: (..., H, B, d_h) floating, of the receivers i, for H heads of any number of graphs.
        key: (..., H, B, d_h), of the senders j.
        value: (..., H, B, d_h).
        add_zero_attn: z = 1; the name is that of ``torch.nn.MultiheadAttention``.
        dropout: probability in [0, 1) with which a weight is set to 0, and the others divided by
            1 - dropout.

    Returns:
        (..., H, B, d_h).

    Memory: O(H B d_h) on the CPU with ``dropout`` 0, through
    ``torch.nn.functional.scaled_dot_product_attention``, whose kernel then holds no (H, B, B)
    weights; with dropout torch falls back to one that does. Which kernel runs on a GPU depends on
    the type. Kernels without weights have no double backward.

    Source: Seidenschwarz, Elezi, Leal-Taixé, "Learning Intra-Batch Connections for Deep Metric
    Learning", ICML 2021, https://arxiv.org/abs/2102.07753, the attention scores of a message
    passing step; z = 1: https://github.com/dvl-tum/intra_batch.

    Raises:
        ValueError: the three differ in shape.
    """
    _check_heads(query, key, value)
    if add_zero_attn:
        key, value = _with_null(key), _with_null(value)
    graphs = query.shape[:-3]
    query, key, value = (_four_dimensions(x) for x in (query, key, value))
    received = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return received.reshape(*graphs, *received.shape[1:])


def explicit_neighbour_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    add_zero_attn: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same as :func:`neighbour_attention`, with the weights, twice differentiable.

    Returns:
        (..., H, B, d_h) messages and (..., H, B, B) weights before dropout: entry (i, j) is what
        receiver i gives to sender j. Memory O(H B^2).

    Raises:
        ValueError: the three differ in shape.
    """
    _check_heads(query, key, value)
    num = key.shape[-2]
    if add_zero_attn:
        key, value = _with_null(key), _with_null(value)
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # (..., H, B, B or B + 1)
    weights = scores.softmax(dim=-1)
    messages = F.dropout(weights, dropout) @ value
    return messages, weights[..., :num]


def _with_null(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 1))


def _four_dimensions(x: Tensor) -> Tensor:
    """The kernels that hold no weights take (graphs, H, B, d_h) and nothing else."""
    return x[None] if x.ndim == 3 else x.flatten(0, -4)


def _check_heads(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("key", key), ("value", value)):
        if x.shape != query.shape:
            raise refuse(name, f"the shape of `query`, {tuple(query.shape)}", tuple(x.shape))
