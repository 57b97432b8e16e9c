"""The shape of a potential field: attraction inside a class, repulsion between two."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pml_extras._checks import check_non_negative, check_positive, refuse

_LARGEST_FORCE = 1e19  # times 1 / the root of the smallest number, it still fits float32


class Field(NamedTuple):
    """The shape of both potentials."""

    alpha: float
    delta: float
    delta_rep: float
    core_radius: float

    @property
    def force(self) -> float:
        """Factor of r^-(alpha + 1) in the force; the limit of psi / alpha at alpha = 0."""
        return self.alpha if self.alpha > 0 else 1.0

    @property
    def well(self) -> float:
        """Bottom of the attraction."""
        return self.attraction_at(self.delta)

    def attraction_at(self, r: float) -> float:
        return -(r**-self.alpha) if self.alpha > 0 else math.log(r)

    def attraction(self, r: Tensor) -> Tensor:
        """Exactly ``well`` inside ``delta``."""
        outer = r.clamp(min=self.delta)
        value = -(outer**-self.alpha) if self.alpha > 0 else outer.log()
        return value.masked_fill(r < self.delta, self.well)

    def repulsion(self, r: Tensor) -> Tensor:
        """Above its value from ``delta_rep`` outwards, where it is exactly 0."""
        core = self.core_radius
        shell = r.clamp(min=core, max=self.delta_rep)
        value = shell**-self.alpha if self.alpha > 0 else -shell.log()
        value = value + self.attraction_at(self.delta_rep)
        if core > 0:
            slope = self.force * core ** -(self.alpha + 1)
            value = value + slope * (core - r).clamp(min=0)
        return value.masked_fill(r >= self.delta_rep, 0.0)

    def attraction_weight(self, r: Tensor) -> Tensor:
        """Force over r, on the way to the gradient w (x_a - x_b)."""
        outer = r.clamp(min=self.delta)
        return (self.force * outer ** -(self.alpha + 2)).masked_fill(r < self.delta, 0.0)

    def repulsion_weight(self, r: Tensor) -> Tensor:
        """Minus force over r; 0 where points coincide, since no direction exists there."""
        shell = r.clamp(min=self.core_radius)
        smallest = torch.finfo(r.dtype).tiny ** 0.5  # below it, squares have no digits
        weight = -self.force * shell ** -(self.alpha + 1) / r.clamp(min=smallest)
        return weight.masked_fill((r >= self.delta_rep) | (r == 0), 0.0)


def check_field(alpha: float, delta: float, delta_rep: float | None, core_radius: float) -> Field:
    """Refuse numbers out of their range, by name."""
    check_non_negative(alpha=alpha, core_radius=core_radius)
    check_positive(delta=delta)
    if delta_rep is None:
        delta_rep = delta
    check_positive(delta_rep=delta_rep)
    if core_radius > delta_rep:
        raise refuse("core_radius", f"at most delta_rep = {delta_rep}", repr(core_radius),
                     "The core lies inside the radius of repulsion.")  # fmt: skip
    field = Field(float(alpha), float(delta), float(delta_rep), float(core_radius))
    strongest = core_radius if core_radius > 0 else min(delta, delta_rep)
    exponent = math.log(field.force) - (alpha + 1) * math.log(strongest)
    if exponent > math.log(_LARGEST_FORCE):
        name = "core_radius" if core_radius > 0 else "delta"
        raise refuse(
            name,
            f"a force of at most {_LARGEST_FORCE:.0e}, which float32 can hold",
            f"{strongest!r} with alpha = {alpha!r}, a force of 1e{exponent / math.log(10):.0f}",
            f"Raise {name} or lower alpha.",
        )
    return field
