import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as c_f
from torch.autograd import gradcheck

from pml_extras.functional import (
    alternate_classes,
    ridge_regressor,
    zero_shot_prediction,
    zero_shot_targets,
)
from tests.oracles import zero_shot_prediction as oracle
from tests.oracles.intra_batch_connections import derivative
from tests.strategies import LABELS, labels

SETTINGS = {"ridge": 0.05, "logit_scale": 9.5}


def batch(num=9, num_attributes=4, size=3, classes=5, seed=0):
    """Attributes that sum to 1, labels without an order, and class vectors."""
    g = torch.Generator().manual_seed(seed)
    z = (2 * torch.randn(num, num_attributes, generator=g, dtype=torch.float64)).softmax(1)
    y = torch.randint(classes, (num,), generator=g)
    return z, y, torch.randn(classes, size, generator=g, dtype=torch.float64)


@st.composite
def batches(draw):
    num, num_attributes = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    z, y, vectors = batch(
        num,
        num_attributes,
        draw(st.integers(1, 4)),
        draw(st.integers(2, 5)),
        draw(st.integers(0, 999)),
    )
    repeated = draw(st.integers(0, num - 1))
    z[repeated] = z[0]
    return z * draw(st.sampled_from((0.1, 1.0, 3.0))), y, vectors


@settings(max_examples=60)
@given(batches(), st.sampled_from((0.01, 0.05, 2.0)), st.sampled_from((1.0, 9.5)))
def test_value_and_gradients_agree_with_the_equation(drawn, ridge, scale):
    z, y, vectors = drawn
    z.requires_grad_()
    vectors.requires_grad_()
    found = zero_shot_prediction(z, y, vectors, ridge=ridge, logit_scale=scale)
    for regressor in (oracle.dual, oracle.primal):
        losses = oracle.losses(z.tolist(), y.tolist(), vectors.tolist(), ridge, scale, regressor)
        expected = torch.tensor([complex(v).real for v in losses], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(found)
    found.backward(upstream)

    def weighted(rows, ν):
        losses = oracle.losses(rows, y.tolist(), ν, ridge, scale)
        return sum(u * v for u, v in zip(upstream.tolist(), losses, strict=True))

    for leaf, function in (
        (z, lambda moved: weighted(moved, vectors.tolist())),
        (vectors, lambda moved: weighted(z.tolist(), moved)),
    ):
        towards = torch.randn_like(leaf)
        slope = derivative(function, leaf.tolist(), towards.tolist())
        assert (leaf.grad * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("num", [0, 1, 3, 4, 5, 11])
def test_the_regressor_has_both_forms_and_is_stationary(num):
    generator = torch.Generator().manual_seed(num)
    z = torch.randn(num, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    found = ridge_regressor(z, y, ridge=0.05)
    assert found.shape == (4, 3)
    for form in (oracle.dual, oracle.primal):
        expected = torch.tensor(form(z.tolist(), y.tolist(), 4, 3, 0.05), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slope = z.T @ z @ found - z.T @ y + 0.05 * found
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num", [8, 40])
def test_the_smaller_matrix_is_solved_with(num, monkeypatch):
    sizes, solve = [], torch.linalg.solve_ex

    def recorded(matrix, right):
        sizes.append(matrix.shape)
        return solve(matrix, right)

    monkeypatch.setattr(torch.linalg, "solve_ex", recorded)
    ridge_regressor(torch.randn(num, 16), torch.randn(num, 3), ridge=0.05)
    assert sizes == [(min(num, 16),) * 2]


def test_halves_of_unequal_size_are_predicted_by_each_other():
    z, _, _ = batch(7)
    targets = torch.randn(7, 3, dtype=torch.float64)
    first = torch.tensor([True, False, False, True, False, False, False])
    found = zero_shot_targets(z, targets, first, ridge=0.05)
    for half in (first, ~first):
        regressor = ridge_regressor(z[~half], targets[~half], ridge=0.05)
        torch.testing.assert_close(found[half], z[half] @ regressor, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        found, zero_shot_targets(z, targets, ~first, ridge=0.05), rtol=0, atol=0
    )


def test_what_a_row_is_predicted_to_have_does_not_depend_on_targets_of_its_half():
    z, _, _ = batch(6)
    targets = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    first = torch.tensor([True, True, False, True, False, False])
    zero_shot_targets(z, targets, first, ridge=0.05)[first].sum().backward()
    assert (targets.grad[first] == 0).all()
    assert (targets.grad[~first] != 0).all()


def test_rows_are_predicted_nothing_by_an_empty_half():
    z, _, vectors = batch(5)
    for first in (torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)):
        found = zero_shot_targets(z, vectors, first, ridge=0.05)
        assert torch.equal(found, torch.zeros_like(found))


def disjoint(y):
    first = alternate_classes(y)
    assert not set(y[first].tolist()) & set(y[~first].tolist())
    shares = [len(set(y[half].tolist())) for half in (first, ~first)]
    assert shares[0] - shares[1] == len(set(y.tolist())) % 2
    assert first.tolist() == oracle.first_half(y.tolist())


@given(st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_halves_share_no_class_in_any_order(num_classes, per_class, random):
    classes = random.sample(range(-50, 50), num_classes)
    y = torch.tensor(classes)
    contiguous = y.repeat_interleave(per_class)
    for order in (
        contiguous,
        y.repeat(per_class),  # class index fastest, as in the authors' batches
        contiguous[torch.tensor(random.sample(range(len(contiguous)), len(contiguous)))],
    ):
        disjoint(order)


@given(st.integers(0, 8).flatmap(lambda num: labels(num, LABELS)))
def test_halves_share_no_class_when_classes_have_any_size(y):
    disjoint(y)


def test_halves_share_no_class_in_batches_of_pml_s_sampler(monkeypatch):
    import numpy as np

    monkeypatch.setattr(c_f, "NUMPY_RANDOM", np.random.RandomState(0))
    y = torch.arange(60) % 10
    drawn = list(MPerClassSampler(y, m=4, batch_size=20, length_before_new_iter=400))
    for start in range(0, 400, 20):
        in_batch = y[drawn[start : start + 20]]
        assert len(set(in_batch.tolist())) == 5
        disjoint(in_batch)


def test_a_class_stays_in_its_half_when_rows_change_places():
    _, y, _ = batch()
    order = torch.randperm(len(y))
    assert torch.equal(alternate_classes(y[order]), alternate_classes(y)[order])


@given(batches(), st.randoms(use_true_random=False))
def test_order_attributes_and_a_joint_rotation_do_not_matter(drawn, random):
    z, y, vectors = drawn
    found = zero_shot_prediction(z, y, vectors, **SETTINGS)
    order = torch.tensor(random.sample(range(len(z)), len(z)))
    permuted = zero_shot_prediction(z[order], y[order], vectors, **SETTINGS)
    torch.testing.assert_close(permuted, found[order], rtol=1e-10, atol=1e-12)
    columns = torch.tensor(random.sample(range(z.shape[1]), z.shape[1]))
    relabelled = zero_shot_prediction(z[:, columns], y, vectors, **SETTINGS)
    torch.testing.assert_close(relabelled, found, rtol=1e-10, atol=1e-12)
    rotation, _ = torch.linalg.qr(torch.randn(2 * vectors.shape[1:], dtype=torch.float64))
    rotated = zero_shot_prediction(z, y, vectors @ rotation, **SETTINGS)
    torch.testing.assert_close(rotated, found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_attributes_of_zero_cost_the_logarithm_of_the_number_of_classes_and_pull_nothing(dtype):
    _, y, vectors = batch(classes=7)
    z = torch.zeros(9, 4, dtype=dtype, requires_grad=True)
    vectors = vectors.to(dtype).requires_grad_()
    found = zero_shot_prediction(z, y, vectors, **SETTINGS)
    torch.testing.assert_close(found, torch.full_like(found, math.log(7)))
    found.sum().backward()
    assert torch.equal(z.grad, torch.zeros_like(z))
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


@pytest.mark.parametrize("num", [0, 1, 4])
def test_a_single_class_costs_nothing_and_pulls_nothing(num):
    z, _, vectors = batch(num)
    z.requires_grad_()
    vectors.requires_grad_()
    found = zero_shot_prediction(z, torch.full((num,), 2), vectors, **SETTINGS)
    assert torch.equal(found, torch.zeros_like(found))
    found.sum().backward()
    assert torch.equal(z.grad, torch.zeros_like(z))
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


def test_classes_that_are_not_in_the_batch_compete():
    z, _, vectors = batch(classes=3)
    y = torch.arange(9) % 2
    vectors = 0.2 * vectors  # so that no softmax rounds to 0 or 1
    fewer = zero_shot_prediction(z, y, vectors[:2], **SETTINGS)
    assert (zero_shot_prediction(z, y, vectors, **SETTINGS) > fewer).all()


@pytest.mark.parametrize("num", [3, 8])
def test_gradients_pass_gradcheck(num):
    z, _, vectors = batch(num, classes=4)
    y = torch.arange(num) % 3

    def losses(z, vectors):
        return zero_shot_prediction(z, y, vectors, **SETTINGS)

    assert gradcheck(losses, (z.requires_grad_(), vectors.requires_grad_()))


@pytest.mark.parametrize("ridge", [0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("num", [32, 160])
def test_float32_is_as_accurate_as_its_last_digits(num, ridge):
    """The rounding of the inputs and of the result, not that of a matrix times its transpose."""
    z, y, vectors = batch(num, 64, 16, classes=8, seed=1)
    z, vectors = z.float(), vectors.float() / 4
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (z, vectors)]
        value = zero_shot_prediction(
            leaves[0], y, leaves[1], ridge=ridge, logit_scale=SETTINGS["logit_scale"]
        ).mean()
        results.append([value, *torch.autograd.grad(value, leaves)])
    for single, exact in zip(*results, strict=True):
        assert (single - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_and_autocast_are_computed_in_float32(dtype):
    z, y, vectors = batch()
    z, vectors = z.to(dtype), vectors.to(dtype)
    expected = zero_shot_prediction(z.float(), y, vectors.float(), **SETTINGS)
    with torch.autocast("cpu", torch.bfloat16):
        for given_z, given_vectors in ((z, vectors), (z.float(), vectors), (z, vectors.float())):
            found = zero_shot_prediction(given_z, y, given_vectors, **SETTINGS)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
            assert found.dtype == torch.float32
    assert zero_shot_prediction(z, y, vectors.double(), **SETTINGS).dtype == torch.float64


def test_attributes_that_drown_the_ridge_give_nan_and_no_error():
    z, y, vectors = batch()
    found = zero_shot_prediction(torch.full_like(z, 1e12), y, vectors, **SETTINGS)
    assert found.isnan().any()


def call(**changed):
    z, y, vectors = batch()
    given = {"attributes": z, "labels": y, "class_vectors": vectors, **SETTINGS, **changed}
    return zero_shot_prediction(**given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ridge": 0.0}, "ridge: expected a finite number > 0; got 0.0"),
        ({"logit_scale": -1.0}, "logit_scale: expected a finite number > 0; got -1.0"),
        ({"attributes": torch.ones(9)}, r"attributes: expected a floating tensor .*\(9,\)"),
        ({"class_vectors": torch.ones(3)}, r"class_vectors: expected a floating tensor .*\(3,\)"),
        ({"labels": torch.ones(8)}, r"labels: expected a tensor of shape \(9,\)"),
    ],
)
def test_other_arguments_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        call(**changed)


def test_other_targets_and_halves_are_refused():
    z, _, vectors = batch(5)
    with pytest.raises(ValueError, match="targets: expected 5 rows, as `attributes`; got 4 rows"):
        ridge_regressor(z, vectors[:4], ridge=0.05)
    with pytest.raises(ValueError, match="targets: expected 5 rows, as `attributes`; got 4 rows"):
        zero_shot_targets(z, vectors[:4], torch.ones(5) > 0, ridge=0.05)
    with pytest.raises(ValueError, match=r"first: expected bool, .*; got torch.float32"):
        zero_shot_targets(z, vectors, torch.ones(5), ridge=0.05)
    with pytest.raises(ValueError, match=r"first: expected a tensor of shape \(5,\)"):
        zero_shot_targets(z, vectors, torch.ones(4) > 0, ridge=0.05)
