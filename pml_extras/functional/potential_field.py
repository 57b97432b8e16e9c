"""Energy of labelled points in the potential field of one another."""

from typing import NamedTuple

from torch import Tensor

from pml_extras._checks import check_rows, check_vector, refuse
from pml_extras.functional.dense_field import energy_of_squares
from pml_extras.functional.field import Field, check_field
from pml_extras.functional.field_energy import Points, Term, field_energy
from pml_extras.functional.precision import at_least_float32


class FieldEnergy(NamedTuple):
    """What a field costs: ``energy`` carries the gradient, its two parts are for reading.

    ``energy = excess + repulsion + constant``, the constant being the weighted number of
    same-class pairs times the depth of the well, :math:`-\\delta^{-\\alpha}`.
    """

    energy: Tensor
    """U0, 0-dim."""
    excess: Tensor
    """Attraction above the bottom of the well, >= 0, 0-dim, detached."""
    repulsion: Tensor
    """Repulsion above its value at ``delta_rep``, >= 0, 0-dim, detached."""


def potential_field_energy(
    points: Tensor,
    labels: Tensor,
    sources: Tensor | None = None,
    source_labels: Tensor | None = None,
    *,
    alpha: float,
    delta: float,
    delta_rep: float | None = None,
    core_radius: float = 0.01,
    weight: Tensor | None = None,
) -> FieldEnergy:
    r"""Energy U0 of test points in the field of sources of their own and of other classes.

    .. math::
        U_0 &= \sum_a w_a \Big( \sum_{b: y_b = y_a} \psi_{att}(r_{ab})
             + \sum_{b: y_b \ne y_a} \psi_{rep}(r_{ab}) - \delta_{rep}^{-\alpha} \Big),
             \qquad r_{ab} = \lVert x_a - x_b \rVert_2 \\
        \psi_{att}(r) &= -\max(r, \delta)^{-\alpha} \qquad
        \psi_{rep}(r) = \min(r, \delta_{rep})^{-\alpha}

    and the gradient in closed form, built with the value (an unordered pair inside one set is
    counted in both directions, so its weight is :math:`w_a + w_b`):

    .. math::
        \frac{\partial U_0}{\partial x_a} = \sum_b (w_a + w_b) \, \omega_{ab} (x_a - x_b), \qquad
        \omega_{ab} = \begin{cases}
            \alpha r^{-(\alpha + 2)} & y_a = y_b,\; r \ge \delta \\
            -\alpha r^{-(\alpha + 2)} & y_a \ne y_b,\; r < \delta_{rep} \\
            0 & \text{otherwise} \end{cases}

    Every pair with a force is taken from its difference :math:`x_a - x_b`; products of tiles only
    search for pairs of different classes inside ``delta_rep``. Memory: O((T + S) D) and a tile.

    Args:
        points: (T, D) floating, the test charges; half types are computed in float32. On the unit
            sphere for the loss.
        labels: (T,) their classes.
        sources: (S, D), what makes the field; None: the points themselves, without self terms.
        source_labels: (S,), given with ``sources``.
        alpha: decay exponent >= 0 of the potential; 0 is the limit of :math:`\psi / \alpha`,
            :math:`\psi_{att} = \ln \max(r, \delta)`, :math:`\psi_{rep} = -\ln \min(r, \delta)`.
        delta: radius > 0 inside which points of one class feel nothing, in units of distance.
        delta_rep: radius > 0 outside which points of two classes feel nothing; None is ``delta``.
        core_radius: below it repulsion goes on as its tangent, so that its force is at most
            :math:`\alpha r_c^{-(\alpha + 1)}`; at most ``delta_rep``. 0 is the published singular
            form: infinite where points of two classes coincide.
        weight: (T,) :math:`w_a`, without gradient; None is 1.

    Returns:
        The energy, differentiable once (``dense_potential_field_energy`` for more), and its parts.

    Raises:
        ValueError: a shape that does not fit, or a number out of its range.

    Source: Bhatnagar and Ahuja, Potential Field Based Deep Metric Learning, CVPR 2025, Eq. 1-6,
    https://arxiv.org/abs/2405.18560. Departures, none of which changes the gradient: self terms
    (:math:`-T \delta^{-\alpha}`) and the constant of repulsion beyond ``delta_rep`` are left out.
    Departures that do: the core (none is documented), the limit at ``alpha = 0`` (the literal
    formula has no force there), a zero force between coincident points of two classes.

    >>> import torch
    >>> points = torch.tensor([[0, 0], [0.5, 0], [0.1, 0], [1, 1]], dtype=torch.float64)
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> energy = potential_field_energy(points, labels, alpha=3.0, delta=0.2).energy
    >>> f"{energy:.9f}"
    '1733.178680501'
    """
    field = _check(points, labels, sources, source_labels, weight, alpha, delta, delta_rep,
                   core_radius)  # fmt: skip
    sets, term = [Points(points, labels)], Term(0, None, weight)
    if sources is not None and source_labels is not None:
        sets, term = [*sets, Points(sources, source_labels)], Term(0, 1, weight)
    energy, excess, repulsion = field_energy(sets, [term], field)
    return FieldEnergy(energy, excess[0], repulsion[0])


def dense_potential_field_energy(
    points: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    delta: float,
    delta_rep: float | None = None,
    core_radius: float = 0.01,
    weight: Tensor | None = None,
) -> Tensor:
    r"""The energy of ``potential_field_energy`` by automatic differentiation of (T, T) matrices.

    For second and higher derivatives, at O(T^2 D) memory. Same arguments; the points are their
    own sources.

    Returns:
        U0, 0-dim.
    """
    field = _check(points, labels, None, None, weight, alpha, delta, delta_rep, core_radius)
    points = at_least_float32(points)
    squared = (points[:, None] - points).square().sum(dim=2)  # (T, T)
    return energy_of_squares(squared, labels[:, None] == labels, weight, field, itself=True)


def _check(
    points: Tensor,
    labels: Tensor,
    sources: Tensor | None,
    source_labels: Tensor | None,
    weight: Tensor | None,
    alpha: float,
    delta: float,
    delta_rep: float | None,
    core_radius: float,
) -> Field:
    check_rows(points=points)
    check_vector(len(points), labels=labels)
    if (sources is None) != (source_labels is None):
        given = "sources alone" if source_labels is None else "source_labels alone"
        raise refuse("source_labels", "to be given with `sources`", given)
    if sources is not None and source_labels is not None:
        check_rows(sources=sources)
        check_vector(len(sources), source_labels=source_labels)
        if sources.shape[1] != points.shape[1]:
            raise refuse("sources", f"{points.shape[1]} columns", f"{sources.shape[1]} columns")
    if weight is not None:
        check_vector(len(points), weight=weight)
        if weight.requires_grad:
            raise refuse("weight", "no gradient", "requires_grad=True", "Call .detach() on it.")
    return check_field(alpha, delta, delta_rep, core_radius)
