"""Zero-shot prediction: attributes to class vectors by a regression that saw other classes."""

import torch
from torch import Tensor

from pml_extras._checks import check_positive, check_rows, check_vector, refuse
from pml_extras.functional.precision import at_least_float32, no_autocast
from pml_extras.functional.smoothed_cross_entropy import smoothed_cross_entropy


def ridge_regressor(attributes: Tensor, targets: Tensor, *, ridge: float) -> Tensor:
    r"""Linear map from attributes to targets, by least squares with a penalty on its square.

    .. math::
        A = \arg\min_A \|Z A - Y\|^2 + r \|A\|^2
          = Z^\top (Z Z^\top + r I)^{-1} Y = (Z^\top Z + r I)^{-1} Z^\top Y

    in the form whose matrix is smaller: the first for N <= m.

    Args:
        attributes: (N, m) floating, Z; N may be 0, which gives A = 0.
        targets: (N, d) floating, Y.
        ridge: r > 0, in the squared unit of ``attributes``.

    Returns:
        (m, d) float64, in which it is computed: the condition number is that of Z squared, and a
        small r drowns in the rounding of float32. Not finite only if r drowns in float64 too
        (N times the square of an attribute above 1e15 r) or an input is not finite.

    Raises:
        ValueError: ``ridge`` <= 0, or rows that do not match.

    Source: Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023,
    https://arxiv.org/abs/2308.09228, as in the authors' released code,
    https://github.com/yetigurbuz/generalized-sum-pooling, which inverts the first matrix in
    float32, whatever the sizes.

    >>> ridge_regressor(torch.eye(2), torch.tensor([[1.0], [3.0]]), ridge=1.0)
    tensor([[0.5000],
            [1.5000]], dtype=torch.float64)
    """
    check_positive(ridge=ridge)
    check_rows(attributes=attributes, targets=targets)
    _check_as_many("targets", targets, attributes)
    z, y = attributes.double(), targets.double()
    num, size = z.shape
    penalty = ridge * torch.eye(min(num, size), dtype=z.dtype, device=z.device)
    if num <= size:
        dual: Tensor = torch.linalg.solve_ex(z @ z.T + penalty, y)[0]  # (N, d)
        return z.T @ dual
    primal: Tensor = torch.linalg.solve_ex(z.T @ z + penalty, z.T @ y)[0]  # (m, d)
    return primal


def zero_shot_targets(
    attributes: Tensor, targets: Tensor, first: Tensor, *, ridge: float
) -> Tensor:
    r"""What each half of a batch is predicted to have by the regression on the other half.

    .. math::
        \hat Y_1 = Z_1 A_2, \qquad \hat Y_2 = Z_2 A_1

    Args:
        attributes: (B, m) floating, Z.
        targets: (B, d) floating, Y.
        first: (B,) bool, True for rows of the first half. Halves may differ in size.
        ridge: r > 0 of :func:`ridge_regressor`.

    Returns:
        (B, d) in the wider dtype of both, float32 at least; 0 where the other half is empty.

    Raises:
        ValueError: as :func:`ridge_regressor`, or ``first`` has another form.

    Source: that of :func:`ridge_regressor`.
    """
    check_rows(attributes=attributes, targets=targets)
    _check_as_many("targets", targets, attributes)
    check_vector(len(attributes), first=first)
    if first.dtype != torch.bool:
        raise refuse("first", "bool, True for rows of the first half", str(first.dtype))
    of_first = _regressor_of(first, attributes, targets, ridge)
    of_second = _regressor_of(~first, attributes, targets, ridge)
    z = attributes.double()
    predicted = torch.where(first[:, None], z @ of_second, z @ of_first)  # (B, d)
    return predicted.to(_wider(attributes, targets))


def _regressor_of(rows: Tensor, attributes: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Of the rows that a mask chooses. How many that are is known to a CPU alone; elsewhere, and in
    a compiled graph, the others are set to 0, which leaves them out too."""
    if attributes.device.type == "cpu" and not torch.compiler.is_compiling():
        return ridge_regressor(attributes[rows], targets[rows], ridge=ridge)
    return ridge_regressor(attributes.masked_fill(~rows[:, None], 0.0), targets, ridge=ridge)


def alternate_classes(labels: Tensor) -> Tensor:
    """Split a batch by class: every other one, in the order of their numbers.

    Halves never share a class, whatever the order of the rows, and the order does not matter.
    Departure: the authors split by position (even against odd rows), which puts every class in both
    halves if a batch lists its classes one after the other, as pml's ``MPerClassSampler`` does.

    Args:
        labels: (B,) integer.

    Returns:
        (B,) bool, True for the rows of classes in the first half, which has one class more if their
        number is odd.

    >>> alternate_classes(torch.tensor([7, 7, 2, 2, 9, 9]))
    tensor([False, False,  True,  True,  True,  True])
    """
    ordered, order = labels.sort()
    rank = torch.zeros_like(order)
    rank[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return torch.empty_like(order).scatter_(0, order, rank) % 2 == 0


def zero_shot_prediction(
    attributes: Tensor, labels: Tensor, class_vectors: Tensor, *, ridge: float, logit_scale: float
) -> Tensor:
    r"""Cross-entropy of each row for the class vector that was predicted without its class.

    .. math::
        \ell_b = -\log \mathrm{softmax}_{y_b} (s \langle \nu_k, \hat y_b \rangle)_k

    with :math:`\hat Y` = :func:`zero_shot_targets` of :math:`Y = \nu_y`, halves by
    :func:`alternate_classes`, all classes k in the softmax, and nothing normalised. The vectors
    :math:`\nu` are targets of the regression and weights of the classifier; gradients flow through
    both and through the regression. Attributes of 0 cost log K and pull nothing.

    Args:
        attributes: (B, m) floating, Z.
        labels: (B,) int64 in [0, K).
        class_vectors: (K, d) floating, :math:`\nu`.
        ridge: r > 0 of :func:`ridge_regressor`.
        logit_scale: s > 0, in 1 / squared unit of ``class_vectors``.

    Returns:
        (B,) in the wider dtype of both, float32 at least; 0 if there are fewer than two classes in
        the batch, since none can be told from another.

    Raises:
        ValueError: an argument out of its range or of another form.

    Source: that of :func:`ridge_regressor`. Departures: the halves, which may differ in size, and
    no 1e-16 inside the logarithm.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> zero_shot_prediction(
    ...     torch.zeros(2, 4), torch.tensor([0, 2]), vectors, ridge=0.05, logit_scale=9.5
    ... )
    tensor([1.0986, 1.0986])
    """
    check_positive(logit_scale=logit_scale)
    check_rows(attributes=attributes, class_vectors=class_vectors)
    check_vector(len(attributes), labels=labels)
    first = alternate_classes(labels)
    with no_autocast(attributes):
        predicted = zero_shot_targets(attributes, class_vectors[labels], first, ridge=ridge)
        logits = logit_scale * predicted @ class_vectors.to(predicted.dtype).T  # (B, K)
        losses = smoothed_cross_entropy(logits, labels, temperature=1.0, label_smoothing=0.0)
    return losses.masked_fill(first.all(), 0.0)


def _wider(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(at_least_float32(x).dtype, at_least_float32(y).dtype)


def _check_as_many(name: str, rows: Tensor, attributes: Tensor) -> None:
    if len(rows) != len(attributes):
        raise refuse(name, f"{len(attributes)} rows, as `attributes`", f"{len(rows)} rows")
