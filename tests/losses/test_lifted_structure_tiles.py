"""The losses with a pairwise matrix in tiles, beside the same with the whole matrix."""

import pytest
import torch
from pytorch_metric_learning import distances, reducers

from pml_extras.functional import pairwise
from pml_extras.losses import (
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    lifted_structure,
)
from tests.largest import Largest

BOTH = pytest.mark.parametrize("loss_class", [LiftedStructureLoss, GeneralizedLiftedStructureLoss])
DISTANCES = {
    "l2": distances.LpDistance(),
    "l2 of raw rows": distances.LpDistance(normalize_embeddings=False),
    "cosine": distances.CosineSimilarity(),
    "dot product": distances.DotProductSimilarity(normalize_embeddings=False),
    "normalised dot product": distances.DotProductSimilarity(),
}
OTHERS = {
    "squared l2": distances.LpDistance(power=2),
    "l1": distances.LpDistance(p=1),
    "cosine to a power": distances.CosineSimilarity(power=3),
    "snr": distances.SNRDistance(),
}


@pytest.fixture
def whole(monkeypatch):
    """A function that computes a loss with the whole matrix."""

    def compute(loss, *args):
        with monkeypatch.context() as patch:
            patch.setattr(lifted_structure, "_MANY_ELEMENTS", float("inf"))
            return loss(*args)

    return compute


def a_batch(num, size=8, classes=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, dtype=torch.float64, generator=draw).requires_grad_()
    return x, torch.randint(classes, (num,), generator=draw)


@BOTH
@pytest.mark.parametrize("distance", {**DISTANCES, **OTHERS})
@pytest.mark.parametrize("with_ref", [False, True])
def test_large_batch_costs_what_its_whole_matrix_says(loss_class, distance, with_ref, whole):
    """260 rows: more than one tile, and from here on tiles are what is chosen."""
    x, y = a_batch(260)
    ref, ref_y = a_batch(270, seed=1)
    args = (x, y, None, ref, ref_y) if with_ref else (x, y)
    leaves = (x, ref) if with_ref else (x,)
    options = {"neg_margin": 0.8, "pos_margin": 0.1, "reducer": reducers.DoNothingReducer()}
    distance = {**DISTANCES, **OTHERS}[distance]
    loss = loss_class(distance=distance, **options)
    actual, expected = loss(*args)["loss"], whole(loss, *args)["loss"]
    torch.testing.assert_close(actual["losses"], expected["losses"], rtol=1e-11, atol=1e-11)
    for index, wanted in zip(actual["indices"], expected["indices"], strict=True):
        assert torch.equal(index, wanted)
    upstream = torch.linspace(0, 1, len(actual["losses"]), dtype=torch.float64)
    grads = [
        torch.autograd.grad((upstream * of["losses"]).sum(), leaves) for of in (actual, expected)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


@BOTH
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_tile_may_be_asked_for(loss_class, distance, whole):
    x, y = a_batch(50)
    for tile in (1, 7, 50, 1000):
        loss = loss_class(distance=DISTANCES[distance], tile=tile)
        expected = whole(loss_class(distance=DISTANCES[distance]), x, y)
        torch.testing.assert_close(loss(x, y), expected, rtol=1e-12, atol=1e-12)


@BOTH
def test_a_tile_is_a_count(loss_class):
    for tile in (0, -1, 2.5, "8"):
        with pytest.raises(ValueError, match="tile: expected an integer >= 1"):
            loss_class(tile=tile)


@BOTH
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("with_ref", [False, True])
def test_nothing_of_the_size_of_the_matrix_is_made(loss_class, distance, with_ref, monkeypatch):
    num, size = 800, 16
    for module in (pairwise, lifted_structure):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2**12)
    x = torch.randn(num, size, requires_grad=True)
    y = torch.arange(num) // 4
    args = (x, y, None, torch.randn(num, size, requires_grad=True), y) if with_ref else (x, y)
    with Largest() as largest:
        loss_class(distance=DISTANCES[distance], tile=100)(*args).backward()
    assert largest.elements <= num * size


@BOTH
def test_tiles_are_chosen_where_the_matrix_is_large(loss_class):
    for num, most in ((40, 40**2), (600, 600**2 // 2)):
        with Largest() as largest:
            loss_class()(torch.randn(num, 2, requires_grad=True), torch.arange(num) // 4).backward()
        assert largest.elements <= most
    assert largest.elements >= 2 * 600


@BOTH
@pytest.mark.parametrize("elements", [1, 8, 50, 3000])
def test_pairs_may_come_in_parts(loss_class, elements, monkeypatch):
    x, y = a_batch(40, classes=6)
    loss = loss_class(tile=16)
    expected = loss(x, y)
    (wanted,) = torch.autograd.grad(expected, x)
    monkeypatch.setattr(lifted_structure, "CHUNK_ELEMENTS", elements)
    actual = loss(x, y)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(actual, x)[0], wanted, rtol=1e-12, atol=1e-13)


@BOTH
def test_rows_alone_in_their_class_may_come_first(loss_class, whole):
    x, _ = a_batch(9)
    y = torch.tensor([0, 1, 2, 3, 3, 4, 4, 4, 5])
    loss = loss_class(tile=2)
    torch.testing.assert_close(loss(x, y), whole(loss_class(), x, y), rtol=1e-13, atol=1e-13)


@BOTH
@pytest.mark.parametrize("distance", DISTANCES)
def test_tiles_are_differentiable_twice(loss_class, distance):
    x, y = a_batch(7, size=3, classes=3)
    loss = loss_class(distance=DISTANCES[distance], tile=3)
    assert torch.autograd.gradgradcheck(lambda rows: loss(rows, y), (x,))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_compared_in_float32(loss_class, dtype):
    x, y = a_batch(300)
    x = x.detach().to(dtype).requires_grad_()
    loss = loss_class()
    value = loss(x, y)
    assert value.dtype == torch.float32
    (grad,) = torch.autograd.grad(value, x)
    full = x.detach().float().requires_grad_()
    expected = loss(full, y)
    assert torch.equal(value, expected)
    assert torch.equal(grad, torch.autograd.grad(expected, full)[0].to(dtype))


@BOTH
def test_empty_references_are_an_attached_zero(loss_class):
    x, y = a_batch(6)
    loss = loss_class(tile=2)(x, y, ref_emb=x.detach()[:0], ref_labels=y[:0])
    assert loss == 0
    assert (torch.autograd.grad(loss, x)[0] == 0).all()
