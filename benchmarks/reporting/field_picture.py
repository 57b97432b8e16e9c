"""The potential field of two classes in a plane, and what one point does to another by distance.

As the paper's pictures: embeddings are points of a plane here, where the loss has them on a sphere.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.reporting.plots import INK, dress
from pml_extras.functional.field import Field, check_field

FILE = "potential_field.png"
FIELD = check_field(alpha=3.0, delta=0.2, delta_rep=None, core_radius=0.01)
OWN = ((-0.62, 0.30), (-0.50, 0.42), (-0.45, 0.22), (-0.35, -0.48), (-0.22, -0.55))
OTHER = ((0.30, 0.10), (0.44, 0.20), (0.38, -0.06), (-0.28, -0.34))
"""Of two classes; the second has a point beside the lower part of the first."""
HALF, STEPS, ARROWS = 1.0, 201, 21  # of the plane: half its side, points and arrows along it
RED, BLUE = "#b2182b", "#2166ac"
LARGEST = 300.0  # of the colours; beyond it they stay the same


def potential(places: Tensor, own: Tensor, other: Tensor, field: Field) -> Tensor:
    """What a point of the first class has at each place.

    Args:
        places: (N, 2).
        own: (S, 2) points of its class.
        other: (T, 2) points of another class.
        field: shape of both potentials.

    Returns:
        (N,), attraction from 0 far away, repulsion from 0 beyond ``delta_rep``.
    """
    return field.attraction(torch.cdist(places, own)).sum(1) + field.repulsion(
        torch.cdist(places, other)
    ).sum(1)


def force(places: Tensor, own: Tensor, other: Tensor, field: Field) -> Tensor:
    """Minus the gradient of ``potential``: (N, 2), where a point is pulled."""
    pull = torch.zeros_like(places)
    for sources, weight in ((own, field.attraction_weight), (other, field.repulsion_weight)):
        step = places[:, None] - sources  # (N, S, 2)
        pull -= (weight(step.norm(dim=2))[..., None] * step).sum(1)
    return pull


def plane(count: int) -> Tensor:
    """(count * count, 2) places, row after row from the lower left corner."""
    line = torch.linspace(-HALF, HALF, count, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def draw(path: Path) -> None:
    """Both potentials by distance, then the field that each class feels."""
    figure = Figure(figsize=(13, 4.4), layout="constrained", dpi=110)
    by_distance, *planes = figure.subplots(1, 3)
    _by_distance(by_distance)
    points = {
        name: torch.tensor(of, dtype=torch.float64) for name, of in (("A", OWN), ("B", OTHER))
    }
    for axis, (name, others) in zip(planes, (("A", "B"), ("B", "A")), strict=True):
        _plane(axis, points[name], points[others], f"what a point of class {name} feels")
        for of, colour in (("A", RED), ("B", BLUE)):
            axis.plot(*points[of].T, "o", color=colour, ms=6, mec="white", label=f"class {of}")
        axis.legend(loc="upper right", frameon=True, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def _by_distance(axis: Axes) -> None:
    r = torch.linspace(0.12, 1, 400, dtype=torch.float64)
    values: Sequence[tuple[Tensor, str, str]] = (
        (FIELD.attraction(r), RED, "to one of its own class"),
        (FIELD.repulsion(r), BLUE, "to one of another class"),
    )
    for value, colour, label in values:
        axis.plot(r, value, color=colour, lw=2, label=label)
    axis.axvline(FIELD.delta, color=INK, lw=0.8, ls=":")
    dress(
        axis, f"potential by distance, exponent {FIELD.alpha:g}, radius {FIELD.delta:g}", "distance"
    )
    axis.legend(frameon=False, fontsize=9)


def _plane(axis: Axes, own: Tensor, other: Tensor, title: str) -> None:
    values = potential(plane(STEPS), own, other, FIELD).reshape(STEPS, STEPS).numpy()
    axis.imshow(
        values,
        origin="lower",
        extent=(-HALF, HALF, -HALF, HALF),
        cmap="PuOr_r",
        norm=SymLogNorm(linthresh=5, vmin=-LARGEST, vmax=LARGEST),
        interpolation="bilinear",
    )
    places = plane(ARROWS)
    pull = force(places, own, other, FIELD)
    length = pull.norm(dim=1, keepdim=True)
    felt = length[:, 0] > 1e-9
    x, y = places[felt].T.numpy()
    u, v = (pull / length)[felt].T.numpy()
    axis.quiver(x, y, u, v, np.log1p(length[felt, 0].numpy()), cmap="Greys", scale=38, width=0.004)
    dress(axis, title, "")
    axis.grid(visible=False)
    axis.set(xlim=(-HALF, HALF), ylim=(-HALF, HALF), aspect="equal")
    axis.tick_params(labelbottom=False, labelleft=False)
