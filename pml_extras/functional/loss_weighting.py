"""Shortest vector in the convex hull of several gradients."""

import torch
from torch import Tensor

from pml_extras._checks import check_count, check_non_negative, refuse


def minimum_norm_weights(gram: Tensor, *, tolerance: float = 1e-6, max_steps: int = 250) -> Tensor:
    r"""Weights of the shortest convex combination of m vectors, from their inner products.

    .. math::
        \min_{w \ge 0,\, \sum_j w_j = 1} w^\top M w, \qquad M_{ij} = g_i \cdot g_j

    For two vectors :math:`w_1 = \mathrm{clip}\big((g_2 - g_1) \cdot g_2 / \lVert g_1 - g_2
    \rVert^2,\, 0,\, 1\big)`. For more, Frank-Wolfe from the uniform weights: with
    :math:`t = \arg\min_k (M w)_k`,

    .. math::
        \gamma = \mathrm{clip}\Big(\frac{w^\top M w - (M w)_t}{w^\top M w - 2 (M w)_t + M_{tt}},
        0, 1\Big), \qquad w \leftarrow (1 - \gamma) w + \gamma e_t

    At the optimum, with :math:`v = \sum_j w_j g_j`, all :math:`g_j \cdot v \ge \lVert v \rVert^2`,
    with equality where :math:`w_j > 0`.

    Args:
        gram: (m, m) floating, M, symmetric and positive semidefinite.
        tolerance: >= 0; steps end when :math:`g_j \cdot v \ge \lVert v \rVert^2 - \epsilon` for all
            j, where :math:`\epsilon` is this times the smallest squared norm of a vector. Then
            :math:`\lVert v \rVert^2` is at most :math:`2 \epsilon` above its minimum.
        max_steps: >= 1; they end after so many in any case. Frank-Wolfe is slow where the optimum
            lies inside a face: after k steps the excess is at most 4 times the squared diameter of
            the vectors over k + 2.

    Returns:
        (m,) in dtype and on the device of ``gram``, computed in float64 on the CPU. Uniform where
        all vectors are 0 or all are equal.

    Raises:
        ValueError: ``gram`` is no square floating matrix, or an option out of its range.

    Source: Sener and Koltun, Multi-task learning as multi-objective optimization, NeurIPS 2018,
    Algorithm 2, https://arxiv.org/abs/1810.04650.

    >>> vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> minimum_norm_weights(vectors @ vectors.T)
    tensor([0.2000, 0.8000])
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.is_floating_point():
        expected = "a floating matrix of shape (m, m)"
        raise refuse("gram", expected, f"{gram.dtype} {tuple(gram.shape)}")
    check_non_negative(tolerance=tolerance)
    check_count(1, max_steps=max_steps)
    if torch.compiler.is_compiling():
        weights: Tensor = _operator(gram.detach(), tolerance, max_steps)
        return weights
    return _solution(gram.detach(), tolerance, max_steps)


def _solution(gram: Tensor, tolerance: float, max_steps: int) -> Tensor:
    rows: list[list[float]] = gram.tolist()  # plain numbers: m is small, steps are many
    solution = _of_two(rows) if len(rows) == 2 else _frank_wolfe(rows, tolerance, max_steps)
    return gram.new_tensor(solution)


# In a compiled graph one operator, which reads the device as the function does.
_operator = torch.library.custom_op("pml_extras::minimum_norm_weights", _solution, mutates_args=())


@_operator.register_fake
def _(gram: Tensor, tolerance: float, max_steps: int) -> Tensor:
    return gram.new_empty(len(gram))


def _of_two(gram: list[list[float]]) -> list[float]:
    (first, product), (_, second) = gram
    squared = first - 2 * product + second
    w = _clip((second - product) / squared) if squared > 0 else 0.5
    return [w, 1 - w]


def _frank_wolfe(gram: list[list[float]], tolerance: float, max_steps: int) -> list[float]:
    size = len(gram)
    w = [1 / size] * size
    products = [sum(row) / size for row in gram]  # M w
    smallest = min(gram[j][j] for j in range(size))
    for _ in range(max_steps):
        squared = sum(a * b for a, b in zip(w, products, strict=True))
        t = min(range(size), key=products.__getitem__)
        gap = squared - products[t]
        length = squared - 2 * products[t] + gram[t][t]  # |v - g_t|^2
        if gap <= tolerance * smallest or length <= 0:
            break
        step = _clip(gap / length)
        w = [(1 - step) * a for a in w]
        w[t] += step
        products = [(1 - step) * a + step * b for a, b in zip(products, gram[t], strict=True)]
    return w


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
