"""The picture of the potential field shows the energy and the force of the loss."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.reporting import field_picture
from benchmarks.reporting.field_picture import FIELD, HALF, OTHER, OWN, force, plane, potential
from pml_extras.functional import potential_field_energy

A, B = (torch.tensor(points, dtype=torch.float64) for points in (OWN, OTHER))
inside = st.floats(-1, 1)


def at(x: float, y: float) -> Tensor:
    return torch.tensor([[x, y]], dtype=torch.float64)


@given(inside, inside)
def test_the_potential_is_the_energy_of_a_point_among_the_others(x: float, y: float) -> None:
    labels = torch.tensor([0] * len(A) + [1] * len(B))
    energy = potential_field_energy(
        at(x, y), torch.tensor([0]), torch.cat([A, B]), labels, alpha=3.0, delta=0.2
    ).energy
    assert float(potential(at(x, y), A, B, FIELD)) == pytest.approx(float(energy), rel=1e-9)


@given(inside, inside)
def test_the_force_is_minus_the_gradient(x: float, y: float) -> None:
    place = at(x, y).requires_grad_()
    (gradient,) = torch.autograd.grad(potential(place, A, B, FIELD).sum(), place)
    torch.testing.assert_close(force(place.detach(), A, B, FIELD), -gradient, rtol=1e-9, atol=1e-9)


def test_one_point_is_a_flat_well_for_its_class_and_a_hill_for_the_other() -> None:
    places = plane(81)
    source, none = at(0.25, -0.5), torch.empty(0, 2, dtype=torch.float64)
    r = (places - source).norm(dim=1)
    near, far = r < FIELD.delta - 1e-9, r > FIELD.delta + 1e-9  # some lie on the edge
    well, hill = potential(places, source, none, FIELD), potential(places, none, source, FIELD)
    assert (well[near] == well.min()).all()
    assert (well[far] > well.min()).all()
    assert well.min() == pytest.approx(-(0.2**-3))
    assert (hill[far] == 0).all()
    assert hill.argmax() == r.argmin()
    pulled, pushed = force(places, source, none, FIELD), force(places, none, source, FIELD)
    assert (pulled[near] == 0).all()
    assert (pushed[far] == 0).all()
    towards = source - places
    assert ((pulled * towards).sum(1)[far] > 0).all()
    assert ((pushed * towards).sum(1)[near & (r > 0)] < 0).all()


def test_each_class_has_its_lowest_place_among_its_own_points() -> None:
    places = plane(81)
    assert places.min() == -HALF
    assert places[0].tolist() == [-1, -1]
    assert places[1, 0] > places[0, 0]  # x runs first
    for own, other in ((A, B), (B, A)):
        lowest = places[potential(places, own, other, FIELD).argmin()]
        highest = places[potential(places, own, other, FIELD).argmax()]
        assert (own - lowest).norm(dim=1).min() < FIELD.delta
        assert (other - highest).norm(dim=1).min() < 0.05


def test_the_picture_is_the_same_bytes_twice(tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for path in (first, second):
        field_picture.draw(path)
    assert first.read_bytes() == second.read_bytes()
