"""Running means of the losses of an ensemble, and factors that bring losses to a common one."""

import math
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from pml_extras._checks import refuse
from pml_extras.functional.loss_ensemble import scale_factors
from pml_extras.weighting.base import ROUNDING


def batch_factors(
    raw: Tensor,
    running_mean: Tensor,
    num_batches: Tensor,
    *,
    names: Sequence[str],
    momentum: float | None,
    max_scale: float | None,
    training: bool,
) -> Tensor:
    """Factor of each loss; in training mode the batch is counted first.

    In plain numbers: of a handful of them, tensors would cost more than the losses' own work. In a
    compiled graph it is one operator, which waits for the device as well.

    Args:
        raw: (m,) values of the batch.
        running_mean: (m,), written in training mode.
        num_batches: (m,) int64, likewise.
        names: of the m losses, identifiers.
        momentum: share of the past in an exponential mean; None is the mean of all batches.
        max_scale: cap of a factor.
        training: count the batch.

    Returns:
        (m,) in the dtype of ``raw``.

    Raises:
        ValueError: a loss is negative.
    """
    settings = ",".join(names), momentum, max_scale, training
    if torch.compiler.is_compiling():
        factors: Tensor = _operator(raw, running_mean, num_batches, *settings)
        return factors
    return _factors(raw, running_mean, num_batches, *settings)


def _factors(
    raw: Tensor,
    running_mean: Tensor,
    num_batches: Tensor,
    names: str,
    momentum: Optional[float],  # noqa: UP045  # the form that operators of torch 2.4 know
    max_scale: Optional[float],  # noqa: UP045
    training: bool,
) -> Tensor:
    state = torch.cat([raw, running_mean.to(raw), num_batches.to(raw)]).tolist()
    values, means, counts = (state[k * len(raw) : (k + 1) * len(raw)] for k in range(3))
    for name, value in zip(names.split(","), values, strict=True):
        if value < -ROUNDING:
            expected = "a value >= 0, whose mean is a scale"
            raise refuse(f"losses[{name!r}]", expected, f"{value:.6g}", "Pass scale=None.")
    if training:
        for j, value in enumerate(values):
            if math.isfinite(value):
                counts[j] += 1
                means[j] += _share(counts[j], momentum) * (max(value, 0.0) - means[j])
        running_mean.copy_(torch.tensor(means, dtype=running_mean.dtype))
        num_batches.copy_(torch.tensor(counts))
    return raw.new_tensor(scale_factors(means, max_scale=max_scale))


def _share(num: float, momentum: float | None) -> float:
    """Of the last of ``num`` batches in their mean, whose shares sum to 1."""
    return 1 / num if momentum is None else (1 - momentum) / (1 - momentum**num)


_operator = torch.library.custom_op(
    "pml_extras::batch_factors", _factors, mutates_args=("running_mean", "num_batches")
)


@_operator.register_fake
def _(raw: Tensor, *_: object) -> Tensor:
    return torch.empty_like(raw)
