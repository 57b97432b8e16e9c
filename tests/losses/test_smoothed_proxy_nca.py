import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from torch import nn

from pml_extras.losses.smoothed_proxy_nca import SmoothedProxyNCALoss
from tests.oracles import smoothed_proxy_nca as oracle
from tests.oracles.intra_batch_connections import derivative
from tests.strategies import rows

NUM_CLASSES, SIZE = 5, 4
DISTANCES = {
    "squared l2": None,
    "squared l2 of raw rows": distances.LpDistance(normalize_embeddings=False, power=2),
    "l2": distances.LpDistance(),
    "cosine": distances.CosineSimilarity(),
    "dot product": distances.DotProductSimilarity(normalize_embeddings=False),
}


def loss_of(*, seed=3, classes=NUM_CLASSES, **options):
    torch.manual_seed(seed)
    return SmoothedProxyNCALoss(classes, SIZE, **options).double()


def batch_of(num=11, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, SIZE, generator=generator, dtype=dtype)
    return x, torch.arange(num) % NUM_CLASSES


def plain_of(loss, **options):
    """pml's class with the same proxies."""
    theirs = losses.ProxyNCALoss(
        loss.num_classes, SIZE, softmax_scale=loss.softmax_scale, **options
    ).double()
    with torch.no_grad():
        theirs.proxies.copy_(loss.proxies)
    return theirs


@settings(max_examples=60)
@given(st.data(), st.integers(2, 5), st.sampled_from((0.0, 0.1, 0.45)))
def test_value_and_gradient_agree_with_the_authors_exponent(data, classes, smoothing):
    """Their scale of 3 on proxies and 1 on rows; here the default scale."""
    num, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    loss = SmoothedProxyNCALoss(classes, size, label_smoothing=smoothing).double()
    with torch.no_grad():
        loss.proxies.copy_(data.draw(rows(classes, size, norms=True)))
    x = data.draw(rows(num, size, norms=True)).requires_grad_()
    labels = [data.draw(st.integers(0, classes - 1)) for _ in range(num)]

    def mean(table, proxies):
        return sum(
            oracle.loss(oracle.distances(row, proxies, 1, 3), label, smoothing)
            for row, label in zip(table, labels, strict=True)
        ) / len(labels)

    value = loss(x, torch.tensor(labels))
    value.backward()
    expected = complex(mean(x.tolist(), loss.proxies.tolist())).real
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    p = loss.proxies
    for leaf, function in (
        (x, lambda m: mean(m, p.tolist())),
        (p, lambda m: mean(x.tolist(), m)),
    ):
        towards = torch.randn_like(leaf) * leaf.detach().norm(dim=1, keepdim=True)
        slope = derivative(function, leaf.tolist(), towards.tolist())
        found = (leaf.grad * towards).sum().item()
        assert found == pytest.approx(slope, rel=1e-10, abs=1e-10)


@settings(max_examples=30)
@given(st.data(), st.sampled_from((0.5, 3.0, 8.0)), st.sampled_from((0.0, 0.3)))
def test_the_scale_multiplies_squared_distances_between_directions(data, scale, smoothing):
    loss = loss_of(softmax_scale=scale, label_smoothing=smoothing)
    x = data.draw(rows(4, SIZE, norms=True))
    labels = torch.tensor([0, 3, 3, 4])
    expected = sum(
        oracle.loss(
            oracle.distances(row, loss.proxies.tolist(), 1, 1), label, smoothing, scale
        ).real
        for row, label in zip(x.tolist(), labels.tolist(), strict=True)
    )
    assert loss(x, labels).item() == pytest.approx(expected / 4, rel=1e-10)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_without_smoothing_it_is_pml_s(distance, scale):
    x, labels = batch_of()
    x.requires_grad_()
    options = {"distance": DISTANCES[distance]}
    ours = loss_of(softmax_scale=scale, label_smoothing=0.0, **options)
    theirs = plain_of(ours, **options)
    mined = miners.TripletMarginMiner(type_of_triplets="all")(x, labels)
    for indices_tuple in (None, mined):
        values = ours(x, labels, indices_tuple), theirs(x, labels, indices_tuple)
        torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
        grads = [
            torch.autograd.grad(value, (x, loss.proxies))
            for value, loss in zip(values, (ours, theirs), strict=True)
        ]
        for mine, other in zip(*grads, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.45])
@pytest.mark.parametrize("classes", [2, 5, 100])
def test_smoothed_it_is_a_cross_entropy_of_six_times_the_cosine(smoothing, classes):
    x, labels = batch_of()
    labels = labels % classes
    loss = loss_of(classes=classes, label_smoothing=smoothing)
    cosine = nn.functional.normalize(x) @ nn.functional.normalize(loss.proxies).T
    expected = nn.functional.cross_entropy(
        6 * cosine, labels, label_smoothing=smoothing * classes / (classes - 1)
    )
    torch.testing.assert_close(loss(x, labels), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_logits_are_larger_for_closer_proxies_and_are_what_the_loss_sees(distance):
    x, labels = batch_of()
    loss = loss_of(label_smoothing=0.0, distance=DISTANCES[distance])
    logits = loss.get_logits(x)
    torch.testing.assert_close(loss(x, labels), nn.functional.cross_entropy(logits, labels))
    at_a_proxy = loss.get_logits(loss.proxies.detach())
    if distance not in ("dot product",):
        assert (at_a_proxy.argmax(dim=1) == torch.arange(NUM_CLASSES)).all()


def losses_of(loss, x, labels, indices_tuple=None):
    loss = copy.deepcopy(loss)
    loss.reducer = reducers.DoNothingReducer()
    return loss(x, labels, indices_tuple)["loss"]["losses"]


def test_a_row_whose_probability_underflows_has_its_loss():
    loss = loss_of(softmax_scale=1000.0, label_smoothing=0.0)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(5)[:, :4])
        loss.proxies[4] = -loss.proxies[0]
    x, labels = torch.eye(4, dtype=torch.float64)[:2], torch.tensor([4, 1])
    found = losses_of(loss, x, labels)
    assert found[0].item() == pytest.approx(4000.0)
    assert loss(x, labels).item() == pytest.approx(2000.0)
    assert plain_of(loss)(x, labels).item() == pytest.approx(0.0)  # pml leaves it out


@pytest.mark.parametrize("kind", [3, 4])
def test_a_tuple_weighs_rows_by_how_often_they_are_anchors(kind):
    x, labels = batch_of()
    mined = (torch.tensor([0, 0, 5]), torch.tensor([5, 5, 0]), torch.tensor([1, 2, 1]))
    anchors = [0, 0, 5]
    if kind == 4:
        mined = (*mined[:2], torch.tensor([0, 2]), torch.tensor([1, 1]))
        anchors += [0, 2]
    counts = torch.bincount(torch.tensor(anchors), minlength=11)
    loss = loss_of()
    plain, weighted = losses_of(loss, x, labels), losses_of(loss, x, labels, mined)
    torch.testing.assert_close(weighted, plain * counts / counts.max())


def test_it_is_a_proxy_nca_loss_and_records_what_it_was_given():
    loss = loss_of(label_smoothing=0.2)
    assert isinstance(loss, losses.ProxyNCALoss)
    recorded = {name: getattr(loss, name) for name in loss._record_these}
    assert recorded == {
        "num_classes": 5,
        "embedding_size": 4,
        "softmax_scale": 3.0,
        "label_smoothing": 0.2,
    }


def test_regularizers_see_raw_rows_and_the_proxies():
    x, labels = batch_of()
    regularizer = regularizers.LpRegularizer()
    loss = loss_of(
        weight_regularizer=regularizer,
        weight_reg_weight=0.3,
        embedding_regularizer=regularizer,
        embedding_reg_weight=0.7,
    )
    expected = loss_of()(x, labels) + 0.7 * x.norm(dim=1).mean()
    expected += 0.3 * loss.proxies.norm(dim=1).mean()
    torch.testing.assert_close(loss(x, labels), expected)


def test_proxies_start_normal_with_a_deviation_of_one_eighth():
    proxies = SmoothedProxyNCALoss(500, 64).proxies
    assert proxies.std().item() == pytest.approx(1 / 8, rel=0.02)
    assert proxies.mean().abs().item() < 2e-3
    assert proxies.abs().max() > 3 / 8


@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computed_in_float32_at_least_and_proxies_keep_their_type(held, given_in):
    loss = loss_of().to(held)
    x, labels = batch_of()
    x = x.to(given_in).requires_grad_()
    expected = copy.deepcopy(loss).double()(x.detach().double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        value, logits = loss(x, labels), loss.get_logits(x)
    assert logits.dtype == (torch.float64 if torch.float64 in (held, given_in) else torch.float32)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert x.grad.dtype == given_in
    assert loss.proxies.dtype == loss.proxies.grad.dtype == held


def test_zero_rows_and_zero_proxies_have_no_direction_and_no_gradient():
    x, labels = batch_of()
    x[2] = 0
    x.requires_grad_()
    loss = loss_of()
    with torch.no_grad():
        loss.proxies[1] = 0
    loss(x, labels).backward()
    assert x.grad.isfinite().all()
    assert loss.proxies.grad.isfinite().all()
    assert (x.grad[2] == 0).all()
    assert (loss.proxies.grad[1] == 0).all()
    assert (x.grad[3] != 0).any()


def test_it_pickles_copies_and_reloads():
    x, labels = batch_of()
    loss, other = loss_of(), loss_of(seed=9)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), other):
        assert torch.equal(same(x, labels), loss(x, labels))


def test_param_groups_hold_the_proxies_at_the_published_rate():
    loss = loss_of()
    (group,) = loss.param_groups(lr=1e-4, weight_decay=1e-4)
    assert group["params"] == [loss.proxies]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.015), 1e-4)
    with pytest.raises(ValueError, match=r"^weight_decay: expected a finite number >= 0"):
        loss.param_groups(lr=1e-4, weight_decay=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected an integer >= 2; got 1"),
        ({"embedding_size": 0}, "embedding_size: expected an integer >= 1; got 0"),
        ({"softmax_scale": 0}, "softmax_scale: expected a finite number > 0; got 0"),
        ({"label_smoothing": 1}, r"label_smoothing: expected a number in \[0, 1\); got 1"),
        (
            {"label_smoothing": 0.8},
            "label_smoothing: expected less than 1 - 1 / num_classes = 0.8; got 0.8",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SmoothedProxyNCALoss(**{"num_classes": 5, "embedding_size": 4, **arguments})


def test_bad_batches_are_refused():
    x, labels = batch_of()
    loss = loss_of()
    with pytest.raises(ValueError, match=r"^ref_emb: expected None; got a tensor \(11, 4\). Rows"):
        loss(x, labels, None, x.clone(), labels)
    for bad in (labels + 1, labels - 1):
        with pytest.raises(ValueError, match=r"^labels: expected classes in \[0, num_classes\)"):
            loss(x, bad)
    with pytest.raises(ValueError, match=r"^labels: expected a \(B,\) tensor; got None"):
        loss(x)
    for method in (loss.get_logits, lambda rows: loss(rows, labels)):
        with pytest.raises(ValueError, match=r"^embeddings: expected embedding_size = 4 columns"):
            method(x[:, :3])
