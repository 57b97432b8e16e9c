"""SmoothAPLoss and PNPLoss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers

from pml_extras.losses import PNPLoss, SmoothAPLoss
from tests.old_torch import reads_under_torch_func
from tests.oracles import ranking as oracle
from tests.strategies import batches

TILES = st.sampled_from((None, 1, 2, 5))
VARIANTS = PNPLoss.VARIANTS
BOTH = pytest.mark.parametrize("loss_class", [SmoothAPLoss, PNPLoss])
UPSTREAM = torch.linspace(0.5, 2.0, 64, dtype=torch.float64)
UNREDUCED = reducers.DoNothingReducer()


def assert_same(loss, x, y, of_similarities, *, fewest):
    """Values and gradients, by one upstream weight each, of rows with so many of their class."""
    x.requires_grad_()
    entry = loss(x, y)["loss"]
    num_alike = (y[:, None] == y).sum(1)
    listed = (num_alike >= fewest).nonzero().flatten()
    if len(listed) == 0:
        assert entry["losses"] == 0
        return
    assert entry["reduction_type"] == "element"
    assert torch.equal(entry["indices"], listed)
    unit = torch.nn.functional.normalize(x)
    sim = [list(row.unbind()) for row in (unit @ unit.T).unbind()]
    expected = torch.stack(of_similarities(sim, y.tolist()))[listed]
    torch.testing.assert_close(entry["losses"], expected, rtol=1e-10, atol=1e-10)
    w = UPSTREAM[: len(listed)]
    grads = [torch.autograd.grad((w * v).sum(), x)[0] for v in (entry["losses"], expected)]
    size = x.detach().norm(dim=1, keepdim=True)  # a gradient of unit rows scales with 1 / length
    torch.testing.assert_close(grads[0] * size, grads[1] * size, rtol=1e-10, atol=1e-10)


@given(batches(), TILES, st.sampled_from((0.02, 0.3)))
def test_smooth_ap_agrees_with_the_equation(batch, tile, temperature):
    loss = SmoothAPLoss(temperature, tile=tile, reducer=UNREDUCED)
    assert_same(
        loss, *batch, lambda s, y: oracle.smooth_ap(s, oracle.of_classes(y), temperature), fewest=1
    )


@given(
    batches(), TILES, st.sampled_from(VARIANTS), st.sampled_from(((0.02, 1, 2), (0.3, 2.5, 0.7)))
)
def test_pnp_agrees_with_the_equation(batch, tile, variant, hyper):
    temperature, alpha, b = hyper
    loss = PNPLoss(b, alpha, temperature, variant, tile=tile, reducer=UNREDUCED)
    assert_same(
        loss,
        *batch,
        lambda s, y: oracle.pnp(s, oracle.of_classes(y), temperature, variant, alpha, b),
        fewest=2,
    )


def uneven(sizes=(3, 5, 2, 1, 7), dim=12):
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(y), dim, dtype=torch.float64, requires_grad=True)
    return x, y[torch.randperm(len(y))]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize("power", [1, 2])
def test_pnp_equals_pml(variant, tile, power):
    x, y = uneven()
    distance = distances.CosineSimilarity(power=power)
    for hyper in ({}, {"b": 0.7, "alpha": 2.5, "anneal": 0.3}):
        options = {"variant": variant, "distance": distance, **hyper}
        values = PNPLoss(tile=tile, **options)(x, y), losses.PNPLoss(**options)(x, y)
        torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
        grads = [torch.autograd.grad(v, x)[0] for v in values]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)
        assert grads[0].abs().max() > 1e-3


WITH_PML_2_9 = pytest.mark.skipif(not hasattr(losses, "SmoothAPLoss"), reason="pml 2.9 has it")


@WITH_PML_2_9
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_smooth_ap_equals_pml_where_pml_has_the_equation(temperature):
    x = torch.randn(16, 12, dtype=torch.float64, requires_grad=True)
    y = torch.arange(4).repeat_interleave(4)
    mined = miners.MultiSimilarityMiner()(x, y)
    for pairs in (None, mined):
        values = [c(temperature)(x, y, pairs) for c in (SmoothAPLoss, losses.SmoothAPLoss)]
        torch.testing.assert_close(values[0].float(), values[1], rtol=1e-6, atol=1e-6)
        grads = [torch.autograd.grad(v, x)[0] for v in values]
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@WITH_PML_2_9
def test_smooth_ap_departs_from_pml_where_its_counts_are_swapped():
    x, y = torch.randn(32, 16), torch.arange(8).repeat_interleave(4)
    unit = torch.nn.functional.normalize(x.double())
    sides = oracle.of_classes(y.tolist())
    expected = torch.stack(oracle.smooth_ap((unit @ unit.T).unbind(), sides, 0.01)).mean()
    assert SmoothAPLoss()(x, y).item() == pytest.approx(expected.item(), abs=1e-5)
    assert abs(losses.SmoothAPLoss()(x, y) - expected) > 1e-4


@BOTH
@pytest.mark.parametrize("tile", [None, 3])
def test_order_of_the_batch_orders_the_losses(loss_class, tile):
    x, y = uneven()
    order = torch.randperm(len(y))
    loss = loss_class(tile=tile, reducer=UNREDUCED)
    before, after = torch.zeros(2, len(y)).double()
    for place, rows in ((before, torch.arange(len(y))), (after, order)):
        entry = loss(x[rows], y[rows])["loss"]
        place[rows[entry["indices"]]] = entry["losses"].detach()
    assert (before > 0.01).sum() > 10
    torch.testing.assert_close(after, before)


def test_a_row_alone_in_its_class_costs_nothing_and_counts():
    x, y = uneven((4, 4, 1, 1))
    values = SmoothAPLoss(reducer=UNREDUCED)(x, y)["loss"]["losses"]
    alone = y >= 2
    torch.testing.assert_close(values[alone], torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert (values[~alone] > 0.01).any()
    torch.testing.assert_close(SmoothAPLoss()(x, y), values.mean())


@BOTH
@pytest.mark.parametrize("tile", [None, 3])
def test_one_class_is_an_attached_zero(loss_class, tile):
    x = torch.randn(5, 3, requires_grad=True)
    loss = loss_class(tile=tile)(x, torch.zeros(5, dtype=torch.int64))
    assert loss == 0
    (grad,) = torch.autograd.grad(loss, x)
    assert (grad == 0).all()


@BOTH
def test_collapsed_rows_rank_each_other_by_halves(loss_class):
    x = torch.ones(6, 4, requires_grad=True)
    loss = loss_class()(x, torch.arange(6) // 2)
    loss.backward()
    expected = {SmoothAPLoss: 1 - 1.5 / 3.5, PNPLoss: 4 / 2}[loss_class]
    assert loss.item() == pytest.approx(expected)
    assert x.grad.isfinite().all()


def test_a_miners_tuple_weighs_the_rows_of_smooth_ap():
    x, y = uneven()
    pairs = (torch.tensor([0, 0, 3]), torch.tensor([1, 0, 3]), torch.tensor([5]), torch.tensor([5]))
    plain, weighed = (
        SmoothAPLoss(reducer=UNREDUCED)(x, y, p)["loss"]["losses"] for p in (None, pairs)
    )
    weights = torch.zeros(len(y)).double()
    weights[[0, 1, 3, 5]] = torch.tensor([1, 1 / 3, 2 / 3, 2 / 3]).double()
    torch.testing.assert_close(weighed, plain * weights)


def test_any_reducer_takes_rows_of_pnp():
    x, y = uneven()
    values = PNPLoss(reducer=UNREDUCED)(x, y)["loss"]["losses"]
    torch.testing.assert_close(PNPLoss(reducer=reducers.SumReducer())(x, y), values.sum())
    torch.testing.assert_close(
        PNPLoss(reducer=reducers.AvgNonZeroReducer())(x, y), values[values > 0].mean()
    )


@BOTH
def test_backward_has_the_labels_and_numbers_of_the_forward_pass(loss_class):
    x, y = uneven()
    grads = []
    for changed in (False, True):
        loss = loss_class(tile=4)
        labels = y.clone()
        value = loss(x, labels)
        if changed:
            labels.zero_()
            loss.variant = "Ds"
            for number in ("temperature", "anneal", "alpha", "b"):
                setattr(loss, number, 0.5)
        grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)


@BOTH
@pytest.mark.parametrize("tile", [None, 4])
def test_a_label_of_nan_is_a_class_of_its_own(loss_class, tile):
    x, y = uneven()
    unlabelled = torch.tensor([0, 5, 9])
    alone, unknown = y.clone(), y.float()
    alone[unlabelled] = torch.tensor([100, 101, 102])
    unknown[unlabelled] = torch.nan
    loss = loss_class(tile=tile)
    assert torch.equal(loss(x, unknown), loss(x, alone))


@BOTH
@pytest.mark.parametrize("tile", [None, 4])
@reads_under_torch_func
def test_gradients_by_torch_func_are_the_same(loss_class, tile):
    x, y = uneven()
    loss = loss_class(tile=tile)
    (expected,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach(), y), expected)


@BOTH
def test_a_temperature_that_would_get_no_gradient_from_tiles_is_refused(loss_class):
    x, y = uneven()
    loss = loss_class()
    name = "temperature" if loss_class is SmoothAPLoss else "anneal"
    setattr(loss, name, torch.nn.Parameter(torch.tensor(0.1)))
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number"):
        loss(x, y)


@BOTH
def test_what_it_cannot_compare_is_refused(loss_class):
    x, y = uneven()
    ref, ref_y = uneven()
    with pytest.raises(ValueError, match=r"^ref_emb: expected None"):
        loss_class()(x, y, None, ref, ref_y)
    with pytest.raises(ValueError, match=r"^labels: expected"):
        loss_class()(x)
    with pytest.raises(ValueError, match=r"^distance: expected CosineSimilarity; got SNRDistance"):
        loss_class(distance=distances.SNRDistance())


def test_pnp_refuses_a_miners_tuple():
    x, y = uneven()
    with pytest.raises(ValueError, match=r"^indices_tuple: expected None"):
        PNPLoss()(x, y, miners.MultiSimilarityMiner()(x, y))


@BOTH
def test_somebodys_cosine_is_computed_whole(loss_class):
    class Halved(distances.CosineSimilarity):
        def compute_mat(self, query_emb, ref_emb):
            assert query_emb is ref_emb
            return super().compute_mat(query_emb, ref_emb) / 2

    x, y = uneven()
    name = "temperature" if loss_class is SmoothAPLoss else "anneal"
    halved = loss_class(distance=Halved(), tile=2, **{name: 0.1})(x, y)
    torch.testing.assert_close(halved, loss_class(**{name: 0.2})(x, y))
