import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, miners, reducers, regularizers, trainers
from pytorch_metric_learning.losses import MultipleLosses
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as c_f
from torch import nn

from pml_extras.losses import IntraBatchConnectionsLoss
from tests.intra_batch import (
    EXAMPLE_LABELS,
    example_rows,
    loss_as_lists,
    scrambled,
    worked_example,
)
from tests.oracles import intra_batch_connections as oracle

NUM_CLASSES, SIZE = 3, 4
VARIANTS = (False, True)


def loss_of(*, seed=3, scramble=True, **options):
    torch.manual_seed(seed)
    loss = IntraBatchConnectionsLoss(NUM_CLASSES, SIZE, **{"dropout": 0.0, **options})
    return scrambled(loss, seed) if scramble else loss


def batch_of(num=6, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, SIZE, generator=generator, dtype=dtype)
    return x, torch.arange(num) % NUM_CLASSES


def losses_of(loss, x, labels, indices_tuple=None):
    """Each sub-loss, one value a row, before the reducer."""
    reducer, loss.reducer = loss.reducer, reducers.DoNothingReducer()
    try:
        return {name: of["losses"] for name, of in loss(x, labels, indices_tuple).items()}
    finally:
        loss.reducer = reducer


@st.composite
def drawn_losses(draw):
    """A small loss in generic position, the oracle's options for it, and a batch."""
    seed = draw(st.integers(0, 2**31))
    null, concat = draw(st.booleans()), draw(st.booleans())
    options = {
        "num_heads": draw(st.sampled_from((1, 2, 4))),
        "num_layers": draw(st.integers(1, 2)),
        "feedforward_size": draw(st.integers(1, 5)),
        "temperature": draw(st.sampled_from((0.2, 1.0))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.1))),
        "mpn_weight": draw(st.sampled_from((0.0, 0.7, 1.0))),
        "aux_weight": draw(st.sampled_from((0.3, 1.0))),
        "add_zero_attn": null,
        "concat_layers": concat,
    }
    num = draw(st.integers(2, 5))
    labels = torch.tensor([draw(st.integers(0, NUM_CLASSES - 1)) for _ in range(num)])
    loss = loss_of(seed=seed, **options).train(draw(st.booleans()))
    return loss, (options["num_heads"], null, concat), batch_of(num, seed)[0], labels


def expected_losses(loss, options, x, labels, values=None):
    p, labels = loss_as_lists(loss, values), labels.tolist()
    last = loss.temperature, loss.label_smoothing
    found = {}
    if loss.mpn_weight > 0:
        running = None
        if not loss.training:
            running = loss.neck.running_mean.tolist(), loss.neck.running_var.tolist()
        values = oracle.mpn_losses(x, labels, p, *options, *last, running)
        found["mpn_loss"] = [loss.mpn_weight * v for v in values]
    if loss.aux_weight > 0:
        values = oracle.aux_losses(x, labels, p, *last)
        found["aux_loss"] = [loss.aux_weight * v for v in values]
    return found


@settings(max_examples=60)
@given(drawn_losses())
def test_value_and_gradient_agree_with_the_equation(drawn):
    loss, options, x, labels = drawn
    x.requires_grad_()
    expected = expected_losses(loss, options, x.tolist(), labels)

    def total(rows, values=None):
        found = expected_losses(loss, options, rows, labels, values)
        return sum(sum(of_row) for of_row in found.values()) / len(x)

    slopes = []
    for i in range(len(x)):
        for c in range(SIZE):
            towards = torch.zeros(x.shape)
            towards[i, c] = 1
            slopes.append(oracle.derivative(total, x.tolist(), towards.tolist()))
    value = loss(x, labels)
    value.backward()
    assert value.item() == pytest.approx(complex(total(x.tolist())).real, rel=1e-10)
    slopes = x.grad.new_tensor(slopes).view_as(x)
    size = max(1.0, slopes.abs().max().item())
    torch.testing.assert_close(x.grad, slopes, rtol=1e-10, atol=1e-10 * size)
    trained = dict(loss.named_parameters())
    for name, p in trained.items():
        towards = torch.randn_like(p)
        moved = {**trained, name: p.detach() + oracle.STEP * 1j * towards}
        slope = complex(total(x.tolist(), moved)).imag / oracle.STEP
        size = max(1.0, (p.grad * towards).abs().sum().item())
        found = (p.grad * towards).sum().item()
        assert found == pytest.approx(slope, rel=1e-10, abs=1e-10 * size), name
    found = losses_of(loss.eval(), x, labels)
    expected = expected_losses(loss, options, x.tolist(), labels)
    assert list(found) == list(expected) == loss.sub_loss_names()
    for name, values in found.items():
        values_expected = values.new_tensor([complex(v).real for v in expected[name]])
        torch.testing.assert_close(values, values_expected, rtol=1e-10, atol=1e-10)


def example_loss(null, **options):
    loss = IntraBatchConnectionsLoss(3, 4, dropout=0.0, add_zero_attn=null, **options).double()
    worked_example(loss.network)
    with torch.no_grad():
        loss.classifier.copy_(torch.eye(4)[:3])
        loss.auxiliary.weight.copy_(torch.eye(4)[:3])
        loss.auxiliary.bias.copy_(torch.tensor([0.1, 0.0, -0.1]))
    return loss


@pytest.mark.parametrize("null", VARIANTS)
def test_worked_example(null):
    """Numbers of the specification's worked example, to the digits it gives."""
    x, labels = example_rows().requires_grad_(), torch.tensor(EXAMPLE_LABELS)
    loss = example_loss(null)
    total = loss(x, labels)
    assert total.item() == pytest.approx([16.316239, 16.321137][null], abs=1e-6)
    found = losses_of(example_loss(null), x, labels)
    expected = [[1.130605, 9.011717, 5.547713], [1.129972, 9.040492, 5.534265]][null]
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(found["mpn_loss"], x.new_tensor(expected), **close)
    expected = x.new_tensor([4.894381, 23.666667, 4.697635])
    torch.testing.assert_close(found["aux_loss"], expected, **close)
    assert found["aux_loss"].mean().item() == pytest.approx(11.086227, abs=1e-6)
    mean = found["mpn_loss"].mean()
    assert mean.item() == pytest.approx([5.230011, 5.234910][null], abs=1e-6)
    (grad,) = torch.autograd.grad(mean, x)
    expected = [
        [-0.052561, 0.039421, -0.004702, 0.038805],
        [-0.043950, 0.032963, -0.010024, 0.036185],
    ][null]
    torch.testing.assert_close(grad[0], x.new_tensor(expected), **close)
    evaluated = losses_of(example_loss(null).eval(), x, labels)["mpn_loss"].mean().item()
    assert evaluated == pytest.approx([3.632179, 3.544982][null], abs=1e-6)
    hard = losses_of(example_loss(null, label_smoothing=0.0), x, labels)["mpn_loss"].mean().item()
    assert hard == pytest.approx([5.271634, 5.277390][null], abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_permutation_permutes_the_losses_and_leaves_the_total(training):
    x, labels = batch_of()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = loss_of(add_zero_attn=True).train(training)
    before, after = losses_of(loss, x, labels), losses_of(loss, x[order], labels[order])
    for name in before:
        torch.testing.assert_close(after[name], before[name][order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(x[order], labels[order]), loss(x, labels))


@given(drawn_losses(), st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5))
def test_the_refined_term_sees_directions_and_the_auxiliary_one_sees_norms(drawn, factors):
    loss, _, x, labels = drawn
    before = losses_of(loss, x, labels)
    scaled = x * torch.tensor(factors, dtype=x.dtype)[: len(x), None]
    scaled.requires_grad_()
    after = losses_of(loss, scaled, labels)
    if loss.mpn_weight > 0:
        torch.testing.assert_close(after["mpn_loss"], before["mpn_loss"], rtol=1e-8, atol=1e-8)
        (grad,) = torch.autograd.grad(after["mpn_loss"].sum(), scaled, retain_graph=True)
        along = (grad * scaled).sum(dim=1).abs()
        assert (along <= 1e-10 * (1 + grad.norm(dim=1) * scaled.norm(dim=1))).all()
    far = torch.tensor(factors)[: len(x)].sub(1).abs() > 0.5
    changed = (after["aux_loss"] - before["aux_loss"]).abs() > 1e-9
    settled = before["aux_loss"] < 1e-6  # a class as good as certain stays so
    assert changed[far & ~settled].all()


@given(drawn_losses())
def test_refined_logits_sum_to_zero_over_a_training_batch(drawn):
    loss, _, x, _ = drawn
    if loss.mpn_weight == 0:
        return
    logits = loss.train().get_refined_logits(x)
    bound = 1e-12 * (1 + logits.abs().max())
    assert (logits.sum(dim=0).abs() <= len(x) * bound).all()


@pytest.mark.parametrize("null", VARIANTS)
def test_a_row_s_auxiliary_loss_is_its_own_and_its_refined_loss_is_everybody_s(null):
    x, labels = batch_of()
    x.requires_grad_()
    found = losses_of(loss_of(add_zero_attn=null).eval(), x, labels)
    (aux,) = torch.autograd.grad(found["aux_loss"][2], x)
    (mpn,) = torch.autograd.grad(found["mpn_loss"][2], x)
    others = torch.arange(6) != 2
    assert (aux[others] == 0).all()
    assert (aux[2] != 0).any()
    assert (mpn.abs().amax(dim=1) > 1e-9).all()


def test_eval_refined_rows_depend_on_the_rest_of_the_batch_and_not_on_labels():
    x, labels = batch_of()
    loss = loss_of().eval()
    refined = loss.refine(x)
    assert not torch.allclose(loss.refine(x[:4]), refined[:4])
    loss(x, labels.flip(0))
    assert torch.equal(loss.refine(x), refined)


def test_a_weight_of_zero_leaves_the_branch_and_its_parameters_out():
    full, no_mpn, no_aux = loss_of(), loss_of(mpn_weight=0.0), loss_of(aux_weight=0.0)
    of = [
        {name.split(".")[0] for name, _ in loss.named_parameters()}
        for loss in (full, no_mpn, no_aux)
    ]
    assert of == [
        {"network", "neck", "classifier", "auxiliary"},
        {"auxiliary"},
        {"network", "neck", "classifier"},
    ]
    names = [loss.sub_loss_names() for loss in (full, no_mpn, no_aux)]
    assert names == [["mpn_loss", "aux_loss"], ["aux_loss"], ["mpn_loss"]]
    assert {*no_mpn.state_dict()} == {"auxiliary.weight", "auxiliary.bias"}
    assert IntraBatchConnectionsLoss(3, 5, mpn_weight=0).network is None  # 2 heads divide no 5


def test_every_parameter_is_trained_and_the_neck_has_no_shift():
    x, labels = batch_of()
    loss = loss_of(scramble=False).double()
    optimizer = torch.optim.RAdam(
        loss.param_groups(lr=0.1, weight_decay=0.1), decoupled_weight_decay=True
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()
    assert all(p.grad is not None for p in loss.parameters())
    assert loss.neck.bias is None
    assert not torch.equal(loss.neck.weight, torch.ones_like(loss.neck.weight))


def test_weights_multiply_each_sub_loss_before_any_reducer():
    x, labels = batch_of()
    plain = losses_of(loss_of(), x, labels)
    weighted = losses_of(loss_of(mpn_weight=0.25, aux_weight=3.0), x, labels)
    torch.testing.assert_close(weighted["mpn_loss"], 0.25 * plain["mpn_loss"])
    torch.testing.assert_close(weighted["aux_loss"], 3.0 * plain["aux_loss"])


def test_no_network_no_smoothing_is_a_softmax_at_a_temperature_on_raw_rows():
    x, labels = batch_of()
    loss = loss_of(mpn_weight=0.0, label_smoothing=0.0, temperature=0.3)
    logits = x @ loss.auxiliary.weight.T + loss.auxiliary.bias
    expected = -(logits / 0.3).log_softmax(dim=1)[torch.arange(6), labels]
    torch.testing.assert_close(losses_of(loss, x, labels)["aux_loss"], expected)
    torch.testing.assert_close(loss.get_logits(x), logits / 0.3)


def test_logits_are_what_the_cross_entropies_see():
    x, labels = batch_of()
    loss = loss_of(temperature=0.3).eval()
    for name, logits in (
        ("mpn_loss", loss.get_refined_logits(x)),
        ("aux_loss", loss.get_logits(x)),
    ):
        expected = nn.functional.cross_entropy(
            logits, labels, label_smoothing=0.1, reduction="none"
        )
        torch.testing.assert_close(losses_of(loss, x, labels)[name], expected)


def test_nothing_is_written_in_eval_mode():
    loss = loss_of().float().eval()
    before = {name: b._version for name, b in loss.named_buffers()}
    for dtype in (torch.float32, torch.float64):
        loss(batch_of()[0].to(dtype), batch_of()[1])
    assert {name: b._version for name, b in loss.named_buffers()} == before


@pytest.mark.parametrize("classes", [98, 11318])
def test_the_refined_term_starts_near_log_c(classes):
    loss = IntraBatchConnectionsLoss(classes, 512, aux_weight=0.0)
    value = loss(torch.randn(54, 512), torch.arange(54) % 6)
    assert value.item() == pytest.approx(math.log(classes), rel=0.01)


def test_arguments_reach_the_network():
    loss = loss_of(
        num_heads=4,
        num_layers=3,
        feedforward_size=7,
        dropout=0.3,
        attention_dropout=0.2,
        add_zero_attn=True,
        concat_layers=True,
    )
    assert len(loss.network.layers) == 3
    assert loss.network.output_size == loss.neck.num_features == loss.classifier.shape[1] == 12
    for layer in loss.network.layers:
        assert layer.linear1.out_features == 7
        assert layer.dropout.p == 0.3
        attention = layer.self_attn
        assert (attention.num_heads, attention.dropout, attention.add_zero_attn) == (4, 0.2, True)


def test_running_statistics_of_the_neck():
    x, labels = batch_of()
    loss = loss_of()
    refined = loss.refine(x)
    loss(x, labels)
    torch.testing.assert_close(loss.neck.running_mean, 0.1 * refined.mean(dim=0))
    torch.testing.assert_close(loss.neck.running_var, 0.9 + 0.1 * refined.var(dim=0))


def test_initial_values():
    loss = IntraBatchConnectionsLoss(1000, 64)
    assert loss.classifier.std().item() == pytest.approx(0.001, rel=0.02)
    assert loss.classifier.mean().abs().item() < 1e-4
    assert 0.99 / 8 < loss.auxiliary.weight.abs().max() <= 1 / 8
    assert (loss.neck.weight == 1).all()
    assert loss.neck.bias is None


def test_number_of_parameters_at_the_published_size():
    loss = IntraBatchConnectionsLoss(100, 512)
    sizes = {name: p.numel() for name, p in loss.named_parameters()}
    auxiliary = sizes.pop("auxiliary.weight") + sizes.pop("auxiliary.bias")
    assert sum(sizes.values()) + 512 == 3_467_264  # with the shift of batch norm that stays at 0
    assert auxiliary == 513 * 100


def test_weight_init_func_is_of_the_refined_classifier_or_of_the_only_one():
    init = c_f.TorchInitWrapper(nn.init.constant_, val=0.5)
    both, only = (loss_of(scramble=False, weight_init_func=init, mpn_weight=w) for w in (1, 0))
    assert (both.classifier == 0.5).all()
    assert (both.auxiliary.weight != 0.5).any()
    assert (only.auxiliary.weight == 0.5).all()
    assert not (loss_of(scramble=False, mpn_weight=0).auxiliary.weight.abs() < 0.01).all()


@pytest.mark.parametrize(
    ("weights", "name"), [({}, "classifier"), ({"mpn_weight": 0.0}, "auxiliary.weight")]
)
def test_regularizers_see_raw_rows_and_the_class_weights(weights, name):
    x, labels = batch_of()
    regularizer = regularizers.LpRegularizer()
    loss = loss_of(
        weight_regularizer=regularizer,
        weight_reg_weight=0.3,
        embedding_regularizer=regularizer,
        embedding_reg_weight=0.7,
        **weights,
    )
    parts = loss_of(**weights)
    expected = parts(x, labels) + 0.7 * x.norm(dim=1).mean()
    expected += 0.3 * loss.get_parameter(name).norm(dim=1).mean()
    torch.testing.assert_close(loss(x, labels), expected)


@pytest.mark.parametrize("kind", [3, 4])
def test_a_tuple_weighs_rows_and_all_rows_stay_nodes(kind):
    x, labels = batch_of()
    mined = (torch.tensor([0, 0, 3]), torch.tensor([3, 3, 0]), torch.tensor([1, 2, 1]))
    if kind == 4:
        mined = (*mined[:2], torch.tensor([0, 2]), torch.tensor([1, 1]))
    counts = torch.bincount(torch.cat(mined), minlength=6)
    weight = counts / counts.max()
    assert len(weight.unique()) > 2
    plain, weighted = losses_of(loss_of(), x, labels), losses_of(loss_of(), x, labels, mined)
    nothing = losses_of(loss_of(), x, labels, tuple(column[:0] for column in mined))
    for name in plain:
        torch.testing.assert_close(weighted[name], plain[name] * weight)
        torch.testing.assert_close(nothing[name], plain[name])


MINERS = (
    miners.MultiSimilarityMiner(),
    miners.TripletMarginMiner(type_of_triplets="all"),
    miners.BatchHardMiner(),
    miners.DistanceWeightedMiner(),
)
REDUCERS = {
    "mean": reducers.MeanReducer(),
    "sum": reducers.SumReducer(),
    "average of those above 0": reducers.AvgNonZeroReducer(),
    "threshold": reducers.ThresholdReducer(low=0.5, high=50.0),
    "class weights": reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 0.5])),
    "per anchor": reducers.PerAnchorReducer(),
    "divisor": reducers.DivisorReducer(),
}


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_miners(miner):
    x, labels = batch_of(12)
    x.requires_grad_()
    loss_of()(x, labels, miner(x, labels)).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("weights", [{}, {"mpn_weight": 0.0}, {"aux_weight": 0.0}], ids=str)
@pytest.mark.parametrize("name", REDUCERS)
def test_reducers_reduce_each_sub_loss(name, weights):
    x, labels = batch_of()
    parts = losses_of(loss_of(**weights), x, labels)
    expected = {
        "mean": lambda v: v.mean(),
        "sum": lambda v: v.sum(),
        "average of those above 0": lambda v: v[v > 0].mean(),
        "threshold": lambda v: v[(v > 0.5) & (v < 50.0)].mean(),
        "class weights": lambda v: (v * torch.tensor([1.0, 2.0, 0.5])[labels]).mean(),
        "per anchor": lambda v: v.mean(),
        "divisor": lambda v: v.sum() / len(v),
    }[name]
    value = loss_of(reducer=REDUCERS[name], **weights)(x, labels)
    torch.testing.assert_close(value, sum(expected(v) for v in parts.values()))


@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_computed_in_float32_at_least_and_parameters_keep_their_type(held, given_in, training):
    loss = loss_of(add_zero_attn=True).to(held).train(training)
    x, labels = batch_of()
    x = x.to(given_in).requires_grad_()
    exact = copy.deepcopy(loss).double()
    expected = exact(x.detach().double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x, labels)
    assert value.dtype == (torch.float64 if given_in == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert {p.dtype for p in loss.parameters()} == {held}
    value.backward()
    assert x.grad.dtype == given_in
    assert all(p.grad.dtype == held for p in loss.parameters())
    rounding = 1e-2 if held in (torch.float16, torch.bfloat16) else 1e-5
    for name in ("running_mean", "running_var"):  # updated whatever they are held in
        found, wanted = getattr(loss.neck, name), getattr(exact.neck, name)
        assert found.dtype == held
        torch.testing.assert_close(found.double(), wanted, rtol=rounding, atol=rounding)
    assert loss.neck.num_batches_tracked == int(training)


@pytest.mark.parametrize("weights", [{}, {"mpn_weight": 0.0}, {"aux_weight": 0.0}], ids=str)
def test_the_type_of_the_loss_is_that_of_the_rows(weights):
    x, labels = batch_of(dtype=torch.float32)
    assert loss_of(**weights)(x, labels).dtype == torch.float32


def test_a_weight_that_falls_to_zero_later_leaves_the_branch_where_it_is():
    x, labels = batch_of()
    loss = loss_of()
    loss.mpn_weight = 0.0
    value = loss(x, labels)
    torch.testing.assert_close(value, losses_of(loss_of(), x, labels)["aux_loss"].mean())
    value.backward()
    assert all(p.grad is not None for p in loss.parameters())
    assert loss.neck.num_batches_tracked == 1


def test_float64_rows_are_computed_in_float64_with_float32_parameters():
    loss = loss_of().float()
    x, labels = batch_of()
    expected = copy.deepcopy(loss).double()(x, labels)
    assert loss(x, labels).item() == pytest.approx(expected.item(), rel=1e-13)


def test_train_and_eval_differ_by_dropout_and_batch_norm_alone():
    x, labels = batch_of()
    loss = loss_of(aux_weight=0.0)
    refined = loss.network(x)
    with torch.no_grad():
        loss.neck.running_mean.copy_(refined.mean(dim=0))
        loss.neck.running_var.copy_(refined.var(dim=0, unbiased=False))
    expected = copy.deepcopy(loss).eval()(x, labels)
    torch.testing.assert_close(loss(x, labels), expected, rtol=1e-12, atol=1e-12)


def test_one_row_is_refused_in_training_mode_and_works_in_eval_mode():
    x, labels = batch_of(1)
    with pytest.raises(
        ValueError,
        match=r"embeddings: expected at least 2 rows in training mode; got 1. .*drop_last=True",
    ):
        loss_of()(x, labels)
    assert loss_of().eval()(x, labels).isfinite()
    assert loss_of(mpn_weight=0.0)(x, labels).isfinite()
    frozen = loss_of()
    frozen.neck.eval()
    assert frozen(x, labels).isfinite()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 2, 1, 0], [0, 1, 2, 2]])
def test_any_composition_of_classes_will_do(labels):
    x, _ = batch_of(4)
    x[1] = 0
    x.requires_grad_()
    value = loss_of()(x, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert (x.grad[2] != 0).any()


def test_it_pickles_copies_and_reloads_bit_for_bit_after_training():
    x, labels = batch_of(dtype=torch.float32)
    loss = loss_of(add_zero_attn=True, dropout=0.1, scramble=False)
    optimizer = torch.optim.RAdam(loss.param_groups(lr=0.01), decoupled_weight_decay=True)
    for _ in range(5):
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()
    loss.eval()
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other = loss_of(seed=8, add_zero_attn=True, dropout=0.1, scramble=False).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(same.get_logits(x), loss.get_logits(x))
        assert torch.equal(same.get_refined_logits(x), loss.get_refined_logits(x))
        assert torch.equal(same.refine(x), loss.refine(x))
        assert torch.equal(same(x, labels), loss(x, labels))


def test_the_network_alone_is_saved_and_loaded_apart_from_the_heads():
    trained, fresh = loss_of(), loss_of(seed=9)
    fresh.network.load_state_dict(trained.network.state_dict())
    x, _ = batch_of()
    assert torch.equal(fresh.refine(x), trained.refine(x))


REFUSED = [
    ({"mpn_weight": 0.0, "aux_weight": 0.0}, "mpn_weight, aux_weight: expected one above 0"),
    ({"distance": distances.LpDistance()}, "distance: expected None; got LpDistance. This loss"),
    ({"num_heads": 3}, "num_heads: expected a divisor of embedding_size = 4; got 3"),
    ({"temperature": 0}, "temperature: expected a finite number > 0; got 0"),
    ({"label_smoothing": 1}, r"label_smoothing: expected a number in \[0, 1\); got 1"),
    ({"mpn_weight": 0, "dropout": 5.0}, r"dropout: expected a number in \[0, 1\); got 5.0"),
    ({"mpn_weight": 0, "num_layers": 0}, "num_layers: expected an integer >= 1; got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="temprature"):
        loss_of(temprature=0.1)


def test_bad_batches_are_refused():
    x, labels = batch_of()
    loss = loss_of()
    with pytest.raises(
        ValueError, match=r"ref_emb: expected None; got a tensor \(6, 4\). The graph"
    ):
        loss(x, labels, None, x.clone(), labels)
    with pytest.raises(
        ValueError, match=r"labels: expected classes in \[0, num_classes\) = \[0, 3\)"
    ):
        loss(x, labels + 1)
    with pytest.raises(
        ValueError, match=r"labels: expected a \(B,\) tensor; got None. Pass the class of each row"
    ):
        loss(x)
    for method in (loss, loss_of(mpn_weight=0.0)):
        with pytest.raises(
            ValueError, match="embeddings: expected embedding_size = 4 columns; got 3"
        ):
            method(x[:, :3], labels)
    with pytest.raises(ValueError, match="embeddings: expected a floating tensor of shape"):
        loss.refine(x[None])


def test_methods_of_a_branch_that_was_left_out_say_so():
    x, _ = batch_of()
    without = loss_of(mpn_weight=0.0)
    for method in (without.refine, without.get_refined_logits):
        with pytest.raises(
            ValueError, match=r"mpn_weight: expected above 0 for .*; got 0. Construct"
        ):
            method(x)
    with pytest.raises(ValueError, match="aux_weight: expected above 0 for get_logits; got 0"):
        loss_of(aux_weight=0.0).get_logits(x)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_methods_take_half_rows(half):
    x, _ = batch_of()
    loss = loss_of().float().eval()
    for method in (loss.refine, loss.get_logits, loss.get_refined_logits):
        found = method(x.to(half))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, method(x.to(half).float()))
        with torch.autocast("cpu", half):
            assert torch.equal(method(x.to(half)), found)


def test_param_groups_hold_what_is_trained_at_one_rate():
    loss = loss_of()
    (group,) = loss.param_groups(lr=0.01, weight_decay=0.2)
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.2)
    assert list(map(id, group["params"])) == list(map(id, loss.parameters()))
    with pytest.raises(ValueError, match="lr: expected a finite number > 0"):
        loss.param_groups(lr=0)


def test_inside_multiple_losses():
    x, labels = batch_of()
    together = MultipleLosses([loss_of(), loss_of(mpn_weight=0.0)], weights=[1.0, 0.5])
    expected = loss_of()(x, labels) + 0.5 * loss_of(mpn_weight=0.0)(x, labels)
    torch.testing.assert_close(together(x, labels), expected)


def test_in_pml_s_trainer_with_an_optimizer_of_its_own():
    torch.manual_seed(0)
    labels = torch.arange(24) % NUM_CLASSES
    images = torch.randn(24, 5) + 2 * torch.eye(5)[labels]
    data = torch.utils.data.TensorDataset(images, labels)
    trunk = nn.Linear(5, SIZE)
    loss = loss_of(scramble=False)
    before = {name: p.clone() for name, p in loss.named_parameters()}
    c_f.NUMPY_RANDOM = np.random.default_rng(0)
    totals = []

    def remember(trainer):
        trainer.losses["total_loss"] = trainer.losses["total_loss"].detach()
        totals.append(trainer.losses["total_loss"].item())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trainers.MetricLossOnly(
            models={"trunk": trunk},
            optimizers={
                "trunk_optimizer": torch.optim.RAdam(trunk.parameters(), lr=0.02),
                "metric_loss_optimizer": torch.optim.RAdam(loss.param_groups(lr=0.02)),
            },
            batch_size=12,
            loss_funcs={"metric_loss": loss},
            dataset=data,
            data_device=torch.device("cpu"),
            sampler=MPerClassSampler(labels, m=4, batch_size=12, length_before_new_iter=240),
            dataloader_num_workers=0,
            end_of_iteration_hook=remember,
        )
        trainer.train(num_epochs=3)
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])
    for name, p in loss.named_parameters():
        assert not torch.equal(p, before[name]), name
