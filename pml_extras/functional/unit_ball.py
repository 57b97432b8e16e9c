"""Projections onto the unit ball and the distances between them."""

from typing import Any

import torch
from torch import Tensor

from pml_extras._checks import check_rows, refuse
from pml_extras.functional.first_derivative import first_derivative_only
from pml_extras.functional.pairwise import euclidean_distance
from pml_extras.functional.precision import at_least_float32


def unit_ball(v: Tensor) -> Tensor:
    """(..., d) rows of norm at most 1: v / max(1, |v|), identity up to a norm of 1."""
    wide = torch.float64 if v.device.type != "mps" else v.dtype  # a square may not fit float32
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True, dtype=wide)
    return v / torch.where(norm > 1, norm, 1.0).to(v.dtype)


def unit_ball_cost(features: Tensor, prototypes: Tensor) -> Tensor:
    r"""Euclidean distances of projections onto the unit ball, :math:`u(v) = v / \max(1, |v|)`:

    .. math::
        c_{ji} = \lVert u(\omega_j) - u(f_i) \rVert_2

    Float32 is multiplied out in float64: distances are right to 1e-7 however near two points are,
    gradients to 1e-5 from a distance of 1e-5 on and to 1e-3 at 1e-6, without an array of
    differences. Float64, and float32 on a device without float64, goes through
    :func:`pml_extras.functional.euclidean_distance`.

    Args:
        features: (B, n, d) floating, half types are computed in float32.
        prototypes: (m, d) floating, of any such type.

    Returns:
        (B, m, n) in [0, 2], float32 at least; a transposed view, contiguous in m. Gradient 0 where
        points coincide (to 3e-8 of their norms in float32). Once differentiable.

    Raises:
        ValueError: shapes other than these, or no floating tensors.

    Source: Gürbüz et al., "Generalized Sum Pooling for Metric Learning", ICCV 2023, the released
    code: https://github.com/yetigurbuz/generalized-sum-pooling.

    >>> unit_ball_cost(torch.tensor([[[3.0, 4.0], [0.0, 0.5]]]), torch.tensor([[6.0, 8.0]]))
    tensor([[[0.0000, 0.6708]]])
    """
    check_rows(prototypes=prototypes)
    size = prototypes.shape[1]
    if not torch.is_tensor(features) or features.ndim != 3 or not features.is_floating_point():
        is_tensor = torch.is_tensor(features)
        came = f"{features.dtype} {tuple(features.shape)}" if is_tensor else repr(features)
        raise refuse("features", "a floating tensor (B, n, d)", came)
    if features.shape[2] != size:
        raise refuse("features", f"{size} columns, as `prototypes`", f"{features.shape[2]} columns")
    features = at_least_float32(features)
    rows = features.flatten(0, 1)  # (B n, d)
    if rows.dtype == torch.float32 and rows.device.type != "mps":
        balls = unit_ball(prototypes.double())
        distance: Tensor = _UnitBallDistance.apply(rows, balls)
    else:
        distance = euclidean_distance(unit_ball(rows), unit_ball(prototypes.to(rows.dtype)))
    return distance.view(*features.shape[:2], len(prototypes)).transpose(1, 2)


class _UnitBallDistance(torch.autograd.Function):
    """(N, m) distances of u(f_i), f float32, from points of the ball in float64: so is all here,
    and autocast leaves that alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, balls: Tensor) -> Tensor:
        wide = rows.double()
        norm = torch.linalg.vector_norm(wide, dim=1)  # (N,)
        shrink = 1 / norm.clamp(min=1)
        norms = (norm * shrink).square()[:, None] + balls.square().sum(dim=1)  # (N, m)
        squared = (wide @ balls.T).mul_(-2 * shrink[:, None]).add_(norms)
        squared.masked_fill_(squared < norms.mul_(2.0**-50), 0.0)
        distance = squared.sqrt_().to(rows.dtype)
        ctx.save_for_backward(rows, balls, norm, distance)
        return distance

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, balls, norm, distance = ctx.saved_tensors
        shrink = 1 / norm.clamp(min=1)
        wide = rows.double()
        # dL/du_i = sum_j w_ij (u_i - o_j), w = grad / D; then that of u at f_i
        weight = grad.double().div_(distance).masked_fill_(distance == 0, 0.0)  # (N, m)
        along = weight.sum(dim=1)  # of u_i in dL/du_i
        radial = weight @ (1 - balls.square().sum(dim=1)) + (grad * distance).sum(dim=1)
        along = torch.where(norm > 1, along - radial / 2, along)
        grad_balls = weight.sum(dim=0)[:, None] * balls
        weight.mul_(shrink[:, None])
        grad_balls.addmm_(weight.T, wide, alpha=-1)
        grad_rows = wide.mul_((along * shrink.square())[:, None])
        grad_rows.addmm_(weight, balls, alpha=-1)
        return grad_rows.to(rows.dtype), grad_balls
