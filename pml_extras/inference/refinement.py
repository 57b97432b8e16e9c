"""Rows refined by a network that sees each among its k-reciprocal neighbours alone."""

from itertools import chain

import torch
from torch import Tensor

from pml_extras._checks import check_count, refuse
from pml_extras.functional.precision import at_least_float32
from pml_extras.functional.rows import unit_rows
from pml_extras.inference.reciprocal_neighbours import KNN, reciprocal_batches


def refine_with_neighbours(
    network: torch.nn.Module,
    embeddings: Tensor,
    *,
    references: Tensor | None = None,
    batch_size: int = 7,
    k1: int = 30,
    k2: int = 15,
    chunk_size: int = 256,
    knn_func: KNN | None = None,
) -> Tensor:
    r"""Each row as the network sees it among its k-reciprocal neighbours.

    An option of the released code, not the main protocol, which compares the rows themselves. On
    classes that were not trained on it can make retrieval worse: compare first.

    .. math::
        z_i = \frac{h_i}{\lVert h_i \rVert_2}, \qquad
        h_i = f(x_i, x_{b_1}, \dots, x_{b_{B - 1}})_0

    where f is the network and :math:`b_1, \dots` are the other rows of the batch of i, from
    :func:`reciprocal_batches`.

    Args:
        network: takes (chunk, B, D) and returns (chunk, B, Z), each graph of B nodes by itself;
            such as ``MessagePassingNetwork``, which normalises its input. It is given rows as they
            are, in their dtype and on the device of its first parameter or buffer.
        embeddings: (N, D) floating, of any norm. They may be larger than the memory of the device
            of the network, which receives ``chunk_size`` batches at a time.
        references: (M, D), a gallery: rows of ``embeddings`` are then refined as queries among it,
            while the gallery keeps its vectors (the protocol for In-Shop, with ``batch_size=4``).
        batch_size: B, the row itself included.
        k1: as in :func:`reciprocal_batches`.
        k2: as in :func:`reciprocal_batches`.
        chunk_size: batches in one call of the network; changes speed and memory, no value.
        knn_func: as in :func:`reciprocal_batches`.

    Returns:
        (N, Z) unit rows in the dtype of the network's output, on the device of ``embeddings``. The
        network runs in eval mode; its parameters, and the mode of each submodule, are left as they
        were. Memory: O(N k1 + N D) for the batches, then (chunk_size, B, D) and the result.

    Raises:
        ValueError: as :func:`reciprocal_batches`; ``network`` is no module, or returns another
            shape; ``chunk_size`` < 1.

    Source: as :func:`reciprocal_batches`; like the released code it takes the refined vector
    before the batch normalisation of the classifier.

    >>> rows = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 2.0]])
    >>> refine_with_neighbours(torch.nn.Identity(), rows, batch_size=2, k1=2, k2=1)
    tensor([[0.6000, 0.8000],
            [1.0000, 0.0000],
            [0.0000, 1.0000]])
    """
    if not isinstance(network, torch.nn.Module):
        raise refuse("network", "a torch.nn.Module", type(network).__name__)
    if isinstance(getattr(network, "network", None), torch.nn.Module):
        raise refuse("network", "a network", type(network).__name__, "Pass its `network`.")
    check_count(1, chunk_size=chunk_size)
    batches = reciprocal_batches(
        embeddings, batch_size=batch_size, k1=k1, k2=k2, references=references, knn_func=knn_func
    )
    held = next(chain(network.parameters(), network.buffers()), embeddings)
    modes = [(module, module.training) for module in network.modules()]
    refined: Tensor | None = None
    try:
        network.eval()
        with torch.no_grad():
            for start in range(0, max(1, len(embeddings)), chunk_size):  # once without rows, for Z
                part = slice(start, start + chunk_size)
                if references is None:
                    rows = embeddings[batches[part]]  # (chunk, B, D)
                else:
                    rows = torch.cat([embeddings[part, None], references[batches[part]]], dim=1)
                nodes = network(rows.to(held.device))
                _check_nodes(nodes, len(rows), batch_size)
                z = unit_rows(at_least_float32(nodes[:, 0]))  # (chunk, Z)
                if refined is None:
                    size = (len(embeddings), z.shape[1])
                    refined = torch.empty(size, dtype=nodes.dtype, device=embeddings.device)
                refined[part] = z.to(refined)
    finally:
        for module, training in modes:
            module.training = training
    assert refined is not None  # the loop runs at least once
    return refined


def _check_nodes(nodes: object, num: int, batch_size: int) -> None:
    if not torch.is_tensor(nodes) or nodes.ndim != 3 or nodes.shape[:2] != (num, batch_size):
        came = f"shape {tuple(nodes.shape)}" if torch.is_tensor(nodes) else type(nodes).__name__
        expected = f"({num}, {batch_size}, Z) refined nodes for as many rows"
        raise refuse("network", expected, came)
