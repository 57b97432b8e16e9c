"""Cross-entropy against smoothed labels."""

import torch
from torch import Tensor

from pml_extras._checks import check_fraction, check_positive, refuse
from pml_extras.functional.precision import at_least_float32


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, *, temperature: float, label_smoothing: float
) -> Tensor:
    r"""Cross-entropy of each row at a temperature, against smoothed labels.

    .. math::
        \ell_i = -\sum_c q_{ic} \log
        \frac{e^{\lambda_{ic} / T}}{\sum_{c'} e^{\lambda_{ic'} / T}}, \qquad
        q_{ic} = (1 - \epsilon) [c = y_i] + \frac{\epsilon}{C}

    Never less than the entropy of q, so not 0 for :math:`\epsilon > 0` (0.776 for 98 classes at
    0.1).

    Args:
        logits: (B, C) floating, :math:`\lambda` before the temperature.
        labels: (B,) int64 in [0, C), y.
        temperature: T > 0, in the unit of ``logits``.
        label_smoothing: :math:`\epsilon` in [0, 1).

    Returns:
        (B,) in the dtype of ``logits``, or float32 for a half type.

    Raises:
        ValueError: ``temperature`` or ``label_smoothing`` out of its range, or labels of another
            type or shape.

    Source: Seidenschwarz, Elezi, Leal-Taixé, "Learning Intra-Batch Connections for Deep Metric
    Learning", ICML 2021, https://arxiv.org/abs/2102.07753; the smoothing is that of the authors'
    released code, https://github.com/dvl-tum/intra_batch.

    >>> smoothed_cross_entropy(
    ...     torch.zeros(1, 4), torch.tensor([2]), temperature=0.2, label_smoothing=0.1
    ... )
    tensor([1.3863])
    """
    check_positive(temperature=temperature)
    check_fraction(label_smoothing=label_smoothing)
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        expected = f"int64 ({len(logits)},), one class a row of `logits`"
        raise refuse("labels", expected, f"{labels.dtype} {tuple(labels.shape)}")
    return torch.nn.functional.cross_entropy(
        at_least_float32(logits) / temperature,
        labels,
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=torch.iinfo(torch.int64).min,  # torch's own, -100, would cost 0 silently
    )


def smoothing_over_all(label_smoothing: float, num_classes: int) -> float:
    r"""Share of a smoothing over all classes that equals one over the others alone.

    :math:`\epsilon C / (C - 1)`: then :math:`\epsilon / (C - 1)` falls on each class, the true one
    too, and :math:`1 - \epsilon` on the true one in all.

    Args:
        label_smoothing: :math:`\epsilon` in [0, 1 - 1/C), what the true class loses; from there on
            others would be more likely than it.
        num_classes: C >= 2.

    Raises:
        ValueError: ``label_smoothing`` out of its range.

    >>> smoothing_over_all(0.5, 4)
    0.6666666666666666
    """
    check_fraction(label_smoothing=label_smoothing)
    share = label_smoothing * num_classes / (num_classes - 1)
    if share >= 1:
        expected = f"less than 1 - 1 / num_classes = {1 - 1 / num_classes:.6g}"
        raise refuse("label_smoothing", expected, repr(label_smoothing))
    return share
