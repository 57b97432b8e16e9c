"""Energy of a potential field from matrices of all pairs, by automatic differentiation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pml_extras.functional.field import Field
from pml_extras.functional.field_energy import Points, Term
from pml_extras.functional.precision import at_least_float32
from pml_extras.functional.rows import without_gradient_at_zero


def energy_of_squares(
    squared: Tensor, same: Tensor, weight: Tensor | None, field: Field, *, itself: bool
) -> Tensor:
    """Energy of squared distances, whose gradient stays finite where they are 0.

    Args:
        squared: (T, S), none below 0.
        same: (T, S) bool, of one class.
        weight: (T,) or None for 1.
        field: from ``check_field``.
        itself: the sources are the test points: no self terms.

    Returns:
        0-dim.
    """
    coincide = squared == 0
    r = squared.masked_fill(coincide, 1.0).sqrt().masked_fill(coincide, 0.0)
    psi = torch.where(same, field.attraction(r), field.repulsion(r))
    if itself:
        psi = psi.masked_fill(torch.eye(len(psi), dtype=torch.bool, device=psi.device), 0.0)
    if weight is not None:
        psi = weight.to(psi.dtype)[:, None] * psi
    return psi.sum()


def dense_field_energy(sets: Sequence[Points], terms: Sequence[Term], field: Field) -> Tensor:
    """The energy of ``field_energy(..., unit=True)`` from (T, S) matrices, to compile.

    No operation of it depends on values, so it becomes one graph. Squared distances come from
    products in float64, which leaves those of points in float32 as exact as from differences;
    points nearer than the root of their error, 1e-6, count as coincident.

    Returns:
        0-dim, in the type of the sets, float32 at least.
    """
    dtype = at_least_float32(sets[0].rows).dtype
    rows = [
        torch.nn.functional.normalize(without_gradient_at_zero(at_least_float32(x.rows))).double()
        for x in sets
    ]
    norms = [x.square().sum(dim=1) for x in rows]
    error = 4 * (rows[0].shape[1] + 4) * torch.finfo(torch.float64).eps
    energy = rows[0].new_zeros(())
    for term in terms:
        a, b = term.points, term.points if term.sources is None else term.sources
        squared = norms[a][:, None] + norms[b] - 2 * rows[a] @ rows[b].T  # (T, S)
        squared = squared.masked_fill(squared <= error, 0.0)
        same = sets[a].labels[:, None] == sets[b].labels
        itself = term.sources is None
        energy = energy + energy_of_squares(squared, same, term.weight, field, itself=itself)
    return energy.to(dtype)
