"""NTXentLoss and TupletMarginLoss."""

import math
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers

from pml_extras.losses import NTXentLoss, TupletMarginLoss
from tests.old_torch import reads_under_torch_func
from tests.oracles import against_negatives as oracle
from tests.strategies import batches, batches_with_references, listed, rows

BOTH = pytest.mark.parametrize("name", ["NTXentLoss", "TupletMarginLoss"])
OURS = {"NTXentLoss": NTXentLoss, "TupletMarginLoss": TupletMarginLoss}
THEIRS = {"NTXentLoss": losses.NTXentLoss, "TupletMarginLoss": losses.TupletMarginLoss}
TILES = st.sampled_from((None, 1, 2, 3))
UPSTREAM = torch.linspace(0.5, 2.0, 64, dtype=torch.float64)
CASES = {  # loss, its pair loss and similarity
    "NTXentLoss": (
        partial(NTXentLoss, 0.3),
        partial(oracle.ntxent, temperature=0.3),
        oracle.cosine,
    ),
    "NTXentLoss of distances": (
        partial(NTXentLoss, 0.5, distance=distances.LpDistance(normalize_embeddings=False)),
        partial(oracle.ntxent, temperature=0.5),
        lambda a, b: -oracle.euclidean(a, b),
    ),
    "TupletMarginLoss": (
        partial(TupletMarginLoss, 20, 8),
        partial(oracle.tuplet, margin=math.radians(20), scale=8),
        oracle.cosine,
    ),
}
CASE = pytest.mark.parametrize("case", CASES)


def scalars(x):
    """Rows of 0-dim tensors, for the loops of the oracle."""
    return [list(row.unbind()) for row in x.unbind()]


def assume_angles_that_digits_tell(case, x, ref):
    """The angle of nearly parallel rows is lost in the rounding of their cosine, in any formula."""
    if case == "TupletMarginLoss":
        unit, other = (torch.nn.functional.normalize(y.detach()) for y in (x, ref))
        squared = 1 - (unit @ other.T).square()
        assume(not ((squared > 1e-15) & (squared < 1e-6)).any())


def tolerance(case, x, ref):
    """Of rows that coincide a cosine has lost half the digits of an angle, which is 0."""
    unit, other = (torch.nn.functional.normalize(y.detach()) for y in (x, ref))
    parallel = (unit @ other.T).abs() > 1 - 1e-12  # or opposite, at an angle of pi
    same = parallel.sum() > (len(x) if x is ref else 0)
    return 1e-6 if case == "TupletMarginLoss" and same else 1e-10


def assert_same(actual, expected, leaves, atol=1e-10):
    """Values, and gradients under one upstream weight each."""
    if isinstance(actual, int):
        assert actual == 0
        assert not expected
        return
    expected = torch.stack(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=atol)
    w = UPSTREAM[: len(expected)]
    grads = torch.autograd.grad((w * actual).sum(), leaves)
    attached = (w * expected).sum() + sum(0 * leaf.sum() for leaf in leaves)
    for leaf, grad, want in zip(leaves, grads, torch.autograd.grad(attached, leaves), strict=True):
        size = leaf.detach().norm(dim=1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)  # a gradient of unit rows scales with 1 / length
        torch.testing.assert_close(grad * size, want * size, rtol=1e-10, atol=10 * atol)


@CASE
@given(batch=batches(), tile=TILES)
def test_batch_agrees_with_the_equation(case, batch, tile):
    make, pair_loss, similarity = CASES[case]
    x, y = batch
    assume_angles_that_digits_tell(case, x, x)
    x.requires_grad_()
    of = oracle.of_labels
    pairs, expected = of(
        pair_loss, similarity, scalars(x), y.tolist(), scalars(x), y.tolist(), same=True
    )
    loss = make(tile=tile, reducer=reducers.DoNothingReducer())(x, y)["loss"]
    assert_same(loss["losses"], expected, [x], tolerance(case, x, x))
    if pairs:
        assert loss["reduction_type"] == "pos_pair"
        assert list(zip(*(i.tolist() for i in loss["indices"]), strict=True)) == pairs


@CASE
@given(batch=batches_with_references(), tile=TILES)
def test_references_are_the_other_side_of_the_pairs(case, batch, tile):
    make, pair_loss, similarity = CASES[case]
    x, y, ref, ref_y = batch
    assume_angles_that_digits_tell(case, x, ref)
    x.requires_grad_()
    ref.requires_grad_()
    _, expected = oracle.of_labels(
        pair_loss, similarity, scalars(x), y.tolist(), scalars(ref), ref_y.tolist(), same=False
    )
    loss = make(tile=tile, reducer=reducers.DoNothingReducer())(x, y, None, ref, ref_y)["loss"]
    assert_same(loss["losses"], expected, [x, ref], tolerance(case, x, ref))


@CASE
@given(data=st.data(), with_ref=st.booleans())
def test_list_of_a_miner_counts_what_it_lists(case, data, with_ref):
    make, pair_loss, similarity = CASES[case]
    num, num_ref, size = (data.draw(st.integers(1, 6)) for _ in range(3))
    x = data.draw(rows(num, size)).requires_grad_()
    ref = data.draw(rows(num_ref, size)).requires_grad_() if with_ref else x
    assume_angles_that_digits_tell(case, x, ref)
    pairs = data.draw(listed(num, len(ref)))
    expected = oracle.of_list(
        pair_loss, similarity, scalars(x), scalars(ref), [p.tolist() for p in pairs]
    )
    args = (x, None, pairs, ref) if with_ref else (x, None, pairs)
    loss = make(reducer=reducers.DoNothingReducer())(*args)["loss"]
    leaves = [x, ref] if with_ref else [x]
    unlike = with_ref or (pairs[0] != pairs[1]).all()  # no row is a positive of itself
    atol = tolerance(case, x, ref) if unlike or case != "TupletMarginLoss" else 1e-6
    assert_same(loss["losses"], expected, leaves, atol)


class Halved(distances.CosineSimilarity):
    """Somebody's distance, which our tiles know nothing of."""

    def compute_mat(self, query_emb, ref_emb):
        assert len(query_emb) == len(ref_emb)  # whole
        return super().compute_mat(query_emb, ref_emb) / 2


COSINES = {
    "cosine": distances.CosineSimilarity(),
    "squared cosine": distances.CosineSimilarity(power=2),
    "half a cosine": Halved(),
}
DISTANCES = {
    **COSINES,
    "dot product": distances.DotProductSimilarity(normalize_embeddings=False),
    "l2": distances.LpDistance(),
    "squared l2": distances.LpDistance(power=2),
    "l1": distances.LpDistance(p=1),
    "snr": distances.SNRDistance(),
    "snr of raw rows": distances.SNRDistance(normalize_embeddings=False),
}
MINERS = {
    "all pairs": None,
    "multi similarity": miners.MultiSimilarityMiner(),
    "batch hard": miners.BatchHardMiner(),
    "all triplets": miners.TripletMarginMiner(type_of_triplets="all"),
    "pair margin": miners.PairMarginMiner(pos_margin=0.2, neg_margin=1.45),
}


def uneven(size=12):
    y = torch.arange(5).repeat_interleave(torch.tensor([3, 5, 2, 1, 7]))
    x = torch.randn(len(y), size, dtype=torch.float64, requires_grad=True)
    return x, y[torch.randperm(len(y))]


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize(
    ("name", "distance"),
    [*(("NTXentLoss", d) for d in DISTANCES), *(("TupletMarginLoss", d) for d in COSINES)],
)
def test_equal_to_pml(name, distance, miner, tile):
    x, y = uneven()
    mined = MINERS[miner](x, y) if MINERS[miner] else None
    hyper = {"temperature": 1.7} if name == "NTXentLoss" else {"margin": 11, "scale": 9}
    options = {**hyper, "distance": DISTANCES[distance], "reducer": reducers.DoNothingReducer()}
    ours = OURS[name](tile=tile, **options)(x, y, mined)["loss"]
    theirs = THEIRS[name](**options)(x, y, mined)["loss"]
    for mine, other in zip(ours["indices"], theirs["indices"], strict=True):
        assert torch.equal(mine, other)
    weight = torch.rand(len(ours["losses"]), dtype=torch.float64)
    values = ours["losses"], theirs["losses"].reshape(-1)
    assert values[0].median() > 0.1
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad((weight * v).sum(), x)[0] for v in values]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


@BOTH
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize(
    "reducer", [None, reducers.SumReducer(), reducers.AvgNonZeroReducer()], ids=str
)
def test_defaults_and_references_equal_pml(name, tile, reducer):
    x, y = uneven()
    ref, ref_y = uneven()
    for args in ((x, y), (x, y, None, ref, ref_y)):
        ours = OURS[name](tile=tile, reducer=reducer)(*args)
        theirs = THEIRS[name](reducer=reducer)(*args)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        leaves = [t for t in (x, ref) if any(t is a for a in args)]
        for mine, other in zip(
            torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@BOTH
def test_class_weights_apply_to_pairs(name):
    x, y = uneven()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    reduced = OURS[name](reducer=reducers.ClassWeightedReducer(weights))(x, y)
    loss = OURS[name](reducer=reducers.DoNothingReducer())(x, y)["loss"]
    expected = (loss["losses"] * weights[y[loss["indices"][0]]]).mean()
    torch.testing.assert_close(reduced, expected)


@BOTH
def test_without_negatives_it_is_an_attached_zero(name):
    x = torch.randn(6, 3, requires_grad=True)
    for tile in (None, 2):
        loss = OURS[name](tile=tile)(x, torch.zeros(6, dtype=torch.int64))
        assert loss == 0
        (grad,) = torch.autograd.grad(loss, x)
        assert (grad == 0).all()


def test_a_loss_beyond_the_smallest_number_keeps_its_gradient():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [1.0, 0.1]], requires_grad=True)
    loss = NTXentLoss(temperature=0.01)(x, torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss > 100
    assert (x.grad[0] != 0).any()


def test_coincident_positives_of_a_tuplet_are_finite():
    x = torch.randn(4, 3).repeat_interleave(2, dim=0).requires_grad_()
    y = torch.arange(8) // 2
    loss = TupletMarginLoss()(x, y)
    loss.backward()
    assert x.grad.isfinite().all()
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
    negative = torch.where(y[:, None] != y, 64 * cosines, -torch.inf).logsumexp(1)
    expected = torch.nn.functional.softplus(negative - 64 * math.cos(math.radians(5.73))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)


def near_rows(angle, dtype):
    """Eight pairs of rows at an angle."""
    u, w = torch.nn.functional.normalize(torch.randn(2, 8, 16, dtype=torch.float64), dim=2)
    w = torch.nn.functional.normalize(w - (w * u).sum(1, keepdim=True) * u)
    return torch.cat([u, math.cos(angle) * u + math.sin(angle) * w]).to(dtype).requires_grad_()


@pytest.mark.parametrize("angle", [1e-3, 1.4e-3, 3e-3, 3e-2])
@pytest.mark.parametrize("tile", [None, 5])
def test_near_positives_of_a_tuplet_in_float32_are_as_right_as_in_pml(angle, tile):
    x, y = near_rows(angle, torch.float32), torch.arange(8).repeat(2)
    exact = x.detach().double().requires_grad_()
    found = []
    for loss, leaf in (
        (TupletMarginLoss(scale=1), exact),
        (TupletMarginLoss(scale=1, tile=tile), x),
        (losses.TupletMarginLoss(scale=1), x),
    ):
        value = loss(leaf, y)
        found.append((value.detach().double(), torch.autograd.grad(value, leaf)[0].double()))
    (value, grad), ours, theirs = found
    assert (ours[0] - value).abs() <= 1.1 * (theirs[0] - value).abs() + 1e-6
    assert (ours[1] - grad).norm() <= 1.1 * (theirs[1] - grad).norm() + 1e-6
    assert (ours[1] - grad).norm() <= 1e-7 / angle**2 * grad.norm() + 1e-6


@pytest.mark.parametrize("mined", [False, True])
def test_angles_are_recorded_as_in_pml(mined):
    x, y = uneven()
    pairs = miners.MultiSimilarityMiner()(x, y) if mined else None
    ours, theirs = TupletMarginLoss(collect_stats=True), losses.TupletMarginLoss(collect_stats=True)
    ours(x, y, pairs), theirs(x, y, pairs)
    assert math.radians(ours.margin) == theirs.margin
    for stat in ("avg_pos_angle", "avg_neg_angle"):
        assert getattr(ours, stat) == pytest.approx(getattr(theirs, stat), abs=1e-10)
        assert getattr(ours, stat) > 30


def test_another_distance_than_the_cosine_is_refused():
    with pytest.raises(ValueError, match=r"^distance: expected CosineSimilarity; got LpDistance"):
        TupletMarginLoss(distance=distances.LpDistance())


@BOTH
@pytest.mark.parametrize("tile", [0, 1.5, -1])
def test_a_tile_that_is_no_number_of_rows_is_refused(name, tile):
    with pytest.raises(ValueError, match=r"^tile: expected an integer >= 1"):
        OURS[name](tile=tile)


@BOTH
def test_half_rows_are_computed_in_float32(name):
    x, y = uneven()
    for dtype in (torch.float16, torch.bfloat16):
        half = x.detach().to(dtype).requires_grad_()
        full = half.detach().float().requires_grad_()
        losses_ = [OURS[name](tile=4)(rows_, y) for rows_ in (half, full)]
        assert torch.equal(*losses_)
        of_half, of_full = (
            torch.autograd.grad(v, r)[0] for v, r in zip(losses_, (half, full), strict=True)
        )
        assert torch.equal(of_half, of_full.to(dtype))


@BOTH
@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_of_tiles_does_not_see_autocast(name, create_graph):
    x, y = uneven()
    x = x.detach().float().requires_grad_()
    loss = OURS[name](tile=4)(x, y)
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (actual,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@BOTH
@pytest.mark.parametrize("with_ref", [False, True])
def test_backward_has_the_labels_and_numbers_of_the_forward_pass(name, with_ref):
    x, y = uneven()
    ref, ref_y = uneven()
    grads = []
    for changed in (False, True):
        loss = OURS[name](tile=4)
        labels, ref_labels = y.clone(), ref_y.clone()
        value = loss(x, labels, None, ref, ref_labels) if with_ref else loss(x, labels)
        if changed:
            labels.zero_()
            ref_labels.zero_()
            for number in ("temperature", "margin", "scale"):
                setattr(loss, number, 0.5)
        grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)


@BOTH
def test_a_label_of_nan_is_a_class_of_its_own_as_in_pml(name):
    x, y = uneven()
    y = y.float()
    y[[0, 5, 9]] = torch.nan
    for tile in (None, 4):
        values = OURS[name](tile=tile)(x, y), THEIRS[name]()(x, y)
        torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
        grads = [torch.autograd.grad(v, x)[0] for v in values]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@BOTH
@pytest.mark.parametrize("tile", [None, 4])
@reads_under_torch_func
def test_gradients_by_torch_func_are_the_same(name, tile):
    x, y = uneven()
    loss = OURS[name](tile=tile)
    (expected,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach(), y), expected)


@pytest.mark.parametrize("tile", [None, 4])
def test_a_temperature_may_be_learned_as_in_pml(tile):
    x, y = uneven()
    grads = []
    for loss_class, options in ((NTXentLoss, {"tile": tile}), (losses.NTXentLoss, {})):
        loss = loss_class(torch.nn.Parameter(torch.tensor(0.3)), **options)
        value = loss(x, y)
        assert value.dtype == torch.float64
        grads.append(torch.autograd.grad(value, [x, *loss.parameters()]))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-10)
    assert grads[0][1].abs() > 0.1
    constant = NTXentLoss(torch.tensor(0.3, dtype=torch.float64), tile=tile)
    torch.testing.assert_close(constant(x, y), NTXentLoss(0.3)(x, y))


@pytest.mark.parametrize(
    "temperature",
    [
        torch.tensor(-0.1),
        torch.tensor([0.1, 0.2]),
        torch.tensor(0.1, requires_grad=True),
        torch.nn.Parameter(torch.tensor(torch.nan)),
    ],
)
def test_another_tensor_than_a_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature: expected a (finite )?number"):
        NTXentLoss(temperature)
