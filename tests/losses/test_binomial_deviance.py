import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, miners, reducers, regularizers

from pml_extras.losses.binomial_deviance import BinomialDevianceLoss
from tests.oracles import binomial_deviance as oracle
from tests.oracles.intra_batch_connections import derivative
from tests.strategies import batches, batches_with_references, labels, listed, rows

constants = st.sampled_from(((2.0, 25.0, 0.5), (3.0, 1.5, -0.2)))
BOTH = pytest.mark.parametrize("per_anchor", [True, False])
SQUARED = distances.LpDistance(normalize_embeddings=False, power=2)


def of_distance(a, b):
    return -oracle.squared_distance(a, b)


def assert_same(loss, args, function, x):
    """Value, and slope in a direction of each row's own scale, of ``function`` of the rows x."""
    x.requires_grad_()
    value = loss(x, *args)
    assert value.item() == pytest.approx(complex(function(x.tolist())).real, rel=1e-10, abs=1e-10)
    (grad,) = torch.autograd.grad(value, x)
    towards = torch.randn_like(x) * x.detach().norm(dim=1, keepdim=True)
    slope = derivative(function, x.tolist(), towards.tolist())
    size = max(1.0, (grad * towards).abs().sum().item())
    assert (grad * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10 * size)


@settings(max_examples=60)
@given(batches(norms=True), constants)
def test_by_default_it_is_the_authors_form(batch, numbers):
    x, y = batch
    assert_same(
        BinomialDevianceLoss(*numbers), (y,),
        lambda z: oracle.authors(y.tolist(), z, oracle.cosine, *numbers), x,
    )  # fmt: skip


@settings(max_examples=60)
@given(batches(norms=True), st.sampled_from(((2.0, 25.0, 0.5), (1.5, 0.5, -0.2))))
def test_by_pairs_it_is_the_form_of_yi(batch, numbers):
    x, y = batch
    alpha, cost, threshold = numbers
    assert_same(
        BinomialDevianceLoss(alpha, alpha * cost, threshold, per_anchor=False), (y,),
        lambda z: oracle.yi(y.tolist(), z, oracle.cosine, *numbers), x,
    )  # fmt: skip


@settings(max_examples=40)
@given(batches(), constants)
def test_a_distance_changes_the_sign_of_every_excess(batch, numbers):
    x, y = batch
    *scales, threshold = numbers
    assert_same(
        BinomialDevianceLoss(*numbers, distance=SQUARED), (y,),
        lambda z: oracle.authors(y.tolist(), z, of_distance, *scales, -threshold), x,
    )  # fmt: skip
    x = x.detach()
    assert_same(
        BinomialDevianceLoss(2.0, 6.0, threshold, per_anchor=False, distance=SQUARED), (y,),
        lambda z: oracle.yi(y.tolist(), z, of_distance, 2.0, 3.0, -threshold), x,
    )  # fmt: skip


def total(parts):
    return oracle.mean([pull + push for pull, push in parts])


@settings(max_examples=40)
@given(batches_with_references(norms=True), constants)
def test_references_are_the_other_side(batch, numbers):
    x, y, ref, ref_y = batch
    others = ref.tolist()

    def function(z):
        return total(
            oracle.by_anchor(
                z, others, lambda i, j: y[i] == ref_y[j], lambda i, j: y[i] != ref_y[j],
                oracle.cosine, *numbers,
            )
        )  # fmt: skip

    assert_same(BinomialDevianceLoss(*numbers), (y, None, ref, ref_y), function, x)


@settings(max_examples=60)
@given(st.data(), constants, st.booleans(), st.booleans())
def test_a_tuple_says_which_pairs_there_are(data, numbers, with_ref, per_anchor):
    num, num_ref, size = (data.draw(st.integers(1, 6)) for _ in range(3))
    x = data.draw(rows(num, size, norms=True))
    ref = data.draw(rows(num_ref, size, norms=True)) if with_ref else x
    y = data.draw(labels(num))
    ref_y = data.draw(labels(num_ref)) if with_ref else y
    a1, p, a2, n = data.draw(listed(num, len(ref)))
    positive, negative = y[a1] == ref_y[p], y[a2] != ref_y[n]  # else one pair could be both
    given_pairs = (a1[positive], p[positive], a2[negative], n[negative])
    pulled, pushed = (
        list(zip(given_pairs[k].tolist(), given_pairs[k + 1].tolist(), strict=True)) for k in (0, 2)
    )
    *scales, threshold = numbers

    def function(z):
        others = ref.tolist() if with_ref else z
        if per_anchor:  # how often a pair is listed does not matter
            return total(
                oracle.by_anchor(
                    z, others, lambda i, j: (i, j) in pulled, lambda i, j: (i, j) in pushed,
                    oracle.cosine, *numbers,
                )
            )  # fmt: skip
        return sum(
            oracle.mean(
                oracle.of_pairs(
                    [oracle.cosine(z[i], others[j]) for i, j in pairs], sign, scale, threshold
                )
            )
            for pairs, sign, scale in ((pulled, -1, scales[0]), (pushed, 1, scales[1]))
        )

    loss = BinomialDevianceLoss(*numbers, per_anchor=per_anchor)
    args = (None, given_pairs, ref) if with_ref else (None, given_pairs)
    assert_same(loss, args, function, x)


def random_batch(num_per_class=(4, 3, 2, 1), size=6, dtype=torch.float64):
    y = torch.arange(len(num_per_class)).repeat_interleave(torch.tensor(num_per_class))
    return torch.randn(len(y), size, dtype=dtype), y[torch.randperm(len(y))]


def test_both_forms_are_equal_where_classes_have_one_size_and_only_there():
    for sizes, equal in (((3, 3, 3), True), ((4, 3, 2), False)):
        x, y = random_batch(sizes)
        by_anchor, by_pairs = (
            BinomialDevianceLoss(per_anchor=flag)(x, y).item() for flag in (True, False)
        )
        assert (by_anchor == pytest.approx(by_pairs, rel=1e-12)) == equal


def test_the_row_itself_is_left_out_and_an_equal_row_is_not():
    x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 0])
    expected = [oracle.penalty(-1.0), oracle.penalty(1.0)]  # s = 1 and s = 0, scale 2, b = 0.5
    expected = (expected[0] + 2 * expected[1]) / 3
    for per_anchor in (True, False):
        value = BinomialDevianceLoss(per_anchor=per_anchor)(x, y)
        assert value.item() == pytest.approx(expected.real)


def test_the_two_parts_are_sub_losses():
    x, y = random_batch()
    loss = BinomialDevianceLoss(reducer=reducers.DoNothingReducer())
    found = loss(x, y)
    assert list(found) == loss.sub_loss_names() == ["pos_loss", "neg_loss"]
    parts = oracle.by_anchor(
        x.tolist(), x.tolist(),
        lambda i, j: i != j and y[i] == y[j], lambda i, j: y[i] != y[j],
        oracle.cosine, 2.0, 25.0, 0.5,
    )  # fmt: skip
    for k, name in enumerate(found):
        assert found[name]["reduction_type"] == "element"
        expected = x.new_tensor([complex(part[k]).real for part in parts])
        torch.testing.assert_close(found[name]["losses"], expected, rtol=1e-10, atol=1e-12)
    assert (found["pos_loss"]["losses"][y == 3] == 0).all()


def test_by_pairs_every_ordered_pair_is_an_element():
    x, y = random_batch()
    found = BinomialDevianceLoss(per_anchor=False, reducer=reducers.DoNothingReducer())(x, y)
    for name, kind, count in (
        ("pos_loss", "pos_pair", 4 * 3 + 3 * 2 + 2),
        ("neg_loss", "neg_pair", 10 * 9 - 20),
    ):
        i, j = found[name]["indices"]
        assert found[name]["reduction_type"] == kind
        assert len(found[name]["losses"]) == len({*zip(i.tolist(), j.tolist(), strict=True)})
        assert len(i) == count
        assert (i != j).all()
        assert ((y[i] == y[j]) == (kind == "pos_pair")).all()


REDUCERS = {
    "sum": (reducers.SumReducer(), lambda v, i, y: v.sum()),
    "average of those above 0": (reducers.AvgNonZeroReducer(), lambda v, i, y: v[v > 0].mean()),
    "class weights": (
        reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 0.5, 3.0]).double()),
        lambda v, i, y: (v * torch.tensor([1.0, 2.0, 0.5, 3.0])[y[i]]).mean(),
    ),
}


@BOTH
@pytest.mark.parametrize("name", REDUCERS)
def test_reducers_reduce_each_part(name, per_anchor):
    x, y = random_batch()
    reducer, expected = REDUCERS[name]
    parts = BinomialDevianceLoss(per_anchor=per_anchor, reducer=reducers.DoNothingReducer())(x, y)
    value = BinomialDevianceLoss(per_anchor=per_anchor, reducer=reducer)(x, y)
    wanted = 0
    for part in parts.values():
        i = part["indices"] if per_anchor else part["indices"][0]
        wanted = wanted + expected(part["losses"], i, y)
    assert value.item() == pytest.approx(wanted.item())


def test_per_anchor_reducer_turns_the_form_by_pairs_into_means_over_rows_that_have_pairs():
    x, y = random_batch((4, 3, 2, 2))
    value = BinomialDevianceLoss(per_anchor=False, reducer=reducers.PerAnchorReducer())(x, y)
    assert value.item() == pytest.approx(BinomialDevianceLoss()(x, y).item())


@BOTH
@pytest.mark.parametrize("y", [torch.zeros(6).long(), torch.arange(6)])
def test_a_kind_without_pairs_costs_nothing(per_anchor, y):
    x = torch.randn(6, 3, requires_grad=True)
    parts = BinomialDevianceLoss(per_anchor=per_anchor, reducer=reducers.DoNothingReducer())(x, y)
    missing = "pos_loss" if len(y.unique()) > 1 else "neg_loss"
    assert (torch.as_tensor(parts[missing]["losses"]) == 0).all()
    value = BinomialDevianceLoss(per_anchor=per_anchor)(x, y)
    value.backward()
    assert value > 0
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


@BOTH
def test_an_empty_tuple_is_an_attached_zero(per_anchor):
    x, y = random_batch()
    x.requires_grad_()
    loss = BinomialDevianceLoss(per_anchor=per_anchor)(x, y, (torch.tensor([]),) * 4)
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


MINERS = (
    miners.MultiSimilarityMiner(),
    miners.TripletMarginMiner(type_of_triplets="all"),
    miners.BatchHardMiner(),
)


@BOTH
@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_miners(per_anchor, miner):
    x, y = random_batch((4, 4, 4))
    x.requires_grad_()
    loss = BinomialDevianceLoss(per_anchor=per_anchor)
    mined = loss(x, y, miner(x, y))
    mined.backward()
    assert x.grad.isfinite().all()
    assert mined != loss(x, y)


def test_triplets_are_their_pairs():
    x, y = random_batch()
    a, p, n = MINERS[1](x, y)
    for per_anchor in (True, False):
        loss = BinomialDevianceLoss(per_anchor=per_anchor)
        assert loss(x, y, (a, p, n)) == loss(x, y, (a, p, a, n))


def test_a_pair_listed_as_both_is_refused_by_anchor():
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=r"^indices_tuple: expected each pair"):
        BinomialDevianceLoss()(torch.ones(2, 2), None, (one, one + 1, one, one + 1))


@BOTH
def test_half_inputs_and_autocast_are_computed_in_float32(per_anchor):
    x, y = random_batch()
    loss = BinomialDevianceLoss(per_anchor=per_anchor)
    for half in (torch.float16, torch.bfloat16):
        expected = loss(x.to(half).double(), y)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(x.to(half), y)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@BOTH
def test_regularizer_sees_the_rows(per_anchor):
    x, y = random_batch()
    loss = BinomialDevianceLoss(
        per_anchor=per_anchor,
        embedding_regularizer=regularizers.LpRegularizer(),
        embedding_reg_weight=0.7,
    )
    plain = BinomialDevianceLoss(per_anchor=per_anchor)(x, y)
    expected = plain + 0.7 * x.norm(dim=1).mean()
    torch.testing.assert_close(loss(x, y), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale_pos": 0}, "scale_pos: expected a finite number > 0; got 0"),
        ({"scale_neg": -1.0}, "scale_neg: expected a finite number > 0; got -1.0"),
        ({"threshold": float("nan")}, "threshold: expected a finite number; got nan"),
        ({"per_anchor": 1}, "per_anchor: expected True or False; got 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        BinomialDevianceLoss(**arguments)


@BOTH
def test_labels_or_a_tuple_are_required(per_anchor):
    with pytest.raises(ValueError, match=r"^labels: expected .* Give labels or an indices_tuple"):
        BinomialDevianceLoss(per_anchor=per_anchor)(torch.ones(3, 2))
