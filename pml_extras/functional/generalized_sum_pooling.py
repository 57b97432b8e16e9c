"""Generalized sum pooling: which locations an image is pooled from, by optimal transport."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_extras._checks import check_positive, refuse
from pml_extras.functional.first_derivative import first_derivative_only
from pml_extras.functional.precision import at_least_float32

NEWTON_STEPS = {torch.float32: 6, torch.float64: 14}
"""Of the safeguarded solve by type of costs; its bracket is a few units wide at any sharpness."""

LEAST_MASS = 1e-15
"""Below it the weights would not sum to 1 in float64."""

CHUNK_ELEMENTS = 2**18
"""Elements of the largest products that are made to be summed."""


def sum_pooling_weights(
    cost: Tensor,
    *,
    mass: float | Tensor,
    sharpness: float | Tensor,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Weights p of locations and shares z of prototypes, of the smoothed transport of features.

    The fraction :math:`\mu` of the features of an image, n of mass 1 / n each, goes to m prototypes
    at the least cost, smoothed by an entropy; what stays costs nothing:

    .. math::
        \min_{\pi, \rho \ge 0} \sum_{ji} c_{ji} \pi_{ji} + \frac{1}{\varepsilon} \Bigl[
        \sum_{ji} \pi_{ji} (\log \pi_{ji} - 1) + \sum_i \rho_i (\log \rho_i - 1) \Bigr]
        \quad \text{with} \quad \rho_i + \sum_j \pi_{ji} = \frac{1}{n}, \quad
        \sum_{ji} \pi_{ji} = \mu

    Its solution takes one number :math:`\tau` an image, :math:`\varsigma` the logistic function:

    .. math::
        \frac{1}{n} \sum_i \varsigma(s_i + \tau) = \mu, \qquad
        s_i = \log \sum_j e^{-\varepsilon c_{ji}}, \qquad
        a_{ji} = e^{-\varepsilon c_{ji} - s_i}

    .. math::
        p_i = \frac{\varsigma(s_i + \tau)}{n \mu}, \qquad
        z_j = \sum_i a_{ji} p_i, \qquad \pi_{ji} = \mu\, a_{ji} p_i

    Args:
        cost: (B, m, n) floating, of prototype j and location i; half types are computed in float32.
        mass: :math:`\mu` in [1e-15, 1], no unit; 1 is the plain mean, p = 1 / n at any cost.
            A 0-dim tensor gets a gradient and must lie inside (0, 1): it is not read, not checked.
        sharpness: :math:`\varepsilon` > 0 in 1 / unit of ``cost``. Large takes the cheapest
            locations alone, 0 is the mean. A 0-dim tensor gets a gradient and is not checked.
        valid: (B, n) bool, True where a location is one, as of texts padded to one length; n of
            the equations is the number of these. False has p = 0 and gradient 0, whatever its
            costs are. None is True everywhere.

    Returns:
        ((B, n) p, (B, m) z), both >= 0 with sum 1, p at most :math:`1 / (n \mu)`; float32 at least.
        A row without a valid location is 0 throughout.
        Once differentiable, by a closed form: ``create_graph=True`` raises a RuntimeError. Memory:
        one (B, m, n) array beside ``cost``, which the first backward turns into the gradient; hooks
        on saved tensors, and so checkpointing, do not see it.

    Raises:
        ValueError: ``cost`` is no floating (B, m, n) with m, n > 0, ``mass`` or ``sharpness`` is
            out of its range, or ``valid`` is no bool (B, n).

    Source: Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023,
    https://arxiv.org/abs/2308.09228; https://github.com/yetigurbuz/generalized-sum-pooling.
    Departures: that code iterates 100 times towards the solution, by a rate that worsens to 1 with
    mass and sharpness; here Newton's method solves the same equation. ``valid`` is ours.

    >>> cost = torch.tensor([[[0.1, 0.1, 0.9, 1.0]]])
    >>> p, z = sum_pooling_weights(cost, mass=0.5, sharpness=50.0)
    >>> p.round(decimals=4)
    tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
    """
    if not torch.is_tensor(cost) or cost.ndim != 3 or not cost.is_floating_point():
        raise refuse("cost", "a floating tensor (B, m, n)", _came(cost))
    if 0 in cost.shape[1:]:
        raise refuse("cost", "(B, m, n) with m > 0 prototypes, n > 0 locations", tuple(cost.shape))
    _check_scalar("mass", mass)
    _check_scalar("sharpness", sharpness)
    if not torch.is_tensor(mass) and not LEAST_MASS <= mass <= 1:
        raise refuse("mass", f"a fraction in [{LEAST_MASS:g}, 1]", repr(mass))
    cost = at_least_float32(cost)
    if valid is not None:
        check_valid(valid, (len(cost), cost.shape[2]))
    weights: tuple[Tensor, Tensor] = _SumPoolingWeights.apply(
        cost,
        _scalar(mass, cost),
        _scalar(sharpness, cost),
        not torch.is_tensor(mass) and mass == 1,
        valid,
    )
    return weights


def check_valid(valid: Tensor, shape: tuple[int, int]) -> None:
    """Refuse what is no mask of the locations of this (B, n)."""
    if not torch.is_tensor(valid) or valid.dtype != torch.bool or tuple(valid.shape) != shape:
        raise refuse("valid", f"bool {shape}, True where a location is one", _came(valid))


def _check_scalar(name: str, value: float | Tensor) -> None:
    if not torch.is_tensor(value):
        check_positive(**{name: value})
    elif value.ndim != 0 or not value.is_floating_point():
        raise refuse(name, "a number or a floating 0-dim tensor", _came(value))


def _came(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """In the type that the equation is solved in: float64 where the device has it. Of a size that
    the type of the costs has too."""
    dtype = like.dtype if like.device.type == "mps" else torch.float64
    largest = torch.finfo(like.dtype).max
    if torch.is_tensor(value):
        return value.to(like.device, dtype).clamp(max=largest)
    return torch.full((), min(value, largest), dtype=dtype, device=like.device)


def _solve(s: Tensor, n: Tensor, mass: Tensor, steps: int) -> Tensor:
    """(B, 1) tau with mean over i of logistic(s_i + tau) = mass; no value is read on the host.

    ``n`` is (B, 1), or (1, 1) for all: how many i there are; the others have s_i = -inf.
    """
    count = torch.arange(1, s.shape[1] + 1, dtype=s.dtype, device=s.device)
    ordered = s.sort(dim=1, descending=True).values
    # The k largest are at least the k-th: they alone reach the mass at tau = high, any k >= n mass.
    # The others are at most the k-th: with all of k - 1 ones they do not exceed it at tau = low.
    above = (n * mass / count).clamp(max=1).logit()  # inf where k < n mass
    below = (1 - n * (1 - mass) / (n + 1 - count)).clamp(min=0).logit()  # -inf where k > n mass + 1
    high = (above - ordered).amin(dim=1, keepdim=True)  # (B, 1)
    low = (below - ordered).masked_fill(count > n, -math.inf).amax(dim=1, keepdim=True)
    tau = low.lerp(high, 0.5)
    goal = mass.logit()
    for _ in range(steps):
        logistic = (s + tau).sigmoid()
        mean = logistic.sum(dim=1, keepdim=True) / n
        short = mean < mass
        low = torch.where(short, tau, low)
        high = torch.where(short, high, tau)
        # in the log-odds of the mean, whose derivative in tau is slope / (mean (1 - mean)) <= 1
        slope = mean - logistic.square().sum(dim=1, keepdim=True) / n
        newton = tau.addcmul(mean.logit() - goal, (mean - mean.square()) / slope, value=-1)
        inside = (newton >= low) & (newton <= high)  # False for NaN
        tau = torch.where(inside, newton, low.lerp(high, 0.5))
    return tau


class _SumPoolingWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        mass: Tensor,
        sharpness: Tensor,
        all_mass: bool,
        valid: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        least = cost.amin(dim=1)  # (B, n)
        if valid is not None:  # the least of a row is one of a location
            least = least.masked_fill(~valid, torch.finfo(cost.dtype).max)
        kernel = _kernel(cost, least, sharpness, valid)
        total = kernel.sum(dim=1)  # (B, n), in [1, m]
        # Sharp costs have digits to lose here, and there are only (B, n) of them.
        above = least.to(mass.dtype) - least.amin(dim=1, keepdim=True)
        s = total.to(mass.dtype).log() - sharpness * above
        n = s.new_full((1, 1), s.shape[1])
        if valid is not None:
            s = s.masked_fill(~valid, -math.inf)
            n = valid.sum(dim=1, keepdim=True).clamp(min=1).to(s)  # (B, 1)
        x = torch.full_like(s, math.inf)
        if not all_mass:
            x = s + _solve(s, n, mass, NEWTON_STEPS[cost.dtype])
        if valid is not None:
            x = x.masked_fill(~valid, -math.inf)
        p = (x.sigmoid() / (n * mass)).to(cost.dtype)
        z = _sum_over(2, kernel, (p / total)[:, None])
        ctx.save_for_backward(cost, mass, sharpness, least, total, x.to(p.dtype), p, valid)
        ctx.all_mass = all_mass
        ctx.kernel = kernel  # for the first backward, whose result it becomes
        ctx.set_materialize_grads(False)
        return p, z

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_p: Tensor | None, grad_z: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        cost, mass, sharpness, least, total, x, p, valid = ctx.saved_tensors
        if grad_p is None and grad_z is None:
            return (None,) * 5
        kernel, ctx.kernel = ctx.kernel, None
        if kernel is None:  # backward once more, of a retained graph
            kernel = _kernel(cost, least, sharpness, valid)
        # dL/dc_ji = -eps p_i a_ji (v_j - q_i + (1 - sigma_i) (y_i - mean y)), q_i = sum_j a_ji v_j,
        # y = u + q, for gradients u of p and v of z; the mean has weights w = sigma (1 - sigma).
        y = torch.zeros_like(p) if grad_p is None else grad_p
        q = torch.zeros_like(p)
        if grad_z is not None:
            q = _sum_over(1, kernel, grad_z[:, :, None]) / total
            y = y + q
        mean_y = torch.zeros_like(y[:, :1])
        if not ctx.all_mass:
            log_w = F.logsigmoid(x) + F.logsigmoid(-x)  # of a sharp cut all w may round to 0
            w = log_w.softmax(dim=1)
            if valid is not None:  # a row without any has no numbers yet
                w = w.masked_fill(~valid, 0)
            mean_y = (w * y).sum(dim=1, keepdim=True)
        pull = (-x).sigmoid() * (y - mean_y) - q  # (B, n)
        grad_cost = kernel.mul_((-sharpness * (p / total))[:, None])
        if grad_z is None:
            grad_cost.mul_(pull[:, None])
        else:
            for part, v, of_i in _images(grad_cost, grad_z[:, :, None], pull[:, None]):
                part.mul_(v + of_i)
        grad_mass = grad_sharpness = None
        if ctx.needs_input_grad[1]:
            grad_mass = (mean_y[:, 0] - (p * y).sum(dim=1)).sum() / mass
        if ctx.needs_input_grad[2]:
            smallest = least.amin(dim=1)[:, None, None]
            above = cost - smallest
            if valid is not None:
                above.masked_fill_(~valid[:, None], 0)
            grad_sharpness = (above * grad_cost).sum() / sharpness
        return grad_cost, grad_mass, grad_sharpness, None, None


def _kernel(cost: Tensor, least: Tensor, sharpness: Tensor, valid: Tensor | None) -> Tensor:
    """(B, m, n) exp(-eps (c_ji - min_j c_ji)), at most 1; 1 at what is no location."""
    kernel = (cost - least[:, None]).mul_(-sharpness).exp_()
    return kernel if valid is None else kernel.masked_fill_(~valid[:, None], 1)


def _sum_over(dim: int, x: Tensor, factor: Tensor) -> Tensor:
    """(x * factor).sum(dim) of (B, m, n) without an array of that size."""
    return torch.cat([(part * f).sum(dim) for part, f in _images(x, factor)])


def _images(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of all arguments, of a few images each, that fit ``CHUNK_ELEMENTS``."""
    step = max(1, CHUNK_ELEMENTS // x[:1].numel()) if len(x) else 1
    return zip(*(tensor.split(step) for tensor in (x, *others)), strict=True)


def sum_pooling_plan(
    cost: Tensor,
    *,
    mass: float | Tensor,
    sharpness: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    r"""(B, m, n) plan :math:`\pi_{ji} = \mu\, a_{ji} p_i` of :func:`sum_pooling_weights`.

    What location i sends to prototype j: >= 0, at most 1 / n over all j, :math:`\mu` in all.
    Arguments and errors are those of that function.
    """
    p, _ = sum_pooling_weights(cost, mass=mass, sharpness=sharpness, valid=valid)
    if valid is not None:
        cost = cost.masked_fill(~valid[:, None], 0)
    plan: Tensor = mass * p[:, None] * (-sharpness * at_least_float32(cost)).softmax(dim=1)
    return plan
