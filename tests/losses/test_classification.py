import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, miners, reducers, regularizers
from pytorch_metric_learning.utils import common_functions as c_f
from torch import nn

from pml_extras.functional import smoothing_over_all
from pml_extras.losses import ClassificationLoss
from tests.oracles import classification as oracle
from tests.oracles.intra_batch_connections import STEP, derivative
from tests.strategies import rows

NUM_CLASSES, SIZE = 4, 5
BOTH = pytest.mark.parametrize("hidden_size", [None, 3])


def loss_of(*, seed=3, **options):
    torch.manual_seed(seed)
    return ClassificationLoss(NUM_CLASSES, SIZE, **options).double()


def batch_of(num=9, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, SIZE, generator=generator, dtype=dtype)
    return x, torch.arange(num) % NUM_CLASSES


def layers_of(loss, values=None):
    values = dict(loss.named_parameters()) if values is None else values
    names = [*(["hidden.0"] if loss.hidden_size else []), "classifier"]
    return [(values[f"{name}.weight"].tolist(), values[f"{name}.bias"].tolist()) for name in names]


def expected_losses(loss, x, labels, values=None):
    layers = layers_of(loss, values)
    return [
        oracle.smoothed(oracle.logits(row, layers), label, loss.label_smoothing)
        for row, label in zip(x, labels.tolist(), strict=True)
    ]


@settings(max_examples=60)
@given(
    st.data(), st.integers(2, 5), st.sampled_from((None, 1, 3)), st.sampled_from((0.0, 0.15, 0.45))
)
def test_value_and_gradient_agree_with_the_equation(data, classes, hidden_size, smoothing):
    num, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    loss = ClassificationLoss(classes, size, smoothing, hidden_size).double()
    x = data.draw(rows(num, size)).requires_grad_()
    labels = torch.tensor([data.draw(st.integers(0, classes - 1)) for _ in range(num)])

    def mean(table, values=None):
        return sum(expected_losses(loss, table, labels, values)) / num

    value = loss(x, labels)
    value.backward()
    assert value.item() == pytest.approx(complex(mean(x.tolist())).real, rel=1e-10)
    towards = torch.randn_like(x)
    slope = derivative(mean, x.tolist(), towards.tolist())
    assert (x.grad * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10)
    named = dict(loss.named_parameters())
    for name, p in named.items():
        towards = torch.randn_like(p)
        moved = {**named, name: p.detach() + STEP * 1j * towards}
        slope = complex(mean(x.tolist(), moved)).imag / STEP
        found = (p.grad * towards).sum().item()
        assert found == pytest.approx(slope, rel=1e-10, abs=1e-10), name


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.15, 0.45])
def test_torch_s_smoothing_for_it_spreads_over_all_classes(classes, smoothing):
    loss = ClassificationLoss(classes, SIZE, smoothing).double()
    x, labels = batch_of()
    labels = labels % classes
    over_all = smoothing * classes / (classes - 1)
    assert smoothing_over_all(smoothing, classes) == pytest.approx(over_all)
    expected = nn.functional.cross_entropy(loss.get_logits(x), labels, label_smoothing=over_all)
    torch.testing.assert_close(loss(x, labels), expected, rtol=1e-12, atol=1e-12)


def test_it_is_lowest_where_the_probabilities_are_the_targets():
    """1 - eps on the true class, eps / (C - 1) on each other: there the gradient is 0."""
    loss = loss_of(label_smoothing=0.15)
    targets = [0.05, 0.85, 0.05, 0.05]
    with torch.no_grad():
        loss.classifier.weight.zero_()
        loss.classifier.bias.copy_(torch.tensor(targets).log())
    x = batch_of(3)[0]
    value = loss(x, torch.tensor([1, 1, 1]))
    value.backward()
    assert value.item() == pytest.approx(-sum(t * math.log(t) for t in targets), rel=1e-6)
    assert loss.classifier.bias.grad.abs().max() < 1e-7


@BOTH
def test_logits_are_of_raw_rows(hidden_size):
    x, labels = batch_of()
    loss = loss_of(hidden_size=hidden_size, label_smoothing=0.0)
    logits = loss.get_logits(x)
    hidden = x
    if hidden_size is not None:
        hidden = (x @ loss.hidden[0].weight.T + loss.hidden[0].bias).clamp(min=0)
    expected = hidden @ loss.classifier.weight.T + loss.classifier.bias
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(loss.get_logits(2 * x) - logits, logits)  # a bias
    torch.testing.assert_close(
        loss(x, labels), -expected.log_softmax(dim=1)[torch.arange(9), labels].mean()
    )


def losses_of(loss, x, labels, indices_tuple=None):
    loss = copy.deepcopy(loss)
    loss.reducer = reducers.DoNothingReducer()
    return loss(x, labels, indices_tuple)["loss"]["losses"]


@BOTH
def test_a_row_s_loss_is_its_own(hidden_size):
    x, labels = batch_of()
    x.requires_grad_()
    losses = losses_of(loss_of(hidden_size=hidden_size), x, labels)
    (grad,) = torch.autograd.grad(losses[2], x)
    assert (grad[2] != 0).any()
    assert (grad[torch.arange(9) != 2] == 0).all()


@pytest.mark.parametrize("kind", [3, 4])
def test_a_tuple_weighs_rows(kind):
    x, labels = batch_of()
    mined = (torch.tensor([0, 0, 4]), torch.tensor([4, 4, 0]), torch.tensor([1, 2, 1]))
    if kind == 4:
        mined = (*mined[:2], torch.tensor([0, 2]), torch.tensor([1, 1]))
    counts = torch.bincount(torch.cat(mined), minlength=9)
    loss = loss_of()
    plain, weighted = losses_of(loss, x, labels), losses_of(loss, x, labels, mined)
    torch.testing.assert_close(weighted, plain * counts / counts.max())


@pytest.mark.parametrize(
    "miner",
    [miners.MultiSimilarityMiner(), miners.TripletMarginMiner(), miners.BatchHardMiner()],
    ids=lambda m: type(m).__name__,
)
def test_miners(miner):
    x, labels = batch_of(12)
    x.requires_grad_()
    loss_of()(x, labels, miner(x, labels)).backward()
    assert x.grad.isfinite().all()


@BOTH
def test_regularizers_see_raw_rows_and_the_class_weights(hidden_size):
    x, labels = batch_of()
    regularizer = regularizers.LpRegularizer()
    loss = loss_of(
        hidden_size=hidden_size,
        weight_regularizer=regularizer,
        weight_reg_weight=0.3,
        embedding_regularizer=regularizer,
        embedding_reg_weight=0.7,
    )
    expected = loss_of(hidden_size=hidden_size)(x, labels) + 0.7 * x.norm(dim=1).mean()
    expected += 0.3 * loss.classifier.weight.norm(dim=1).mean()
    torch.testing.assert_close(loss(x, labels), expected)
    assert loss.sub_loss_names() == ["loss", "weight_reg_loss", "embedding_reg_loss"]


def test_initial_values_are_those_of_torch_s_linear_layer_unless_given():
    loss = ClassificationLoss(1000, 64)
    assert 0.99 / 8 < loss.classifier.weight.abs().max() <= 1 / 8
    assert loss.classifier.weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
    init = c_f.TorchInitWrapper(nn.init.constant_, val=0.5)
    loss = loss_of(hidden_size=7, weight_init_func=init)
    assert (loss.classifier.weight == 0.5).all()
    assert (loss.hidden[0].weight != 0.5).any()


@BOTH
@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computed_in_float32_at_least_and_parameters_keep_their_type(held, given_in, hidden_size):
    loss = loss_of(hidden_size=hidden_size).to(held)
    x, labels = batch_of()
    x = x.to(given_in).requires_grad_()
    expected = copy.deepcopy(loss).double()(x.detach().double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        value, logits = loss(x, labels), loss.get_logits(x)
    assert logits.dtype == (torch.float64 if torch.float64 in (held, given_in) else torch.float32)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert x.grad.dtype == given_in
    assert all(p.dtype == p.grad.dtype == held for p in loss.parameters())


@BOTH
def test_it_pickles_copies_and_reloads(hidden_size):
    x, labels = batch_of()
    loss, other = (loss_of(seed=seed, hidden_size=hidden_size) for seed in (1, 2))
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), other):
        assert torch.equal(same(x, labels), loss(x, labels))


@BOTH
def test_param_groups_hold_all_at_ten_times_the_rate_of_the_trunk(hidden_size):
    loss = loss_of(hidden_size=hidden_size)
    (group,) = loss.param_groups(lr=1e-4, weight_decay=0.2)
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-3), 0.2)
    assert {id(p) for p in group["params"]} == {id(p) for p in loss.parameters()}
    with pytest.raises(ValueError, match=r"^lr: expected a finite number > 0"):
        loss.param_groups(lr=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected an integer >= 2; got 1"),
        ({"embedding_size": 0}, "embedding_size: expected an integer >= 1; got 0"),
        ({"hidden_size": 0}, "hidden_size: expected an integer >= 1; got 0"),
        ({"label_smoothing": -0.1}, r"label_smoothing: expected a number in \[0, 1\); got -0.1"),
        (
            {"label_smoothing": 0.75},
            "label_smoothing: expected less than 1 - 1 / num_classes = 0.75; got 0.75",
        ),
        (
            {"distance": distances.LpDistance()},
            "distance: expected None; got LpDistance. This loss classifies",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ClassificationLoss(**{"num_classes": 4, "embedding_size": 5, **arguments})


def test_bad_batches_are_refused():
    x, labels = batch_of()
    loss = loss_of()
    with pytest.raises(ValueError, match=r"^ref_emb: expected None; got a tensor \(9, 5\). This"):
        loss(x, labels, None, x.clone(), labels)
    with pytest.raises(ValueError, match=r"^labels: expected classes in \[0, num_classes\) = \[0"):
        loss(x, labels + 1)
    with pytest.raises(ValueError, match=r"^labels: expected a \(B,\) tensor; got None"):
        loss(x)
    for method in (loss.get_logits, lambda rows: loss(rows, labels)):
        with pytest.raises(ValueError, match=r"^embeddings: expected embedding_size = 5 columns"):
            method(x[:, :3])
