from math import log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers

from pml_extras.losses import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from tests.oracles import lifted_structure as oracle
from tests.strategies import batches, batches_with_references, labels, listed, rows

margins = st.sampled_from(((1.0, 0.0), (0.7, 0.1), (2.5, -0.5)))
tiles = st.sampled_from((None, 1, 2, 5))
TILES = pytest.mark.parametrize("tile", [None, 5, 1000])
BOTH = pytest.mark.parametrize("loss_class", [LiftedStructureLoss, GeneralizedLiftedStructureLoss])


def unnormalised(loss_class, alpha=1.0, beta=0.0, **kwargs):
    distance = distances.LpDistance(normalize_embeddings=False)
    return loss_class(neg_margin=alpha, pos_margin=beta, distance=distance, **kwargs)


def scalars(x):
    """Rows of 0-dim tensors, for the loops of the oracle."""
    return [list(row.unbind()) for row in x.unbind()]


def assert_same(loss, args, expected_losses, leaves, upstream):
    """Value and gradient of the per-element losses, under one upstream weight each."""
    actual = loss(*args)["loss"]["losses"]
    expected = list(expected_losses)
    if isinstance(actual, int):
        assert actual == 0
        assert not expected
        return
    expected = torch.stack(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    w = upstream[: len(expected)]
    grads = torch.autograd.grad((w * actual).sum(), leaves)
    attached = (w * expected).sum() + sum(0 * leaf.sum() for leaf in leaves)
    wanted = torch.autograd.grad(attached, leaves)
    for leaf, grad, want in zip(leaves, grads, wanted, strict=True):
        size = leaf.detach().norm(dim=1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)  # a gradient of unit rows scales with 1 / length
        torch.testing.assert_close(grad * size, want * size, rtol=1e-10, atol=1e-9)


UPSTREAM = torch.linspace(0.5, 2.0, 64, dtype=torch.float64)


@given(batches(), margins, tiles)
def test_batch_agrees_with_the_equation(batch, margin, tile):
    x, y = batch
    x.requires_grad_()
    loss = unnormalised(
        LiftedStructureLoss, *margin, tile=tile, reducer=reducers.DoNothingReducer()
    )
    pairs, expected = oracle.of_batch(scalars(x), y.tolist(), *margin)
    assert_same(loss, (x, y), expected, [x], UPSTREAM)
    if pairs:
        indices = loss(x, y)["loss"]["indices"]
        assert list(zip(*(i.tolist() for i in indices), strict=True)) == pairs


@given(batches(norms=True), margins, tiles)
def test_norm_of_a_row_does_not_matter_by_default(batch, margin, tile):
    x, y = batch
    x.requires_grad_()
    loss = LiftedStructureLoss(*margin, tile=tile, reducer=reducers.DoNothingReducer())
    _, expected = oracle.of_batch(scalars(torch.nn.functional.normalize(x)), y.tolist(), *margin)
    assert_same(loss, (x, y), expected, [x], UPSTREAM)


@given(batches_with_references(), margins, tiles)
def test_references_agree_with_the_two_sided_rule(batch, margin, tile):
    x, y, ref, ref_y = batch
    x.requires_grad_()
    ref.requires_grad_()
    loss = unnormalised(
        LiftedStructureLoss, *margin, tile=tile, reducer=reducers.DoNothingReducer()
    )
    _, expected = oracle.of_references(
        scalars(x), y.tolist(), scalars(ref), ref_y.tolist(), *margin
    )
    assert_same(loss, (x, y, None, ref, ref_y), expected, [x, ref], UPSTREAM)


@given(st.data(), margins, st.booleans())
def test_list_of_a_miner_agrees_with_the_equation(data, margin, with_ref):
    num, num_ref, size = (data.draw(st.integers(1, 6)) for _ in range(3))
    x = data.draw(rows(num, size)).requires_grad_()
    ref = data.draw(rows(num_ref, size)).requires_grad_() if with_ref else x
    pairs = data.draw(listed(num, len(ref)))
    loss = unnormalised(LiftedStructureLoss, *margin, reducer=reducers.DoNothingReducer())
    _, expected = oracle.of_list(
        scalars(x), scalars(ref), [p.tolist() for p in pairs], *margin, not with_ref
    )
    args = (x, None, pairs, ref) if with_ref else (x, None, pairs)
    assert_same(loss, args, expected, [x, ref] if with_ref else [x], UPSTREAM)


@given(batches_with_references(), margins, tiles, st.booleans())
def test_generalized_agrees_with_the_equation(batch, margin, tile, with_ref):
    x, y, ref, ref_y = batch
    x.requires_grad_()
    if not with_ref:
        ref, ref_y = x, y
    loss = unnormalised(
        GeneralizedLiftedStructureLoss, *margin, tile=tile, reducer=reducers.DoNothingReducer()
    )
    expected = oracle.generalized(
        scalars(x), scalars(ref),
        lambda i, j: y[i] == ref_y[j] and (with_ref or i != j), lambda i, j: y[i] != ref_y[j],
        *margin,
    )  # fmt: skip
    args = (x, y, None, ref, ref_y) if with_ref else (x, y)
    assert_same(loss, args, expected, [x], UPSTREAM)


@given(st.data(), margins)
def test_generalized_list_agrees_with_the_equation(data, margin):
    num, size = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 4))
    x, y = data.draw(rows(num, size)).requires_grad_(), data.draw(labels(num))
    a1, p, a2, n = data.draw(listed(num, num))
    positive, negative = y[a1] == y[p], y[a2] != y[n]
    pairs = (a1[positive], p[positive], a2[negative], n[negative])
    loss = unnormalised(
        GeneralizedLiftedStructureLoss, *margin, reducer=reducers.DoNothingReducer()
    )
    pulled = set(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))
    pushed = set(zip(pairs[2].tolist(), pairs[3].tolist(), strict=True))
    expected = oracle.generalized(
        scalars(x), scalars(x), lambda i, j: (i, j) in pulled, lambda i, j: (i, j) in pushed,
        *margin,
    )  # fmt: skip
    assert_same(loss, (x, None, pairs), expected, [x], UPSTREAM)


DISTANCES = {
    "l2": distances.LpDistance(),
    "l2 of raw rows": distances.LpDistance(normalize_embeddings=False),
    "squared l2": distances.LpDistance(power=2),
    "l1": distances.LpDistance(p=1),
    "cosine": distances.CosineSimilarity(),
    "dot product": distances.DotProductSimilarity(normalize_embeddings=False),
    "snr": distances.SNRDistance(),
}
MINERS = {
    "all pairs": None,
    "multi similarity": miners.MultiSimilarityMiner(),
    "batch hard": miners.BatchHardMiner(),
    "all triplets": miners.TripletMarginMiner(type_of_triplets="all"),
    "pair margin": miners.PairMarginMiner(pos_margin=0.2, neg_margin=1.45),
    "batch easy hard": miners.BatchEasyHardMiner(),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("num_per_class", [(4, 4, 4, 4, 4, 4), (3, 5, 2, 1, 7)])
def test_equal_to_pml_where_pairs_have_negatives(distance, miner, num_per_class):
    """Points are further apart than 1e-2: below, pml's own gradient is wrong."""
    y = torch.arange(len(num_per_class)).repeat_interleave(torch.tensor(num_per_class))
    y = y[torch.randperm(len(y))]
    x = torch.randn(len(y), 12, dtype=torch.float64, requires_grad=True)
    mined = MINERS[miner](x, y) if MINERS[miner] else None
    options = {"neg_margin": 0.8, "pos_margin": 0.1, "distance": DISTANCES[distance]}
    unreduced = {**options, "reducer": reducers.DoNothingReducer()}
    ours = LiftedStructureLoss(**unreduced)(x, y, mined)["loss"]
    theirs = losses.LiftedStructureLoss(**unreduced)(x, y, mined)["loss"]
    for mine, other in zip(ours["indices"], theirs["indices"], strict=True):
        assert torch.equal(mine, other)
    i, j = ours["indices"]
    anchors = torch.arange(len(y)) if mined is None else mined[0 if len(mined) == 3 else 2]
    has_negatives = torch.isin(i, anchors) | torch.isin(j, anchors)
    assert has_negatives.float().mean() > 0.5
    weight = torch.rand(len(i), dtype=torch.float64) * has_negatives
    values = ours["losses"], theirs["losses"].squeeze(1)
    torch.testing.assert_close(
        values[0] * has_negatives, values[1] * has_negatives, rtol=1e-10, atol=1e-10
    )
    grads = [torch.autograd.grad((weight * v).sum(), x)[0] for v in values]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)
    if has_negatives.all():
        reduced = LiftedStructureLoss(**options)(x, y, mined)
        expected = losses.LiftedStructureLoss(**options)(x, y, mined)
        torch.testing.assert_close(reduced, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("miner", MINERS)
def test_generalized_equal_to_pml_for_anchors_with_both_sides(distance, miner):
    y = torch.arange(6).repeat_interleave(4)[torch.randperm(24)]
    x = torch.randn(24, 12, dtype=torch.float64, requires_grad=True)
    mined = MINERS[miner](x, y) if MINERS[miner] else None
    options = {
        "neg_margin": 0.8,
        "pos_margin": 0.1,
        "distance": DISTANCES[distance],
        "reducer": reducers.DoNothingReducer(),
    }
    ours = GeneralizedLiftedStructureLoss(**options)(x, y, mined)["loss"]["losses"]
    theirs = losses.GeneralizedLiftedStructureLoss(**options)(x, y, mined)["loss"]["losses"]
    theirs = theirs.squeeze(1)
    everyone = torch.arange(24)
    both = torch.ones(24, dtype=torch.bool)
    if mined is not None:
        second = mined[0 if len(mined) == 3 else 2]
        both = torch.isin(everyone, mined[0]) & torch.isin(everyone, second)
    assert both.float().mean() > 0.5
    torch.testing.assert_close(ours * both, theirs * both, rtol=1e-10, atol=1e-10)
    weight = torch.rand(24, dtype=torch.float64) * both
    grads = [torch.autograd.grad((weight * v).sum(), x)[0] for v in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


def test_hand_example():
    x = torch.tensor([[0.0], [1.0], [3.0], [6.0]], dtype=torch.float64, requires_grad=True)
    loss = unnormalised(LiftedStructureLoss)(x, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx(1.427316403, abs=1e-9)
    loss.backward()
    expected = [0.185333097, 1.176515942, -2.478186679, 1.116337640]
    torch.testing.assert_close(x.grad.squeeze(1), x.new_tensor(expected), rtol=0, atol=1e-9)


@BOTH
@TILES
def test_coincident_embeddings_are_finite_and_pull_nothing(loss_class, tile):
    for value in (0.0, 1.0):
        x = torch.full((12, 5), value, requires_grad=True)
        loss = loss_class(tile=tile)(x, torch.arange(12) // 4)
        loss.backward()
        assert (x.grad == 0).all()
        if loss_class is LiftedStructureLoss:
            assert loss.item() == pytest.approx(0.5 * (1 + log(16)) ** 2)


def test_collapsed_classes_on_a_simplex():
    num = 32
    simplex = torch.eye(num, dtype=torch.float64) - 1 / num
    loss = LiftedStructureLoss()(simplex.repeat_interleave(4, dim=0), torch.arange(128) // 4)
    expected = 0.5 * (1 - sqrt(2 * num / (num - 1)) + log(2 * 124)) ** 2
    assert loss.item() == pytest.approx(expected)
    assert expected == pytest.approx(12.885864, abs=1e-6)


def random_batch(num=24, num_per_class=4, size=6):
    y = (torch.arange(num) // num_per_class)[torch.randperm(num)]
    return torch.randn(num, size, dtype=torch.float64), y


def test_smooth_loss_bounds_the_hard_one():
    x, y = random_batch()
    distance = torch.cdist(x, x)
    smooth = unnormalised(LiftedStructureLoss, reducer=reducers.DoNothingReducer())(x, y)["loss"]
    for loss, i, j in zip(smooth["losses"], *smooth["indices"], strict=True):
        others = y != y[i]
        hard = distance[i, j] + max(
            (1 - distance[i, others]).max(), (1 - distance[j, others]).max()
        )
        soft = (2 * loss).sqrt()
        assert soft >= hard.clamp(min=0) - 1e-12
        assert soft <= (hard + log(2 * others.sum().item())).clamp(min=0) + 1e-12


@BOTH
def test_only_the_difference_of_margins_matters_for_a_distance(loss_class):
    x, y = random_batch()
    assert loss_class(1.3, 0.3)(x, y).item() == pytest.approx(loss_class(1, 0)(x, y).item())


@BOTH
def test_raw_rows_may_be_moved_and_turned(loss_class):
    x, y = random_batch()
    loss = unnormalised(loss_class)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert loss(x @ turn + 5, y).item() == pytest.approx(loss(x, y).item())
    x.requires_grad_()
    loss(x, y).backward()
    assert x.grad.sum(dim=0).abs().max() < 1e-12


def test_singleton_is_a_negative_and_no_anchor():
    x, y = random_batch()
    y[0] = 99
    loss = unnormalised(LiftedStructureLoss, reducer=reducers.DoNothingReducer())
    with_it, without = loss(x, y)["loss"], loss(x[1:], y[1:])["loss"]
    assert not (torch.cat(with_it["indices"]) == 0).any()
    assert (with_it["losses"] > without["losses"]).all()


def test_every_negative_twice_adds_log_2():
    x, y = random_batch()
    i, j = ((y[:, None] == y) & ~torch.eye(24, dtype=torch.bool)).nonzero(as_tuple=True)
    k, n = (y[:, None] != y).nonzero(as_tuple=True)
    loss = unnormalised(LiftedStructureLoss, reducer=reducers.DoNothingReducer())
    once = loss(x, None, (i, j, k, n))["loss"]["losses"]
    twice = loss(x, None, (i, j, k.repeat(2), n.repeat(2)))["loss"]["losses"]
    torch.testing.assert_close(once, loss(x, y)["loss"]["losses"])
    assert (once > 0).all()
    torch.testing.assert_close((2 * twice).sqrt(), (2 * once).sqrt() + log(2))


def test_negative_of_another_anchor_changes_nothing():
    x, _ = random_batch()
    loss = unnormalised(LiftedStructureLoss)
    pair = (torch.tensor([0]), torch.tensor([1]))
    base = loss(x, None, (*pair, torch.tensor([0]), torch.tensor([5])))
    other = loss(x, None, (*pair, torch.tensor([0, 7]), torch.tensor([5, 1])))
    mine = loss(x, None, (*pair, torch.tensor([0, 1]), torch.tensor([5, 7])))
    assert other == base
    assert mine > base
    assert base > 0  # a list of one pair is computed


def test_references_equal_to_the_queries_are_the_batch_alone():
    x, y = random_batch()
    loss = unnormalised(LiftedStructureLoss)
    i, j = ((y[:, None] == y) & ~torch.eye(24, dtype=torch.bool)).nonzero(as_tuple=True)
    k, n = (y[:, None] != y).nonzero(as_tuple=True)
    with_ref = loss(x, y, (i, j, k, n), x.clone(), y.clone())
    assert with_ref.item() == pytest.approx(loss(x, y).item())
    assert loss(x, y, None, x, y) == loss(x, y)  # the very same tensors are no references


def test_roles_of_queries_and_references_may_be_swapped():
    (x, y), (ref, ref_y) = random_batch(), random_batch(15, 3)
    loss = unnormalised(LiftedStructureLoss)
    assert loss(x, y, None, ref, ref_y).item() == pytest.approx(loss(ref, ref_y, None, x, y).item())


@BOTH
@TILES
@pytest.mark.parametrize("y", [torch.zeros(6).long(), torch.arange(6)])
def test_nothing_to_compare_is_an_attached_zero(loss_class, tile, y):
    x = torch.randn(6, 3, requires_grad=True)
    loss = loss_class(tile=tile)(x, y)
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


@BOTH
@TILES
def test_large_rows_in_float32_do_not_vanish(loss_class, tile):
    x, y = random_batch()
    x = 1000 * x
    loss = unnormalised(loss_class, tile=tile)
    expected = loss(x, y).item()
    assert expected > 100
    assert loss(x.float(), y).item() == pytest.approx(expected, rel=1e-5)


@BOTH
@TILES
def test_close_negatives_in_float32_have_the_right_gradient(loss_class, tile):
    x, y = random_batch(64, 4, 16)
    a, b = 0, int((y != y[0]).nonzero()[0])
    x[b] = x[a] + 1e-6 / 4
    x = x.float()
    loss = unnormalised(loss_class, tile=tile)
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype, copy=True).requires_grad_()
        loss(leaf, y).backward()
        grads.append(leaf.grad.double())
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()


@pytest.mark.parametrize(
    "reducer",
    [
        reducers.MeanReducer(),
        reducers.AvgNonZeroReducer(),
        reducers.ThresholdReducer(low=1.0),
        reducers.ClassWeightedReducer(torch.linspace(1, 2, 6).double()),
        reducers.PerAnchorReducer(),
    ],
    ids=lambda reducer: type(reducer).__name__,
)
@BOTH
def test_every_reducer_gets_a_vector(loss_class, reducer):
    x, y = random_batch()
    unreduced = loss_class(reducer=reducers.DoNothingReducer())(x, y)["loss"]
    per_loss = unreduced["losses"]
    first = unreduced["indices"]
    first = first[0] if isinstance(first, tuple) else first
    expected = {
        "MeanReducer": lambda: per_loss.mean(),
        "AvgNonZeroReducer": lambda: per_loss[per_loss > 0].mean(),
        "ThresholdReducer": lambda: per_loss[per_loss > 1.0].mean(),
        "ClassWeightedReducer": lambda: (per_loss * reducer.weights[y[first]]).mean(),
        "PerAnchorReducer": lambda: per_loss.mean(),  # equal classes: a mean of equal means
    }[type(reducer).__name__]()
    assert loss_class(reducer=reducer)(x, y).item() == pytest.approx(expected.item())


@BOTH
def test_labels_or_a_tuple_are_required(loss_class):
    with pytest.raises(ValueError, match=r"^labels: expected .* Give labels or an indices_tuple"):
        loss_class()(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"^indices_tuple: expected"):
        loss_class()(torch.ones(3, 2), torch.ones(3), (torch.ones(1).long(),))
    with pytest.raises(ValueError, match=r"^ref_emb: expected 2 columns"):
        loss_class()(torch.ones(3, 2), torch.ones(3), None, torch.ones(3, 4), torch.ones(3))


def test_generalized_refuses_a_pair_that_is_both():
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=r"^indices_tuple: expected each pair"):
        GeneralizedLiftedStructureLoss()(torch.ones(2, 2), None, (one, one + 1, one, one + 1))


@BOTH
def test_statistics_of_the_distance_are_recorded(loss_class):
    x, y = random_batch()
    distance = distances.LpDistance(collect_stats=True)
    loss_class(distance=distance)(3 * torch.nn.functional.normalize(x), y)
    assert distance.initial_avg_query_norm == pytest.approx(3.0)
    assert distance.final_avg_ref_norm == pytest.approx(1.0)


@BOTH
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_batch_under_other_labels_is_a_set_of_references(loss_class, normalize, dtype):
    x, y = random_batch()
    x = x.to(dtype)
    distance = distances.LpDistance(normalize_embeddings=normalize)
    loss = loss_class(distance=distance)
    other = (y + 1) % 3
    assert loss(x, y, None, x, other) == loss(x, y, None, x.clone(), other)
    assert loss(x, y, None, x, y.clone()) == loss(x, y, None, x.clone(), y.clone())
    assert loss(x, y, None, x, y) == loss(x, y)


@BOTH
@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_no_power_of_the_distance_makes_nan(loss_class, power):
    x, y = random_batch()
    x[1] = x[0]
    x.requires_grad_()
    loss_class(distance=distances.LpDistance(power=power))(x, y).backward()
    assert x.grad.isfinite().all()


@BOTH
def test_large_rows_in_a_list_do_not_vanish(loss_class):
    x, y = random_batch()
    x = 1000 * x
    mined = miners.BatchHardMiner(distance=distances.LpDistance(normalize_embeddings=False))(x, y)
    loss = unnormalised(loss_class)
    expected = loss(x, y, mined).item()
    assert expected > 100
    assert loss(x.float(), y, mined).item() == pytest.approx(expected, rel=1e-5)


@BOTH
@pytest.mark.parametrize("distance", [distances.LpDistance(), distances.CosineSimilarity()])
def test_autocast_changes_nothing(loss_class, distance):
    x, y = random_batch()
    x = x.float().requires_grad_()
    loss = loss_class(distance=distance)
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = loss(x, y)
        (grad_under,) = torch.autograd.grad(under, x)
    assert under == value
    tolerance = 0 if isinstance(distance, distances.LpDistance) else 1e-2  # pml's own backward
    torch.testing.assert_close(grad_under, grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_row_of_zeros_has_no_gradient_where_it_has_no_direction(normalize):
    x, y = random_batch()
    x[3] = 0
    x.requires_grad_()
    distance = distances.LpDistance(normalize_embeddings=normalize)
    (grad,) = torch.autograd.grad(LiftedStructureLoss(distance=distance)(x, y), x)
    assert (grad[3] == 0).all() == normalize
    assert (grad[:3] != 0).all()


ONE, TWO = torch.tensor([0]), torch.tensor([0, 1])


@BOTH
@pytest.mark.parametrize(
    ("mined", "came"),
    [
        ((ONE, ONE), "tuple of 2"),
        (torch.zeros(4, 2).long(), "Tensor"),
        (([0], ONE, ONE), "list"),
        ((ONE, ONE, ONE[None]), r"torch.int64 \(1, 1\)"),
        ((ONE, ONE, ONE.float()), "torch.float32"),
        ((ONE, TWO, ONE), "lengths"),
        ((ONE, ONE, TWO, ONE), "lengths"),
        ((ONE, ONE - 1, ONE), "values from -1 to -1"),
        ((ONE, ONE, ONE + 24), "values from 24 to 24"),
    ],
)
def test_what_no_miner_returns_is_refused(loss_class, mined, came):
    x, y = random_batch()
    with pytest.raises(ValueError, match=rf"^indices_tuple: expected .*; got {came}"):
        loss_class()(x, y, mined)


@BOTH
def test_labels_of_references_alone_are_refused(loss_class):
    x, y = random_batch()
    with pytest.raises(ValueError, match=r"^ref_emb: expected to be given with `ref_labels`"):
        loss_class()(x, y, None, None, y)


def test_hyper_parameters_may_be_numpy_scalars():
    loss = LiftedStructureLoss(neg_margin=np.float32(0.5))
    x, y = random_batch()
    torch.testing.assert_close(loss(x, y), LiftedStructureLoss(neg_margin=0.5)(x, y))


@BOTH
def test_an_empty_tuple_of_any_dtype_is_an_attached_zero(loss_class):
    x, y = random_batch()
    x.requires_grad_()
    loss = loss_class()(x, y, (torch.tensor([]),) * 3)
    loss.backward()
    assert loss == 0
