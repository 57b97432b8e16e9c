from math import cos, hypot, pi, sin

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pml_extras.functional import (
    close_pairs,
    dense_potential_field_energy,
    field,
    pairwise,
    potential_field_energy,
)
from tests.oracles import potential_field as oracle
from tests.strategies import batches, batches_with_references

alphas = st.sampled_from((0.0, 0.5, 1.0, 3.0, 6.0))
radii = st.floats(0.05, 1.2)
weights = st.lists(st.floats(0, 3), min_size=8, max_size=8)


def away_from_the_kinks(x, y, *radii):
    """The force jumps at the radii: neither side of a jump is wrong there."""
    for a in x.tolist():
        for b in y.tolist():
            r = hypot(*(u - v for u, v in zip(a, b, strict=True)))
            assume(all(abs(r - radius) > 1e-9 for radius in radii))


def assert_close_to_oracle(actual, expected, grad, expected_grad, strength):
    assert abs(actual.item() - expected) <= 1e-10 * max(1.0, abs(expected))
    # Forces on one point may cancel: the error is relative to what was summed.
    bound = 1e-10 * torch.tensor(strength, dtype=torch.float64)[:, None] + 1e-12
    assert ((grad - torch.tensor(expected_grad, dtype=torch.float64)).abs() <= bound).all()


@given(batches(), weights, alphas, radii, radii, st.sampled_from((0.0, 0.01, 0.04)))
def test_own_field_agrees_with_the_equation(batch, weight, alpha, delta, delta_rep, core):
    x, labels = batch
    away_from_the_kinks(x, x, delta, delta_rep, core)
    if core == 0.0:  # infinite at coincident points of two classes
        r = (x[:, None] - x).norm(dim=2)
        assume(not ((r < 1e-3) & (labels[:, None] != labels)).any())
    w = torch.tensor(weight[: len(x)], dtype=torch.float64)
    x.requires_grad_()
    actual = potential_field_energy(
        x, labels, alpha=alpha, delta=delta, delta_rep=delta_rep, core_radius=core, weight=w
    )
    expected, at_x, at_source, strength, source_strength = oracle.field(
        x.tolist(), labels.tolist(), x.tolist(), labels.tolist(), w.tolist(),
        alpha, delta, delta_rep, core, True,
    )  # fmt: skip
    actual.energy.backward()
    total = [
        [u + v for u, v in zip(a, b, strict=True)] for a, b in zip(at_x, at_source, strict=True)
    ]
    strength = [u + v for u, v in zip(strength, source_strength, strict=True)]
    assert_close_to_oracle(actual.energy, expected, x.grad, total, strength)


@given(batches_with_references(), weights, alphas, radii, radii)
def test_field_of_sources_agrees_with_the_equation(batch, weight, alpha, delta, delta_rep):
    x, labels, y, y_labels = batch
    away_from_the_kinks(x, y, delta, delta_rep, 0.01)
    w = torch.tensor(weight[: len(x)], dtype=torch.float64)
    x.requires_grad_()
    y.requires_grad_()
    actual = potential_field_energy(
        x, labels, y, y_labels, alpha=alpha, delta=delta, delta_rep=delta_rep, weight=w
    )
    expected, at_x, at_y, strength, source_strength = oracle.field(
        x.tolist(), labels.tolist(), y.tolist(), y_labels.tolist(), w.tolist(),
        alpha, delta, delta_rep, 0.01, False,
    )  # fmt: skip
    actual.energy.backward()
    assert_close_to_oracle(actual.energy, expected, x.grad, at_x, strength)
    assert_close_to_oracle(actual.energy, expected, y.grad, at_y, source_strength)


def on_the_sphere(num=40, size=8):
    torch.manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(num, size, dtype=torch.float64))
    labels = torch.arange(num) % 5
    x[:6] = torch.nn.functional.normalize(x[:1] + 0.1 * x[:6])  # inside delta, two classes and more
    return x, labels


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, 3.0, 4.5, 6.0])
@pytest.mark.parametrize("delta", [0.1, 0.2, 0.3])
def test_closed_form_is_the_derivative_of_the_dense_form(alpha, delta):
    x, labels = on_the_sphere()
    x.requires_grad_()
    fused = potential_field_energy(x, labels, alpha=alpha, delta=delta)
    dense = dense_potential_field_energy(x, labels, alpha=alpha, delta=delta)
    (from_fused,) = torch.autograd.grad(fused.energy, x)
    (from_dense,) = torch.autograd.grad(dense, x)
    assert fused.repulsion > 0
    assert (fused.energy - dense).abs() <= 1e-12 * dense.abs()
    torch.testing.assert_close(
        from_fused, from_dense, rtol=1e-12, atol=1e-12 * from_dense.abs().max().item()
    )


def test_golden_value_in_the_plane():
    x = torch.tensor([[0, 0], [0.5, 0], [0.1, 0], [1, 1]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    energy = potential_field_energy(x, labels, alpha=3.0, delta=0.2).energy
    energy.backward()
    well = 0.2**-3
    assert energy.item() == pytest.approx(1733.178680501384, rel=1e-14)
    assert (energy + 8 * well).item() == pytest.approx(2733.178680501384, rel=1e-14)
    assert (energy + 8 * well - 4 * well).item() == pytest.approx(2233.178680501384, rel=1e-14)
    expected = [
        [59904, 0],
        [96, 0],
        [-60001.22517273272, -1.3613030363795355],
        [1.225172732741582, 1.3613030363795355],
    ]
    torch.testing.assert_close(x.grad, x.new_tensor(expected), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("alpha", "delta", "expected"),
    [(3.0, 0.2, 6144.074466844186), (1.0, 0.1, 59.00262746270419), (6.0, 0.3, 9075445.140036788)],
)
def test_golden_value_on_the_circle(alpha, delta, expected):
    angles = [pi / 180 * a for a in (0, 10, 60, 5, 200)]
    x = torch.tensor([[cos(a), sin(a)] for a in angles], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1])
    energy = potential_field_energy(x, labels, alpha=alpha, delta=delta).energy
    different, itself = 12, 5
    with_constants = energy.item() + (different - itself) * delta**-alpha
    assert with_constants == pytest.approx(expected, rel=1e-13)
    if alpha == 3.0:
        energy.backward()
        tangent = x.new_tensor([[-sin(a), cos(a)] for a in angles])
        golden = [
            103485.06248525617, -103500.91266832274, 15.850183066643112, 0.05065877352806,
            -0.05065877360058,
        ]  # fmt: skip
        torch.testing.assert_close(
            (x.grad * tangent).sum(dim=1), x.new_tensor(golden), rtol=1e-8, atol=1e-9
        )


def energy_of(x, labels, **kwargs):
    return potential_field_energy(x, labels, **{"alpha": 3.0, "delta": 0.2, **kwargs}).energy


def gradient_of(x, labels, **kwargs):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(energy_of(x, labels, **kwargs), x)[0]


def test_forces_sum_to_zero():
    x, labels = on_the_sphere()
    grad = gradient_of(x, labels)
    assert grad.sum(dim=0).abs().max() <= 1e-12 * grad.abs().max()


def test_energy_does_not_see_rotation_translation_order_or_names():
    x, labels = on_the_sphere()
    energy = energy_of(x, labels)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    order = torch.randperm(len(x))
    renamed = torch.tensor([9, -4, 2**40, 0, 7])[labels]
    for same in (
        energy_of(x @ rotation, labels),
        energy_of(x + 3.0, labels),
        energy_of(x[order], labels[order]),
        energy_of(x, renamed),
    ):
        assert same.item() == pytest.approx(energy.item(), rel=1e-12)


def test_energy_scales_with_length():
    x, labels = on_the_sphere()
    scaled = energy_of(5 * x, labels, delta=1.0, core_radius=0.05)
    assert scaled.item() == pytest.approx(5**-3 * energy_of(x, labels).item(), rel=1e-11)


def test_field_of_a_union_is_the_sum_of_fields():
    x, labels = on_the_sphere()
    fields = [
        energy_of(x[:7], labels[:7], sources=x[part], source_labels=labels[part])
        for part in (slice(0, 40), slice(0, 11), slice(11, 40))
    ]
    assert fields[0].item() == pytest.approx((fields[1] + fields[2]).item(), rel=1e-12)


def test_detached_sources_give_half_of_the_gradient():
    x, labels = on_the_sphere()
    test = x.clone().requires_grad_()
    energy_of(test, labels, sources=x, source_labels=labels).backward()
    torch.testing.assert_close(test.grad, gradient_of(x, labels) / 2, rtol=1e-13, atol=1e-9)


def test_pull_decays_with_distance_and_ends_inside_delta():
    labels = torch.tensor([0, 0])

    def pull(r):
        x = torch.tensor([[0.0], [r]], dtype=torch.float64)
        return gradient_of(x, labels)[1].item()

    assert pull(0.19) == 0.0
    assert pull(1.0) / pull(0.5) == pytest.approx(2**-4)
    assert pull(0.5) == pytest.approx(2 * 3 * 0.5**-4)  # both directions of the pair


def test_repulsion_ends_at_its_own_radius():
    labels = torch.tensor([0, 1])
    x = torch.tensor([[0.0], [0.25]], dtype=torch.float64)
    assert (gradient_of(x, labels) == 0).all()
    grad = gradient_of(x, labels, delta_rep=0.3)
    assert grad[0].item() == pytest.approx(2 * 3 * 0.25**-4)
    assert energy_of(x, labels).item() == 0.0


def test_force_in_the_core_keeps_its_direction_and_its_cap():
    x = torch.tensor([[0.0, 0.0], [3e-5, 4e-5]], dtype=torch.float64)
    grad = gradient_of(x, torch.tensor([0, 1]))
    cap = 2 * 3 * 0.01**-4
    torch.testing.assert_close(grad[0], x.new_tensor([0.6, 0.8]) * cap)
    torch.testing.assert_close(grad[1], -grad[0])


def test_singular_form_is_infinite_where_classes_coincide():
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert energy_of(x, torch.tensor([0, 1]), core_radius=0.0).isposinf()


def test_isolated_point_keeps_its_well_until_a_crowd_is_large_enough():
    """n same-class sources at R = 1 empty the well iff n >= ((R - delta) / delta)^(alpha + 1)."""

    def slope_at_the_edge(n):
        edge = torch.tensor([[0.2 + 1e-9]], dtype=torch.float64, requires_grad=True)
        sources = torch.tensor([[0.0]] + [[1.0]] * n, dtype=torch.float64)
        labels = torch.zeros(n + 1, dtype=torch.int64)
        energy_of(edge, labels[:1], sources=sources, source_labels=labels).backward()
        return edge.grad.item()

    assert slope_at_the_edge(255) > 0  # a barrier: energy rises on the way out
    assert slope_at_the_edge(257) < 0


@pytest.mark.parametrize(("dim", "sign"), [(4, -1), (5, 0), (7, 1)])
def test_laplacian_of_attraction_changes_sign_at_dim_alpha_plus_2(dim, sign):
    x = torch.randn(2, dim, dtype=torch.float64)

    def field(moved):
        return dense_potential_field_energy(
            torch.stack([moved, x[1]]), torch.tensor([0, 0]), alpha=3.0, delta=0.2
        )

    laplacian = torch.autograd.functional.hessian(field, x[0]).diagonal().sum()
    r = (x[0] - x[1]).norm()
    expected = 2 * 3 * (dim - 5) * r**-5
    torch.testing.assert_close(laplacian, expected, rtol=1e-9, atol=1e-9)
    assert sign == expected.sign()


def test_two_far_classes_at_rest_cost_their_wells_and_pull_nothing():
    x = torch.tensor([[0.0], [0.1], [1.0], [1.15]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    result = potential_field_energy(x, labels, alpha=3.0, delta=0.2)
    assert result.energy.item() == pytest.approx(-4 * 0.2**-3)
    assert result.excess == result.repulsion == 0
    assert (gradient_of(x, labels) == 0).all()


def test_parts_sum_to_the_energy_up_to_the_wells():
    x, labels = on_the_sphere()
    result = potential_field_energy(x, labels, alpha=3.0, delta=0.2)
    wells = ((labels[:, None] == labels).sum() - len(x)).item() * 0.2**-3
    assert not result.excess.requires_grad
    parts = result.excess + result.repulsion - wells
    assert parts.item() == pytest.approx(result.energy.item(), rel=1e-12)


def test_far_pair_beside_a_deep_well_keeps_its_digits():
    x = torch.tensor([[0.0], [0.9]])
    energy = energy_of(x, torch.tensor([0, 0]), alpha=6.0, delta=0.05)
    assert energy.item() == pytest.approx(-2 * 0.9**-6, rel=1e-6)


def test_float32_keeps_six_digits():
    x, labels = on_the_sphere()
    x = x.float()
    exact = potential_field_energy(x.double(), labels, alpha=3.0, delta=0.2).energy
    assert energy_of(x, labels).item() == pytest.approx(exact.item(), rel=2e-6)
    expected = gradient_of(x.double(), labels)
    error = (gradient_of(x, labels).double() - expected).abs().max()
    assert error <= 2e-6 * expected.abs().max()


def test_several_chunks_are_one(monkeypatch):
    x, labels = on_the_sphere()
    energy, grad = energy_of(x, labels), gradient_of(x, labels)
    monkeypatch.setattr(pairwise, "CHUNK_ELEMENTS", 64)
    assert energy_of(x, labels).item() == pytest.approx(energy.item(), rel=1e-13)
    torch.testing.assert_close(gradient_of(x, labels), grad, rtol=1e-11, atol=1e-9)


def test_no_gradient_is_built_without_need(monkeypatch):
    x, labels = on_the_sphere()
    x.requires_grad_()

    def fail(*_):
        raise AssertionError("a gradient was built")

    monkeypatch.setattr(field.Field, "attraction_weight", fail)
    with torch.no_grad():
        assert not energy_of(x, labels).requires_grad
    energy_of(x.detach(), labels)
    with pytest.raises(AssertionError, match="a gradient was built"):
        energy_of(x, labels)


def test_second_derivative_is_refused_not_wrong():
    x, labels = on_the_sphere()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(energy_of(x, labels), x, create_graph=True)
    penalised = energy_of(x, labels) + grad.square().sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        penalised.backward()


def test_gradcheck():
    x, labels = on_the_sphere(12, 3)
    x.requires_grad_()
    y = on_the_sphere(9, 3)[0].flip(0).clone().requires_grad_()
    options = {"alpha": 1.0, "delta": 0.5, "delta_rep": 0.7}

    def value(a, b):
        own = potential_field_energy(a, labels, **options).energy
        return own + potential_field_energy(a, labels, b, labels[:9], **options).energy

    assert torch.autograd.gradcheck(value, (x, y))


def test_nothing_to_compare_is_zero_and_attached():
    x = torch.ones(1, 2, requires_grad=True)
    energy = energy_of(x, torch.tensor([0]))
    energy.backward()
    assert energy == 0
    assert (x.grad == 0).all()
    nothing = energy_of(x, torch.tensor([0]), sources=x[:0], source_labels=torch.tensor([]))
    assert nothing == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("alpha", {"alpha": -1.0}),
        ("delta", {"delta": 0.0}),
        ("delta_rep", {"delta_rep": -0.1}),
        ("core_radius", {"core_radius": -1e-3}),
        ("core_radius", {"core_radius": 0.3}),
        ("weight", {"weight": torch.ones(3)}),
        ("source_labels", {"sources": torch.ones(3, 8)}),
        ("sources", {"sources": torch.ones(3, 7), "source_labels": torch.ones(3)}),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, change):
    x, labels = on_the_sphere()
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        energy_of(x, labels, **change)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_points_are_computed_in_float32(dtype):
    x, labels = on_the_sphere()
    x = x.to(dtype).requires_grad_()
    options = {"alpha": 6.0, "delta": 0.1, "core_radius": 0.1}
    energy = potential_field_energy(x, labels, **options).energy
    assert energy.dtype == torch.float32
    assert energy == potential_field_energy(x.detach().float(), labels, **options).energy
    dense = dense_potential_field_energy(x, labels, **options)
    assert dense.item() == pytest.approx(energy.item(), rel=1e-5)


def test_products_rounded_to_ten_bits_lose_no_pair(monkeypatch):
    """As TF32 does: the search is wide enough, and what it lists is taken from differences."""
    x, labels = on_the_sphere(600, 8)
    x, labels = x.float(), torch.arange(600)
    exact = gradient_of(x, labels, delta=0.5)
    assert (exact != 0).any()

    def rounded(a, b):
        def to_ten_bits(t):
            return (t.view(torch.int32) + (1 << 12) & ~((1 << 13) - 1)).view(torch.float32)

        return to_ten_bits(a) @ to_ten_bits(b).T - 5e-4  # and half as much for what is summed

    monkeypatch.setattr(close_pairs, "_products", rounded)
    torch.testing.assert_close(gradient_of(x, labels, delta=0.5), exact)
    monkeypatch.setattr(close_pairs, "_PRODUCT_ERROR", 0.0)
    assert not torch.allclose(gradient_of(x, labels, delta=0.5), exact)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("core_radius", {"alpha": 20.0, "core_radius": 0.01}),
        ("delta", {"alpha": 200.0, "core_radius": 0.0}),
    ],
)
def test_forces_beyond_float32_are_refused(name, change):
    x, labels = on_the_sphere()
    with pytest.raises(ValueError, match=f"^{name}: expected a force of at most 1e"):
        energy_of(x, labels, **change)


def test_weight_with_a_gradient_is_refused():
    x, labels = on_the_sphere()
    with pytest.raises(ValueError, match=r"^weight: expected no gradient.*detach"):
        energy_of(x, labels, weight=torch.ones(len(x), requires_grad=True))


@pytest.mark.parametrize(("alpha", "delta"), [(3.0, 0.2), (6.0, 0.1), (0.0, 0.3), (1.7, 0.23)])
def test_points_at_rest_have_an_excess_of_exactly_0_in_float32(alpha, delta):
    x = torch.cat([torch.linspace(0, delta / 2, 20), torch.linspace(9, 9 + delta / 2, 20)])[:, None]
    labels = torch.arange(40) // 20
    result = potential_field_energy(x, labels, alpha=alpha, delta=delta)
    assert result.excess == result.repulsion == 0
