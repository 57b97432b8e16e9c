"""Under torch.compile every loss is one graph, with the values and gradients of eager mode."""

import copy

import pytest
import torch
from pytorch_metric_learning import reducers
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from pml_extras import losses, weighting
from pml_extras.losses._against_negatives import Formulas
from pml_extras.pooling import GeneralizedSumPooling
from pml_extras.reducers import BatchSizeReducer
from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES
from tests.old_torch import one_graph

# Of torch itself, where it goes on after a break.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    one_graph,
]

SIZES = (7, 9, 8)

# By what a graph cannot hold; they compile in several.
IN_PARTS = {
    "DelayedMemoryLoss": "pml's memory keeps its place in a Python number",
    "zabihzadeh_ensemble": "pml's triplet miner and loss list triplets and branch on their number",
}


@pytest.fixture(autouse=True)
def _without_graphs_of_other_tests():
    torch._dynamo.reset()
    counters.clear()


def batch(num, *, seed=0):
    """Classes of unequal sizes in no order, one of a single row; two rows coincide."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num, EMBEDDING_SIZE, dtype=torch.float64, generator=generator)
    rows[2] = rows[0]
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1, 4])[:num]
    return rows, labels


def tuple_of_pairs():
    pairs = [0, 3, 3, 1], [3, 5, 5, 4], [0, 0, 2], [1, 4, 3]  # one positive pair twice
    return tuple(torch.tensor(x) for x in pairs)


def value_and_gradients(call, module, rows, *args):
    rows = rows.clone().requires_grad_()
    torch.manual_seed(0)  # of dropout
    value = call(rows, *args)
    wanted = [rows, *(p for p in module.parameters() if p.requires_grad)]
    return value.detach(), *torch.autograd.grad(value, wanted, materialize_grads=True)


def assert_compiles(loss, *batches, fullgraph=True):
    """To the same as eager, batch after batch, in state too; two graphs at most."""
    eager, compiled = copy.deepcopy(loss), loss
    counter = CompileCounterWithBackend("aot_eager")
    dynamic = True if len(batches) > 1 and fullgraph else None
    call = torch.compile(compiled, fullgraph=fullgraph, dynamic=dynamic, backend=counter)
    for given in batches:
        expected = value_and_gradients(eager, eager, *given)
        actual = value_and_gradients(call, compiled, *given)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    if fullgraph:
        assert counter.frame_count <= 2


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in IN_PARTS])
def test_a_loss_is_one_graph_for_batches_of_any_size(name):
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # the default of later
        assert_compiles(LOSSES[name].make().double(), *(batch(num) for num in SIZES))


SETTINGS = {
    losses.NTXentLoss: ({"temperature": 0.1}, {"temperature": 0.5}),
    losses.TupletMarginLoss: ({"margin": 5.0, "scale": 8.0}, {"margin": 10.0, "scale": 16.0}),
    losses.PNPLoss: ({"anneal": 0.1, "variant": "Ib"}, {"anneal": 0.2, "variant": "Ib", "b": 3.0}),
    losses.BinomialDevianceLoss: ({"scale_neg": 10.0}, {"scale_neg": 20.0, "threshold": 0.4}),
    losses.GeneralizedLiftedStructureLoss: ({"neg_margin": 1.0}, {"neg_margin": 1.5}),
}


@pytest.mark.parametrize("cls", SETTINGS)
def test_two_losses_of_a_class_with_their_own_numbers_are_one_graph_each(cls):
    for settings in SETTINGS[cls]:
        assert_compiles(cls(**settings), batch(9))


@pytest.mark.parametrize("name", ["DelayedMemoryLoss"])
def test_a_loss_in_several_graphs_has_the_values_of_eager(name):
    loss = LOSSES[name].make().double()
    assert_compiles(loss, *(batch(num) for num in SIZES * 4), fullgraph=False)
    assert not counters["stats"].get("unique_graphs", 0) > 4  # not one for each place of the queue


def test_an_ensemble_of_losses_that_are_graphs_is_one():
    members = {
        "pairs": losses.GeneralizedLiftedStructureLoss(),
        "classes": losses.ClassificationLoss(NUM_CLASSES, 4),
    }
    loss = losses.WeightedLossEnsemble(
        losses=members,
        heads={name: nn.Linear(EMBEDDING_SIZE, 4) for name in members},
        weighting=weighting.HomoscedasticUncertainty(),
        scale=0.9,
        max_scale=2.0,
        diversity_weight=0.1,
    ).double()
    assert_compiles(loss, *(batch(num) for num in SIZES))
    assert loss.num_batches.tolist() == [3, 3]


def test_a_compiled_ensemble_refuses_a_negative_loss_by_name():
    members = [losses.PNPLoss(), losses.NTXentLoss()]

    class Negative(losses.NTXentLoss):
        def formulas(self):
            score, of_pairs = super().formulas()
            return Formulas(score, lambda *compared: of_pairs(*compared) - 100)

    members[0] = Negative()
    loss = torch.compile(losses.WeightedLossEnsemble(members).double(), backend="aot_eager")
    with pytest.raises(ValueError, match=r"^losses\['loss_0'\]: expected a value >= 0"):
        loss(*batch(7))


def test_a_student_and_a_teacher():
    loss, (rows, _) = losses.DistancePreservingLoss(), batch(7)
    call = torch.compile(loss, fullgraph=True, backend="aot_eager")
    given = rows[:, :3], None, None, rows.sin()
    expected = value_and_gradients(loss, loss, *given)
    torch.testing.assert_close(value_and_gradients(call, loss, *given), expected)


def test_a_pooling_that_has_started():
    rows, _ = batch(9)
    pooling = GeneralizedSumPooling(EMBEDDING_SIZE, 4, num_prototypes=3, startup_size=0).double()
    maps = rows.T.reshape(2, 4, 9).transpose(1, 2).repeat(1, 1, 2)
    eager = value_and_gradients(lambda x: pooling(x).square().sum(), pooling, maps)
    call = torch.compile(pooling, fullgraph=True, backend="aot_eager")
    compiled = value_and_gradients(lambda x: call(x).square().sum(), pooling, maps)
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


PAIRS = {
    "anchors": losses.BinomialDevianceLoss,
    "pairs": lambda **kwargs: losses.BinomialDevianceLoss(per_anchor=False, **kwargs),
    "ntxent": losses.NTXentLoss,
    "tuplet": losses.TupletMarginLoss,
    "ratio": losses.SignalToNoiseRatioContrastiveLoss,
    "generalized": losses.GeneralizedLiftedStructureLoss,
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_tuple_and_references_in_one_graph(name):
    rows, labels = batch(9)
    others, other_labels = batch(6, seed=1)
    references = others, other_labels
    mined = tuple_of_pairs()
    assert_compiles(PAIRS[name](), (rows, labels, mined))
    torch._dynamo.reset()
    assert_compiles(PAIRS[name](), (rows, labels, None, *references))


@pytest.mark.parametrize("name", ["ClassificationLoss", "SmoothedProxyNCALoss"])
def test_a_tuple_weighs_rows_in_one_graph(name):
    assert_compiles(LOSSES[name].make().double(), (*batch(9), tuple_of_pairs()))


@pytest.mark.parametrize("name", PAIRS)
def test_a_compiled_batch_without_pairs_costs_nothing_and_pulls_nothing(name):
    rows, _ = batch(6)
    call = torch.compile(PAIRS[name](), fullgraph=True, backend="aot_eager")
    same = torch.zeros(6, dtype=torch.int64)
    for labels in (torch.arange(6), same) if name in ("ntxent", "tuplet") else (torch.arange(6),):
        negatives_only = name in ("anchors", "pairs", "ratio")
        value, gradient = value_and_gradients(call, nn.Identity(), rows, labels)
        assert negatives_only or value == 0
        assert gradient.isfinite().all()
        assert negatives_only or (gradient == 0).all()


IN_ONE_GRAPH = {
    "mean": reducers.MeanReducer,
    "sum": reducers.SumReducer,
    "not zero": reducers.AvgNonZeroReducer,
    "between": lambda: reducers.ThresholdReducer(low=0.01, high=1.0),
    "nothing passes": lambda: reducers.ThresholdReducer(high=-1.0),
    "batch size": BatchSizeReducer,
    "by sub-loss": lambda: reducers.MultipleReducers({"pos_loss": reducers.SumReducer()}),
}


@pytest.mark.parametrize("make", IN_ONE_GRAPH.values(), ids=IN_ONE_GRAPH)
def test_reducers_of_pairs_in_one_graph(make):
    assert_compiles(PAIRS["pairs"](reducer=make()), batch(9))


def test_a_reducer_that_leaves_rows_out_in_one_graph():
    loss = losses.GeneralizedLiftedStructureLoss(reducer=reducers.AvgNonZeroReducer())
    assert_compiles(loss, batch(9))


IN_SEVERAL = {
    "class weights": lambda: reducers.ClassWeightedReducer(torch.arange(1.0, 6.0)),
    "recording": lambda: reducers.AvgNonZeroReducer(collect_stats=True),
    "recording means": lambda: reducers.MeanReducer(collect_stats=True),
    "by anchors": reducers.PerAnchorReducer,
}


@pytest.mark.parametrize("make", IN_SEVERAL.values(), ids=IN_SEVERAL)
def test_other_reducers_of_pairs_in_several_graphs(make):
    loss = losses.NTXentLoss(reducer=make())
    assert_compiles(loss, batch(9), fullgraph=False)
    if loss.reducer.collect_stats:
        eager = losses.NTXentLoss(reducer=make())
        eager(*batch(9))
        assert loss.reducer.losses_size == eager.reducer.losses_size


def test_another_reducer_of_rows_gets_those_that_there_are():
    loss = losses.PNPLoss(reducer=reducers.DivisorReducer())
    assert_compiles(loss, batch(9), fullgraph=False)


def test_recorded_angles_are_those_of_eager():
    loss = losses.TupletMarginLoss(collect_stats=True)
    eager = copy.deepcopy(loss)
    eager(*batch(9))
    torch.compile(loss, backend="aot_eager")(*batch(9))
    assert loss.avg_pos_angle == pytest.approx(eager.avg_pos_angle)
    assert loss.avg_neg_angle == pytest.approx(eager.avg_neg_angle)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_buffers_of_another_type_are_written_in_a_graph(dtype):
    loss = LOSSES["IntraBatchConnectionsLoss"].make().to(dtype)
    before = loss.neck.running_mean.clone()
    assert_compiles(loss, batch(9))
    assert not torch.equal(loss.neck.running_mean, before)
