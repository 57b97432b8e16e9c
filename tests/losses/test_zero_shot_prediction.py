import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from torch import nn

from pml_extras.functional import zero_shot_prediction
from pml_extras.losses import (
    ClassificationLoss,
    PotentialFieldLoss,
    WeightedLossEnsemble,
    ZeroShotPredictionLoss,
)
from pml_extras.weighting import FixedWeights

CLASSES, SIZE, ATTRIBUTES = 6, 3, 5


def loss_of(inner=None, *, seed=3, **options):
    torch.manual_seed(seed)
    return ZeroShotPredictionLoss(CLASSES, SIZE, ATTRIBUTES, inner=inner, **options).double()


def batch_of(num=10, seed=1):
    """Embeddings, attributes and labels without an order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, SIZE, generator=generator, dtype=torch.float64)
    z = torch.randn(num, ATTRIBUTES, generator=generator, dtype=torch.float64).softmax(1)
    y = torch.tensor([2, 0, 5, 2, 1, 0, 5, 1, 2, 0])[:num]
    return x, z, y


def zero_shot_of(loss, z, y, **settings):
    given = {"ridge": 0.05, "logit_scale": 9.5, **settings}
    return zero_shot_prediction(z, y, loss.class_vectors, **given)


def test_alone_it_is_the_mean_of_the_formula_with_the_values_of_the_paper():
    _, z, y = batch_of()
    loss = loss_of()
    expected = zero_shot_of(loss, z, y).mean()
    torch.testing.assert_close(loss(z, y), expected, rtol=1e-12, atol=0)
    other = loss_of(ridge=0.3, logit_scale=2.0)
    expected = zero_shot_of(other, z, y, ridge=0.3, logit_scale=2.0).mean()
    torch.testing.assert_close(other(z, y), expected, rtol=1e-12, atol=0)


def test_rows_keep_their_places_as_elements():
    _, z, y = batch_of()
    loss = loss_of(reducer=reducers.DoNothingReducer())
    part = loss(z, y)["loss"]
    torch.testing.assert_close(part["losses"], zero_shot_of(loss, z, y), rtol=1e-12, atol=0)
    assert part["indices"].tolist() == list(range(10))
    assert part["reduction_type"] == "element"


@pytest.mark.parametrize("weight", [None, 0.0, 0.3])
def test_beside_a_loss_it_is_the_weighted_sum(weight):
    x, z, y = batch_of()
    inner = losses.ContrastiveLoss()
    loss = loss_of(inner, weight=weight)
    share = 0.1 if weight is None else weight
    assert loss.weight == share
    expected = (1 - share) * inner(x, y) + share * zero_shot_of(loss, z, y).mean()
    rows = torch.cat([x, z], dim=1)
    torch.testing.assert_close(loss(rows, y), expected, rtol=1e-12, atol=0)


def test_beside_a_loss_both_parts_are_sub_losses_and_the_reducer_has_the_rows():
    x, z, y = batch_of()
    rows = torch.cat([x, z], dim=1)
    inner = losses.ContrastiveLoss(reducer=reducers.SumReducer())
    loss = loss_of(inner, reducer=reducers.DoNothingReducer())
    parts = loss(rows, y)
    torch.testing.assert_close(parts["inner_loss"]["losses"], 0.9 * inner(x, y))
    torch.testing.assert_close(
        parts["zero_shot_loss"]["losses"], 0.1 * zero_shot_of(loss, z, y), rtol=1e-12, atol=0
    )
    assert parts["zero_shot_loss"]["indices"].tolist() == list(range(10))
    assert set(parts) == {"inner_loss", "zero_shot_loss"}
    summed = loss_of(inner, reducer=reducers.SumReducer())(rows, y)
    expected = 0.9 * inner(x, y) + 0.1 * zero_shot_of(loss, z, y).sum()
    torch.testing.assert_close(summed, expected, rtol=1e-12, atol=0)


def test_the_inner_loss_pulls_embeddings_and_the_zero_shot_part_attributes():
    x, z, y = batch_of()
    rows = torch.cat([x, z], dim=1).requires_grad_()
    loss = loss_of(losses.ContrastiveLoss(), reducer=reducers.DoNothingReducer())
    parts = loss(rows, y)
    (by_inner,) = torch.autograd.grad(parts["inner_loss"]["losses"], rows)
    (by_zero_shot,) = torch.autograd.grad(parts["zero_shot_loss"]["losses"].sum(), rows)
    assert (by_inner[:, :SIZE] != 0).any()
    assert (by_inner[:, SIZE:] == 0).all()
    assert (by_zero_shot[:, :SIZE] == 0).all()
    assert (by_zero_shot[:, SIZE:] != 0).any()


def test_a_batch_of_one_class_leaves_the_inner_loss_alone():
    x, z, _ = batch_of()
    y = torch.full((10,), 4)
    rows = torch.cat([x, z], dim=1).requires_grad_()
    inner = losses.ContrastiveLoss()
    loss = loss_of(inner)
    value = loss(rows, y)
    torch.testing.assert_close(value, 0.9 * inner(x, y))
    value.backward()
    assert (rows.grad[:, SIZE:] == 0).all()
    assert (loss.class_vectors.grad == 0).all()
    alone = loss_of()
    attached = z.requires_grad_()
    value = alone(attached, y)
    value.backward()
    assert value == 0
    assert (attached.grad == 0).all()


def test_zero_attributes_leave_a_constant_beside_the_inner_loss():
    x, z, y = batch_of()
    inner = losses.ContrastiveLoss()
    value = loss_of(inner)(torch.cat([x, 0 * z], dim=1), y)
    torch.testing.assert_close(value, 0.9 * inner(x, y) + 0.1 * math.log(CLASSES))


class Negative(nn.Module):
    """As plain as a loss can be, and of shape (1,)."""

    def forward(self, embeddings, labels, indices_tuple=None):
        return -embeddings.square().sum().reshape(1)


def test_a_negative_inner_value_and_any_callable_loss_will_do():
    x, z, y = batch_of()
    loss = loss_of(Negative())
    expected = -0.9 * x.square().sum() + 0.1 * zero_shot_of(loss, z, y).mean()
    torch.testing.assert_close(loss(torch.cat([x, z], dim=1), y), expected)


def test_a_miner_s_tuple_goes_to_the_inner_loss():
    x, z, y = batch_of()
    chosen = miners.PairMarginMiner(0.1, 0.9)(x, y)
    inner = losses.ContrastiveLoss()
    rows = torch.cat([x, z], dim=1)
    loss = loss_of(inner)
    difference = loss(rows, y, chosen) - loss(rows, y)
    torch.testing.assert_close(difference, 0.9 * (inner(x, y, chosen) - inner(x, y)))
    assert difference != 0


def test_references_give_their_embeddings_to_the_inner_loss_alone():
    x, z, y = batch_of()
    ref, ref_z, ref_y = batch_of(7, seed=2)
    inner = losses.ContrastiveLoss()
    loss = loss_of(inner)
    found = loss(torch.cat([x, z], dim=1), y, None, torch.cat([ref, ref_z], dim=1), ref_y)
    expected = 0.9 * inner(x, y, None, ref, ref_y) + 0.1 * zero_shot_of(loss, z, y).mean()
    torch.testing.assert_close(found, expected)


def test_a_cross_batch_memory_stores_embeddings_and_no_attributes():
    inner = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, memory_size=30)
    reference = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, memory_size=30).double()
    loss = loss_of(inner)
    for seed in range(4):
        x, z, y = batch_of(seed=seed)
        found = loss(torch.cat([x, z], dim=1), y)
        expected = 0.9 * reference(x, y) + 0.1 * zero_shot_of(loss, z, y).mean()
        torch.testing.assert_close(found, expected)
    assert loss.inner.embedding_memory.shape == (30, SIZE)
    assert torch.equal(loss.inner.embedding_memory, reference.embedding_memory)


def test_a_cross_batch_memory_of_another_type_stores_in_evaluation_too():
    inner = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, memory_size=30)
    loss = loss_of(inner).eval()
    inner.float()
    x, z, y = batch_of()
    loss(torch.cat([x, z], dim=1), y)
    torch.testing.assert_close(inner.embedding_memory[:10], x.float())


def test_a_cross_batch_memory_takes_no_references():
    inner = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, memory_size=30)
    x, z, y = batch_of()
    rows = torch.cat([x, z], dim=1)
    with pytest.raises(ValueError, match="inner, CrossBatchMemory: "):
        loss_of(inner)(rows, y, None, rows + 1, y)


def ensemble():
    members = {"pairs": losses.ContrastiveLoss(), "classes": ClassificationLoss(CLASSES, SIZE)}
    return WeightedLossEnsemble(members, weighting=FixedWeights([0.7, 0.3]), scale=None)


def test_an_ensemble_inside_is_as_it_is_alone():
    x, z, y = batch_of()
    loss = loss_of(ensemble())
    expected = 0.9 * loss.inner(x, y) + 0.1 * zero_shot_of(loss, z, y).mean()
    torch.testing.assert_close(loss(torch.cat([x, z], dim=1), y), expected)


def test_class_vectors_start_with_the_deviation_of_the_paper():
    torch.manual_seed(0)
    for classes, size in ((50, 400), (400, 50)):
        vectors = ZeroShotPredictionLoss(classes, size, 2).class_vectors
        assert vectors.shape == (classes, size)
        assert vectors.std().item() == pytest.approx(math.sqrt(2 / classes), rel=0.02)
        assert abs(vectors.mean().item()) < 0.01
    loss = loss_of(weight_init_func=nn.init.ones_)
    assert torch.equal(loss.class_vectors, torch.ones_like(loss.class_vectors))


def test_a_regularizer_sees_the_class_vectors():
    _, z, y = batch_of()
    loss = loss_of(weight_regularizer=regularizers.LpRegularizer(), weight_reg_weight=0.5)
    penalty = 0.5 * loss.class_vectors.norm(dim=1).mean()
    torch.testing.assert_close(loss(z, y), zero_shot_of(loss, z, y).mean() + penalty)


@pytest.mark.parametrize(
    ("make", "rates"),
    [
        (lambda: None, [1e-2]),
        (losses.ContrastiveLoss, [1e-2]),
        (lambda: losses.ProxyAnchorLoss(CLASSES, SIZE), [1e-2, 1e-2]),
        (lambda: ClassificationLoss(CLASSES, SIZE), [1e-2, 1e-1]),
        (ensemble, [1e-2, 1e-1]),
        (lambda: PotentialFieldLoss(CLASSES, SIZE), None),
    ],
)
def test_a_step_with_its_groups_moves_the_trunk_and_every_parameter(make, rates):
    inner = make()
    loss = loss_of(inner).float()
    width = ATTRIBUTES + (0 if inner is None else SIZE)
    trunk = nn.Linear(4, width)
    groups = loss.param_groups(1e-2, weight_decay=1e-4)
    if rates is not None:
        assert [group["lr"] for group in groups] == rates
        assert all(group["weight_decay"] == 1e-4 for group in groups)
    held = [p for group in groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in loss.parameters()}
    assert len(held) == len(list(loss.parameters()))
    optimizer = torch.optim.Adam([{"params": trunk.parameters()}, *groups], lr=1e-2)
    leaves = [*trunk.parameters(), *held]
    before = [p.clone() for p in leaves]
    _, _, y = batch_of()
    loss(trunk(torch.randn(10, 4)), y).backward()
    optimizer.step()
    assert all((a != b).any() for a, b in zip(leaves, before, strict=True))


def test_training_lowers_the_loss_of_attributes_that_tell_classes_apart():
    torch.manual_seed(0)
    y = torch.arange(CLASSES).repeat(4)
    trunk = nn.Linear(CLASSES, ATTRIBUTES)
    loss = loss_of().float()
    optimizer = torch.optim.Adam([*trunk.parameters(), *loss.parameters()], lr=0.05)
    seen = []
    for _ in range(60):
        value = loss(trunk(torch.eye(CLASSES)[y]).softmax(1), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    assert seen[-1] < 0.8 * seen[0]


def test_the_value_has_the_type_of_the_rows_and_float32_at_least():
    x, z, y = batch_of()
    rows = torch.cat([x, z], dim=1)
    for dtype in (torch.float16, torch.float32, torch.float64):
        wide = torch.float32 if dtype == torch.float16 else dtype
        for make in (lambda: None, losses.ContrastiveLoss, lambda: ClassificationLoss(CLASSES, 3)):
            for loss in (loss_of(make()), loss_of(make()).half()):
                given = (z if loss.inner is None else rows).to(dtype)
                kept = loss.class_vectors.dtype
                assert loss(given, y).dtype == wide
                assert {p.dtype for p in loss.parameters()} == {kept}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": -0.05}, "ridge: expected a finite number > 0; got -0.05"),
        ({"logit_scale": 0}, "logit_scale: expected a finite number > 0; got 0"),
        ({"weight": 0.1}, "weight: expected None without `inner`; got 0.1"),
        ({"inner": Negative(), "weight": 1.0}, r"weight: expected a number in \[0, 1\); got 1.0"),
        ({"inner": "contrastive"}, "inner: expected a loss, a torch module; got str"),
        (
            {"inner": losses.ContrastiveLoss(reducer=reducers.DoNothingReducer())},
            "inner: expected a loss that reduces; got DoNothingReducer",
        ),
        ({"distance": distances.LpDistance()}, "distance: .* got LpDistance. Give it to the loss"),
    ],
)
def test_other_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**options)


@pytest.mark.parametrize(
    ("inner", "change", "message"),
    [
        (
            None,
            lambda z, y: (z[:, 1:], y),
            "embeddings: expected num_attributes = 5 columns; got 4",
        ),
        (
            Negative(),
            lambda z, y: (z, y),
            r"expected embedding_size \+ num_attributes = 8 columns; got 5 columns. Pass torch.cat",
        ),
        (None, lambda z, y: (z, None), r"labels: expected a \(B,\) tensor; got None"),
        (None, lambda z, y: (z, y + 1), r"labels: expected classes in .* got values from 1 to 6"),
        (
            None,
            lambda z, y: (z, y, None, z + 1, y),
            "ref_emb: expected None; .* Give `inner` the loss that compares pairs",
        ),
        (
            None,
            lambda z, y: (z, y, (y[:1], y[:1], y[:1])),
            "indices_tuple: expected None without `inner`; got a tuple. Give `inner`",
        ),
        (
            losses.ArcFaceLoss(CLASSES, SIZE),
            lambda z, y: (torch.cat([z, z[:, :3]], 1), y, None, torch.cat([z, z[:, :3]], 1), y),
            "inner, ArcFaceLoss: ref_emb is not supported",
        ),
        (nn.Bilinear(1, 1, 1), lambda z, y: (torch.cat([z, z[:, :3]], 1), y), "inner, Bilinear: "),
    ],
)
def test_other_batches_are_refused(inner, change, message):
    _, z, y = batch_of()
    with pytest.raises(ValueError, match=message):
        loss_of(inner)(*change(z, y))
