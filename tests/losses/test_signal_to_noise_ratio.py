import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.distances import SNRDistance

from pml_extras.functional import tiles
from pml_extras.losses import SignalToNoiseRatioContrastiveLoss
from tests.largest import Largest
from tests.oracles import snr as oracle
from tests.strategies import batches, batches_with_references, listed

MARGINS = st.sampled_from(((0.0, 1.0), (0.3, 2.5), (-0.5, 1.0)))
MINERS = {
    "all pairs": None,
    "multi similarity": miners.MultiSimilarityMiner(),
    "all triplets": miners.TripletMarginMiner(type_of_triplets="all"),
}
UPSTREAM = torch.linspace(0.5, 2.0, 64, dtype=torch.float64)
SUB_LOSSES = ("pos_loss", "neg_loss")


def with_signal(x):
    """Its rows with coordinates that differ; rows that coincide still do."""
    x = x + torch.arange(x.shape[1]).double().square()
    x = torch.cat([x, x[:, :1] * 3 - 1], dim=1)
    assume((x.var(dim=1) > 1e-3).all())
    return x.requires_grad_()


def hinges(x, ref, listed_pairs, margins):
    """[pull] and [push] of a tuple, in 0-dim tensors."""
    a, p, b, n = (side.tolist() for side in listed_pairs)
    of = [[oracle.snr(list(u.unbind()), list(v.unbind())) for v in ref] for u in x]
    for ratio in (d.item() for row in of for d in row):  # rounding may open and close these
        assume(ratio == 0 or min(ratio, *(abs(ratio - m) for m in margins)) > 1e-9)
    pull = [(of[i][j] - margins[0]).clamp(min=0) for i, j in zip(a, p, strict=True)]
    push = [(margins[1] - of[i][j]).clamp(min=0) for i, j in zip(b, n, strict=True)]
    return pull, push


def all_pairs(y, ref_y, *, same):
    alike = torch.tensor([[u == v for v in ref_y.tolist()] for u in y.tolist()])
    positive = alike & ~torch.eye(len(y), dtype=torch.bool) if same else alike
    return (*positive.nonzero(as_tuple=True), *(~alike).nonzero(as_tuple=True))


def assert_same_gradients(actual, expected, leaves):
    attached = expected + sum(0 * leaf.sum() for leaf in leaves)
    grads = (torch.autograd.grad(v, leaves, retain_graph=True) for v in (actual, attached))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@given(st.data(), batches(min_rows=2), MARGINS, st.booleans())
def test_pairs_agree_with_the_equation(data, batch, margins, mined):
    x, y = with_signal(batch[0]), batch[1]
    pairs = data.draw(listed(len(x), len(x))) if mined else None
    raw = SNRDistance(normalize_embeddings=False)
    loss = SignalToNoiseRatioContrastiveLoss(
        *margins, distance=raw, reducer=reducers.DoNothingReducer()
    )
    result = loss(x, y, pairs)
    expected = hinges(x, x, pairs or all_pairs(y, y, same=True), margins)
    for name, values in zip(SUB_LOSSES, expected, strict=True):
        actual = result[name]["losses"]
        if not values:
            assert actual == 0
            continue
        values = torch.stack(values)
        torch.testing.assert_close(actual, values, rtol=1e-10, atol=1e-10)
        w = UPSTREAM[: len(values)]
        assert_same_gradients((w * actual).sum(), (w * values).sum(), [x])


@pytest.mark.parametrize("elements", [1, 9, 2**19])
@given(batch=batches_with_references(), margins=MARGINS, with_ref=st.booleans())
def test_default_is_the_mean_of_what_is_above_zero(elements, batch, margins, with_ref):
    x, y = with_signal(batch[0]), batch[1]
    ref, ref_y = (with_signal(batch[2]), batch[3]) if with_ref else (x, y)
    raw = SNRDistance(normalize_embeddings=False)
    loss = SignalToNoiseRatioContrastiveLoss(*margins, distance=raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_ELEMENTS, "cpu", elements)
        actual = loss(x, y, None, ref, ref_y) if with_ref else loss(x, y)
        expected = torch.zeros((), dtype=torch.float64)
        for values in hinges(x, ref, all_pairs(y, ref_y, same=not with_ref), margins):
            above = [v for v in values if v.item() > 0]
            expected = expected + (sum(above) / len(above) if above else 0)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        assert_same_gradients(actual, expected, [x, ref] if with_ref else [x])


def uneven(size=12):
    y = torch.arange(5).repeat_interleave(torch.tensor([3, 5, 2, 1, 7]))[torch.randperm(18)]
    return torch.randn(18, size, dtype=torch.float64, requires_grad=True), y


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_ref", [True, False])
@pytest.mark.parametrize("reducer", [None, reducers.MeanReducer()], ids=str)
@pytest.mark.parametrize("elements", [40, 2**19])
def test_equal_to_pml(miner, normalize, with_ref, reducer, elements, monkeypatch):
    monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", elements)
    x, y = uneven()
    ref, _ = uneven() if with_ref else (None, None)
    mined = MINERS[miner](x, y) if MINERS[miner] else None
    distance = SNRDistance(normalize_embeddings=normalize)
    options = {"pos_margin": 0.4, "neg_margin": 2.2, "distance": distance, "reducer": reducer}
    args = (x, y, mined, ref, y.clone()) if with_ref else (x, y, mined)
    leaves = [x, ref] if with_ref else [x]
    values = [
        cls(**options)(*args)
        for cls in (
            SignalToNoiseRatioContrastiveLoss,
            losses.SignalToNoiseRatioContrastiveLoss,
        )
    ]
    assert values[1] > 0.1
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    for mine, other in zip(*(torch.autograd.grad(v, leaves) for v in values), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_defaults_are_those_of_pml():
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) // 3
    ours = SignalToNoiseRatioContrastiveLoss()
    theirs = losses.SignalToNoiseRatioContrastiveLoss()
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-10, atol=1e-10)
    assert ours.sub_loss_names() == theirs.sub_loss_names()


def test_statistics_are_those_of_pml():
    x, y = uneven()
    stats = []
    for cls in (SignalToNoiseRatioContrastiveLoss, losses.SignalToNoiseRatioContrastiveLoss):
        for counts in (True, False):
            distance = SNRDistance(collect_stats=True)
            loss = cls(
                pos_margin=1.5,
                distance=distance,
                reducer=reducers.AvgNonZeroReducer(collect_stats=counts),
            )
            loss(x, y)
            found = [distance.initial_avg_query_norm, distance.final_avg_ref_norm]
            for name in SUB_LOSSES if counts else ():
                reducer = loss.reducer.reducers[name]
                found += [reducer.losses_size, reducer.num_past_filter, reducer.num_above_low]
            stats.append(found)
    assert stats[0] == pytest.approx(stats[2])
    assert stats[1] == pytest.approx(stats[3])
    assert 0 < stats[0][3] < stats[0][2]  # the hinge of some pairs is closed


@pytest.mark.parametrize("base", [reducers.AvgNonZeroReducer, reducers.ThresholdReducer])
def test_a_reducer_of_ones_own_sees_every_pair(base):
    seen = {}

    class Seeing(base):
        def element_reduction_helper(self, losses, embeddings):
            seen[len(losses)] = losses
            return super().element_reduction_helper(losses, embeddings)

    x, y = uneven()
    options = {"low": 0.0} if base is reducers.ThresholdReducer else {}
    loss = SignalToNoiseRatioContrastiveLoss(reducer=Seeing(**options))
    torch.testing.assert_close(loss(x, y), SignalToNoiseRatioContrastiveLoss()(x, y))
    assert sorted(seen) == sorted(len(p) for p in all_pairs(y, y, same=True)[::2])


def test_reducers_of_ones_own_together_see_every_pair():
    kinds = []

    class Seeing(reducers.MultipleReducers):
        def forward(self, loss_dict, embeddings, labels):
            kinds.extend(entry["reduction_type"] for entry in loss_dict.values())
            return super().forward(loss_dict, embeddings, labels)

    x, y = uneven()
    reducer = Seeing({name: reducers.AvgNonZeroReducer() for name in SUB_LOSSES})
    loss = SignalToNoiseRatioContrastiveLoss(reducer=reducer)
    torch.testing.assert_close(loss(x, y), SignalToNoiseRatioContrastiveLoss()(x, y))
    assert kinds == ["pos_pair", "neg_pair"]


def test_somebodys_ratio_is_computed_whole(monkeypatch):
    monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", 40)

    class Doubled(SNRDistance):
        def compute_mat(self, query_emb, ref_emb):
            assert len(query_emb) == len(ref_emb)
            return 2 * super().compute_mat(query_emb, ref_emb)

    x, y = uneven()
    doubled = SignalToNoiseRatioContrastiveLoss(0.4, 2.2, distance=Doubled())(x, y)
    torch.testing.assert_close(doubled, 2 * SignalToNoiseRatioContrastiveLoss(0.2, 1.1)(x, y))


def test_reducers_may_differ_by_sub_loss():
    x, y = uneven()
    own = {"pos_loss": reducers.AvgNonZeroReducer(), "neg_loss": reducers.SumReducer()}
    options = {"neg_margin": 2.0, "reducer": reducers.MultipleReducers(own)}
    theirs = losses.SignalToNoiseRatioContrastiveLoss(**options)(x, y)
    torch.testing.assert_close(SignalToNoiseRatioContrastiveLoss(**options)(x, y), theirs)
    assert theirs > 5


@pytest.mark.parametrize("with_lists", [False, True])
def test_a_row_of_nan_is_not_passed_over_in_silence(with_lists):
    x, y = uneven()
    x = x.detach()
    x[4, 0] = torch.nan
    reducer = reducers.AvgNonZeroReducer(collect_stats=with_lists)
    assert SignalToNoiseRatioContrastiveLoss(reducer=reducer)(x, y).isnan()


def test_hinges_all_closed_are_an_attached_zero():
    x, y = uneven()
    loss = SignalToNoiseRatioContrastiveLoss(pos_margin=100, neg_margin=-1)(x, y)
    assert loss == 0
    (grad,) = torch.autograd.grad(loss, x)
    assert (grad == 0).all()


def test_backward_has_the_labels_and_margins_of_the_forward_pass(monkeypatch):
    monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", 40)
    x, y = uneven()
    ref, ref_y = uneven()
    grads = []
    for changed in (False, True):
        loss = SignalToNoiseRatioContrastiveLoss()
        labels, ref_labels = y.clone(), ref_y.clone()
        value = loss(x, labels, None, ref, ref_labels)
        if changed:
            labels.zero_()
            ref_labels.zero_()
            loss.pos_margin, loss.neg_margin = 2.0, 5.0
        grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("with_ref", [False, True])
def test_a_large_batch_never_holds_its_matrix_nor_a_list_of_pairs(with_ref):
    x, y = torch.randn(1536, 3, requires_grad=True), torch.arange(1536) // 4
    args = (x, y, None, torch.zeros_like(x) + x.detach(), y.clone()) if with_ref else (x, y)
    with Largest() as largest:
        SignalToNoiseRatioContrastiveLoss(neg_margin=5)(*args).backward()  # most hinges are open
    assert largest.elements <= tiles.TILE_ELEMENTS["cpu"] < 1536**2 / 4


def test_another_distance_is_refused():
    with pytest.raises(ValueError, match=r"^distance: expected SNRDistance; got LpDistance"):
        SignalToNoiseRatioContrastiveLoss(distance=distances.LpDistance())


@pytest.mark.parametrize("side", ["row", "reference"])
def test_a_reference_of_nan_is_not_lost(side):
    x, ref = torch.randn(8, 6, requires_grad=True), torch.randn(10, 6)
    with torch.no_grad():
        (x if side == "row" else ref)[1, 2] = torch.nan
    y, ref_y = torch.arange(8) % 3, torch.arange(10) % 3
    assert SignalToNoiseRatioContrastiveLoss()(x, y, ref_emb=ref, ref_labels=ref_y).isnan()
