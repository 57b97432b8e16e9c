"""The message passing network of intra-batch connections: a batch refines its own rows."""

import torch
from torch import Tensor, nn

from pml_extras._checks import check_count, check_flag, check_fraction, refuse
from pml_extras.functional.message_passing import (
    explicit_neighbour_attention,
    neighbour_attention,
)
from pml_extras.functional.precision import at_least_float32, call_in, no_autocast
from pml_extras.functional.rows import unit_rows


class MessagePassingLayer(nn.TransformerEncoderLayer):
    r"""One message passing step over the complete graph of a batch, self-loops included.

    .. math::
        f_i = \mathrm{LN}_1(h_i + W_o [a_i^1, \dots, a_i^H] + b_o), \qquad
        h_i' = \mathrm{LN}_2(f_i + W_2\, \mathrm{ReLU}(W_1 f_i + b_1) + b_2)

    where :math:`a_i^m` is :func:`pml_extras.functional.neighbour_attention` of head m. It is
    torch's own post-norm layer, with its parameters and their names (weights load from one into
    the other); only ``forward`` is ours, and takes no masks: in eval mode without gradients torch's
    takes a path that holds all (H, B, B) weights and, silently, has no null neighbour.

    Args:
        size: d, of the nodes.
        num_heads: H; divides ``size``.
        feedforward_size: rows of :math:`W_1`.
        dropout: of messages, of the hidden units and of what they give.
        attention_dropout: of attention weights.
        add_zero_attn: attend to a null neighbour too.

    Initialisation: :math:`W_q, W_k, W_v, W_o` Xavier uniform, each matrix on its own, with biases
    0; :math:`W_1, W_2` as torch's linear layers.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        feedforward_size: int,
        dropout: float,
        attention_dropout: float,
        add_zero_attn: bool,
    ) -> None:
        super().__init__(size, num_heads, feedforward_size, dropout, batch_first=True)
        self.self_attn.dropout = attention_dropout
        self.self_attn.add_zero_attn = add_zero_attn
        with torch.no_grad():
            for matrix in (*self.self_attn.in_proj_weight.chunk(3), self.self_attn.out_proj.weight):
                nn.init.xavier_uniform_(matrix)

    def forward(  # type: ignore[override]
        self, nodes: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(..., B, d) to (..., B, d), and (..., H, B, B) attention weights if asked for."""
        messages, weights = self._messages(nodes, need_weights)
        nodes = self.norm1(nodes + self.dropout1(messages))
        return self.norm2(nodes + self._ff_block(nodes)), weights

    def _messages(self, nodes: Tensor, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        attention = self.self_attn
        shared = nn.functional.linear(nodes, attention.in_proj_weight, attention.in_proj_bias)
        heads = shared.unflatten(-1, (3, attention.num_heads, -1))  # (..., B, 3, H, d_h)
        query, key, value = heads.transpose(-4, -2).unbind(-3)  # each (..., H, B, d_h)
        zero, dropout = attention.add_zero_attn, attention.dropout if self.training else 0.0
        weights = None
        if need_weights:
            received, weights = explicit_neighbour_attention(
                query, key, value, add_zero_attn=zero, dropout=dropout
            )
        else:
            received = neighbour_attention(query, key, value, add_zero_attn=zero, dropout=dropout)
        return attention.out_proj(received.transpose(-3, -2).flatten(-2)), weights


class MessagePassingNetwork(nn.Module):
    r"""Refine the rows of a batch by what they are among the others.

    .. math::
        h_i^0 = P \frac{x_i}{\lVert x_i \rVert_2} + b_P, \qquad
        h^l = \mathrm{step}_l(h^{l-1}), \quad l = 1, \dots, L

    with :class:`MessagePassingLayer` as steps. Labels have no part in it. A permutation of the rows
    permutes the result; a positive factor on a row changes nothing.

    Args:
        embedding_size: D, also of the nodes.
        num_heads: H; divides ``embedding_size``.
        num_layers: L, each step with weights of its own.
        feedforward_size: hidden units of a step; None is 4 times ``embedding_size``.
        dropout: in [0, 1), in training mode.
        attention_dropout: in [0, 1), of attention weights; None is ``dropout``. Set it to 0 for
            large batches on a CPU: torch's kernel with dropout holds all H B^2 weights. At 4,096
            rows, 512 dimensions and 8 heads forward and backward of a step take 2.3 GB with it and
            0.26 GB without, where memory grows with B alone (benchmarks/README.md, Cost).
        add_zero_attn: False is the softmax of the paper; True adds the null neighbour of the
            authors' released code, so that weights sum to less than 1.
        concat_layers: return the nodes after all L steps side by side, (B, L D), as one of the
            released configurations (Cars196, training only) does, not those after the last.

    Half inputs are computed in float32, float64 inputs in float64, and parameters keep their dtype.
    Train and eval mode differ by dropout alone. A row of zeros has no direction: it is a node like
    any other, with zero gradient. Second derivatives need the explicit path,
    :meth:`forward_with_attention`.

    Source: Seidenschwarz, Elezi, Leal-Taixé, "Learning Intra-Batch Connections for Deep Metric
    Learning", ICML 2021, https://arxiv.org/abs/2102.07753, the message passing step; the input
    projection P is that of the released code, https://github.com/dvl-tum/intra_batch.

    Raises:
        ValueError: an argument out of its range, or rows of another size.

    >>> network = MessagePassingNetwork(embedding_size=4).eval()
    >>> network(torch.randn(6, 4)).shape
    torch.Size([6, 4])
    """

    def __init__(
        self,
        embedding_size: int,
        num_heads: int = 2,
        num_layers: int = 1,
        feedforward_size: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        add_zero_attn: bool = False,
        concat_layers: bool = False,
    ) -> None:
        super().__init__()
        check_count(1, embedding_size=embedding_size)
        check_options(
            num_heads,
            num_layers,
            feedforward_size,
            dropout,
            attention_dropout,
            add_zero_attn,
            concat_layers,
        )
        if embedding_size % num_heads:
            raise refuse("num_heads", f"a divisor of embedding_size = {embedding_size}", num_heads)
        self.embedding_size = embedding_size
        self.concat_layers = concat_layers
        self.projection = nn.Linear(embedding_size, embedding_size)
        self.layers = nn.ModuleList(
            MessagePassingLayer(
                embedding_size,
                num_heads,
                4 * embedding_size if feedforward_size is None else feedforward_size,
                dropout,
                dropout if attention_dropout is None else attention_dropout,
                add_zero_attn,
            )
            for _ in range(num_layers)
        )

    @property
    def output_size(self) -> int:
        """Width of what comes out: D, or L D with ``concat_layers``."""
        return self.embedding_size * (len(self.layers) if self.concat_layers else 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D), or (G, B, D) for G graphs at once, to (B, Z) or (G, B, Z), Z = output_size."""
        return self._refined(embeddings, need_weights=False)[0]

    def forward_with_attention(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """What forward gives, and the weights of each step, (L, H, B, B) or (L, G, H, B, B).

        Entry (i, j) is the weight of sender j for receiver i, before dropout. Memory O(L H B^2).
        """
        refined, weights = self._refined(embeddings, need_weights=True)
        return refined, torch.stack(weights)

    def _refined(self, embeddings: Tensor, *, need_weights: bool) -> tuple[Tensor, list[Tensor]]:
        expected = "a floating tensor (B, D) or (G, B, D)"
        if not torch.is_tensor(embeddings):
            raise refuse("embeddings", expected, type(embeddings).__name__)
        if not embeddings.is_floating_point() or embeddings.ndim not in (2, 3):
            came = f"{embeddings.dtype} {tuple(embeddings.shape)}"
            raise refuse("embeddings", expected, came)
        if embeddings.shape[-1] != self.embedding_size:
            expected = f"embedding_size = {self.embedding_size} columns"
            raise refuse("embeddings", expected, f"{embeddings.shape[-1]} columns")
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            dtype = torch.promote_types(x.dtype, self.projection.weight.dtype)
            nodes = call_in(dtype, self.projection, unit_rows(x.to(dtype)))
            states, weights = [], []
            for layer in self.layers:
                nodes, attention = call_in(dtype, layer, nodes, need_weights)
                states.append(nodes)
                weights.append(attention)
        return torch.cat(states, dim=-1) if self.concat_layers else nodes, weights


def check_options(
    num_heads: int,
    num_layers: int,
    feedforward_size: int | None,
    dropout: float,
    attention_dropout: float | None,
    add_zero_attn: bool,
    concat_layers: bool,
) -> None:
    """Refuse what is out of range in a network of any size."""
    check_count(1, num_heads=num_heads, num_layers=num_layers)
    check_fraction(dropout=dropout)
    if feedforward_size is not None:
        check_count(1, feedforward_size=feedforward_size)
    if attention_dropout is not None:
        check_fraction(attention_dropout=attention_dropout)
    check_flag(add_zero_attn=add_zero_attn, concat_layers=concat_layers)
