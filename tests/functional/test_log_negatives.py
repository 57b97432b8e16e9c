import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from pml_extras.functional.log_negatives import log_negatives
from pml_extras.functional.masked import masked_logsumexp
from pml_extras.functional.pairwise import euclidean_distance
from tests.largest import Largest
from tests.oracles import log_negatives as oracle
from tests.strategies import batches, batches_with_references

KINDS = pytest.mark.parametrize("distances", [True, False])


def scalars(x):
    return [list(row.unbind()) for row in x.unbind()]


def assert_same(actual, expected, leaves):
    """Values, and gradients under one weight each, of the sums that have terms."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    some = torch.isfinite(expected)
    weight = torch.linspace(0.5, 2.0, len(actual), dtype=torch.float64)[some]
    grads, wanted = (
        torch.autograd.grad(
            (weight * values[some]).sum() + sum(0 * leaf.sum() for leaf in leaves),
            leaves,
            retain_graph=True,
        )
        for values in (actual, expected)
    )
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-10, atol=1e-9)


@given(batches(), st.booleans(), st.integers(1, 5), st.sampled_from((1.0, 30.0, 1e4)))
def test_rows_of_a_batch_agree_with_the_equation(batch, distances, tile, factor):
    x, y = batch
    x = (factor * x).requires_grad_()
    both = log_negatives(x, y, distances=distances, tile=tile)
    assert both[0] is both[1]
    rows, labels = scalars(x), y.tolist()
    expected, _ = oracle.both(rows, labels, rows, labels, distances)
    if factor == 1e4 and not distances:  # scores of 1e8: a digit of theirs is 1e-8 of the result
        torch.testing.assert_close(both[0], torch.stack(expected), rtol=1e-10, atol=1e-6)
    else:
        assert_same(both[0], torch.stack(expected), [x])


@given(batches_with_references(), st.booleans(), st.integers(1, 5), st.sampled_from((1.0, 30.0)))
def test_rows_and_references_agree_with_the_equation(batch, distances, tile, factor):
    x, labels, y, y_labels = batch
    x, y = (factor * x).requires_grad_(), (factor * y).requires_grad_()
    both = log_negatives(x, labels, y, y_labels, distances=distances, tile=tile)
    expected = oracle.both(scalars(x), labels.tolist(), scalars(y), y_labels.tolist(), distances)
    for actual, wanted in zip(both, expected, strict=True):
        assert_same(actual, torch.stack(wanted), [x, y])


def by_matrix(x, labels, distances, y=None, y_labels=None):
    scores = -euclidean_distance(x, y) if distances else x @ (x if y is None else y).T
    negative = labels[:, None] != (labels if y_labels is None else y_labels)
    return masked_logsumexp(scores, negative), masked_logsumexp(scores.T, negative.T)


def some_rows(num=90, size=7, classes=23, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, dtype=torch.float64, generator=draw).to(dtype)
    return x.requires_grad_(), torch.randint(classes, (num,), generator=draw)


@KINDS
@pytest.mark.parametrize("tile", [1, 7, 30, 90, 1000, None])
def test_tiles_change_nothing(distances, tile):
    x, labels = some_rows()
    y, y_labels = some_rows(61, seed=1)
    weight = torch.randn(90, dtype=torch.float64), torch.randn(61, dtype=torch.float64)
    of_x, _ = log_negatives(x, labels, distances=distances, tile=tile)
    expected, _ = by_matrix(x, labels, distances)
    torch.testing.assert_close(of_x, expected, rtol=1e-13, atol=1e-13)
    grads = [torch.autograd.grad((weight[0] * v).sum(), x)[0] for v in (of_x, expected)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-12)
    both = log_negatives(x, labels, y, y_labels, distances=distances, tile=tile)
    expected = by_matrix(x, labels, distances, y, y_labels)
    totals = [
        (weight[0] * of_x).sum() + (weight[1] * of_y).sum() for of_x, of_y in (both, expected)
    ]
    grads = [torch.autograd.grad(total, (x, y)) for total in totals]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-12)


@KINDS
@pytest.mark.parametrize("wanted", ["x", "y"])
def test_one_side_may_be_without_gradient(distances, wanted):
    sides = {"x": some_rows(), "y": some_rows(61, seed=1)}
    rows = {name: side[0].detach() for name, side in sides.items()}
    rows[wanted].requires_grad_()
    both = log_negatives(
        rows["x"], sides["x"][1], rows["y"], sides["y"][1], distances=distances, tile=16
    )
    expected = by_matrix(rows["x"], sides["x"][1], distances, rows["y"], sides["y"][1])
    grads = [torch.autograd.grad(a.sum() + b.sum(), rows[wanted])[0] for a, b in (both, expected)]
    torch.testing.assert_close(grads[0], grads[1])


@KINDS
def test_row_without_negatives_has_none_and_no_gradient(distances):
    x, _ = some_rows(9)
    of_x, _ = log_negatives(x, torch.ones(9), distances=distances, tile=4)
    assert (of_x == -torch.inf).all()
    (grad,) = torch.autograd.grad(of_x.masked_fill(of_x.isinf(), 0.0).sum(), x)
    assert (grad == 0).all()
    (grad,) = torch.autograd.grad(log_negatives(x, torch.ones(9), distances=distances)[0].sum(), x)
    assert (grad == 0).all()


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_ref", [True, False])
def test_gradient_of_nearly_coincident_rows_is_right(gap, dtype, with_ref):
    """Expected: distances from differences, in float64."""
    x, _ = some_rows(64, 16, dtype=torch.float32)
    labels = torch.arange(64) // 4
    x = torch.nn.functional.normalize(x.detach())
    x[33] = x[2] + gap / 4
    x[50] = x[7]
    grads = []
    for type_, explicit in ((dtype, False), (torch.float64, True)):
        leaf = x.to(type_, copy=True).requires_grad_()
        other = leaf.flip(0) if with_ref else leaf
        other_labels = labels.flip(0) if with_ref else labels
        if explicit:
            squared = (leaf[:, None] - other).square().sum(dim=2)
            zero = squared == 0
            scores = -squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
            value = masked_logsumexp(scores, labels[:, None] != other_labels)
        elif with_ref:
            value, _ = log_negatives(leaf, labels, other, other_labels, distances=True, tile=24)
        else:
            value, _ = log_negatives(leaf, labels, distances=True, tile=24)
        value.sum().backward()
        grads.append(leaf.grad.double())
    assert (grads[0] - grads[1]).norm() <= (1e-6 if dtype == torch.float32 else 1e-13) * grads[
        1
    ].norm()


@pytest.mark.parametrize("tile", [5, 1000])
def test_collapsed_rows_far_from_zero_are_told_apart(tile):
    x, labels = some_rows(40, dtype=torch.float32)
    x = 1e3 + 1e-3 * x.detach()
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype, copy=True).requires_grad_()
        log_negatives(leaf, labels, distances=True, tile=tile)[0].sum().backward()
        grads.append(leaf.grad.double())
    assert (grads[0] - grads[1]).norm() <= 1e-3 * grads[1].norm()


@KINDS
@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e3, 1e8])
def test_no_scale_of_rows_leaves_the_range_of_float32(distances, factor):
    x, labels = some_rows(64, 8, dtype=torch.float32)
    x = factor * x.detach()
    values, grads = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype, copy=True).requires_grad_()
        value, _ = log_negatives(leaf, labels, distances=distances, tile=20)
        value.sum().backward()
        values.append(value.detach().double())
        grads.append(leaf.grad.double())
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-6)
    # A rounded score of a thousand moves the share of a row among its rivals.
    reach = x.norm(dim=1).max().item() ** (1 if distances else 2)
    assert (grads[0] - grads[1]).norm() <= (1e-5 + 1e-6 * min(reach, 1e5)) * grads[1].norm()


def test_short_rows_far_from_all_references_stay_in_range():
    x = torch.full((3, 2), 1e-3)
    y = torch.full((4, 2), 3e3) + torch.arange(4.0)[:, None]
    of_x, of_y = log_negatives(x, torch.zeros(3), y, torch.ones(4), distances=True, tile=2)
    expected = by_matrix(x.double(), torch.zeros(3), True, y.double(), torch.ones(4))
    torch.testing.assert_close(of_x.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(of_y.double(), expected[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", ["row", "reference"])
def test_what_is_no_number_is_not_lost(side):
    x, labels = some_rows(20)
    y, y_labels = some_rows(15, seed=1)
    with torch.no_grad():
        (x if side == "row" else y)[3, 2] = torch.nan
    of_x, of_y = log_negatives(x, labels, y, y_labels, distances=True, tile=8)
    if side == "row":
        assert of_x[3].isnan()
        assert of_y[y_labels != labels[3]].isnan().all()
    else:
        assert of_x[labels != y_labels[3]].isnan().all()
        assert of_y[3].isnan()


@pytest.mark.parametrize("tile", [6, 100])
def test_coincident_rows_far_apart_from_all_others_stay_in_range(tile):
    """A product of rows this long misses a distance of 0 by hundreds."""
    x, labels = some_rows(40, dtype=torch.float32)
    x = 3e5 * x.detach()
    x[1] = x[0] = 1e6
    labels[:2] = torch.tensor([100, 101])
    x.requires_grad_()
    of_x, _ = log_negatives(x, labels, distances=True, tile=tile)
    assert of_x[:2].tolist() == [0.0, 0.0]
    (grad,) = torch.autograd.grad(of_x.sum(), x)
    assert torch.isfinite(grad).all()
    assert (grad[:2] == 0).all()


@KINDS
def test_it_is_twice_differentiable(distances):
    x, labels = some_rows(7, 3)
    y, y_labels = some_rows(5, 3, seed=1)

    def of_batch(x):
        return log_negatives(x, labels, distances=distances, tile=3)[0]

    def of_references(x, y):
        return log_negatives(x, labels, y, y_labels, distances=distances, tile=3)

    assert gradcheck(of_batch, (x,))
    assert gradgradcheck(of_batch, (x,))
    assert gradcheck(of_references, (x, y))
    assert gradgradcheck(of_references, (x, y))


@KINDS
@pytest.mark.parametrize("with_ref", [True, False])
def test_nothing_of_the_size_of_the_matrix_is_made(distances, with_ref):
    num, size, tile = 600, 16, 50
    x = torch.randn(num, size, requires_grad=True)
    y = torch.randn(num, size, requires_grad=True)
    labels = torch.arange(num) // 4
    with torch.no_grad():
        x[17] = x[400]
    others = (y, labels) if with_ref else ()
    with Largest() as largest:
        log_negatives(x, labels, *others, distances=distances, tile=tile)[0].sum().backward()
    assert largest.elements <= num * size


@KINDS
def test_autocast_changes_nothing(distances):
    x, labels = some_rows(dtype=torch.float32)
    expected, _ = log_negatives(x, labels, distances=distances, tile=40)
    (grad,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = log_negatives(x, labels, distances=distances, tile=40)
        assert torch.equal(actual, expected)
        assert torch.equal(torch.autograd.grad(actual.sum(), x)[0], grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3)}, "x: expected"),
        ({"labels": torch.ones(4)}, "labels: expected"),
        ({"y": None}, "y_labels: expected to be given with `y`; got y_labels alone"),
        ({"y_labels": None}, "y_labels: expected to be given with `y`; got y alone"),
        ({"y_labels": torch.ones(4)}, "y_labels: expected"),
        ({"tile": 0}, "tile: expected an integer >= 1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {
        "x": torch.ones(3, 2),
        "labels": torch.ones(3),
        "y": torch.ones(2, 2),
        "y_labels": torch.ones(2),
        "distances": True,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        log_negatives(arguments.pop("x"), arguments.pop("labels"), **arguments)


def test_classes_of_any_kind_are_compared_by_value():
    x, labels = some_rows()
    expected, _ = log_negatives(x, labels, distances=True, tile=16)
    odd = (labels - 5) * 2**40
    assert torch.equal(log_negatives(x, odd, distances=True, tile=16)[0], expected)
    assert torch.equal(log_negatives(x, labels / 2, distances=True, tile=16)[0], expected)


def test_a_large_gradient_of_far_rows_stays_in_range():
    """A sum of e^-79 is a number of float32; 1e4 over it is none."""
    x = torch.tensor([[39.9], [-39.9]], requires_grad=True)
    of_x, _ = log_negatives(x, torch.arange(2), distances=True)
    (grad,) = torch.autograd.grad(1e4 * of_x.sum(), x)
    torch.testing.assert_close(grad, torch.tensor([[-2e4], [2e4]]))


def test_many_large_products_stay_in_range():
    x = torch.full((3000, 1), 8.93, requires_grad=True)
    of_x, _ = log_negatives(x, torch.arange(3000), distances=False)
    expected = 8.93**2 + torch.tensor(2999.0).log()
    torch.testing.assert_close(of_x, expected.expand(3000), rtol=1e-6, atol=0)
    assert torch.isfinite(torch.autograd.grad(of_x.mean(), x)[0]).all()
