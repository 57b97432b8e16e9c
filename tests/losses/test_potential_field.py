from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, trainers
from pytorch_metric_learning.samplers import MPerClassSampler

from pml_extras.losses import PotentialFieldLoss
from tests.oracles import potential_field as oracle
from tests.strategies import batches, batches_with_references

CLASSES = (0, 1, 2)
REDUCTIONS = ("sum", "batch_mean", "pair_mean")


def unit(rows):
    """As torch rounds: rows of one direction may differ in the last bit, which then is theirs."""
    return torch.nn.functional.normalize(rows)


def loss_of(size, proxies_per_class=2, **kwargs):
    torch.manual_seed(5)
    loss = PotentialFieldLoss(3, size, proxies_per_class, **kwargs)
    return loss.double()


def expected_of(loss, x, labels, weight=None, ref=None, ref_labels=None):
    """Eq. 6 without constants: every point against every source, in loops.

    Returns the energy and the gradients at unit rows, unit proxies and unit references, each with
    the sum of the forces that it is a sum of.
    """
    z, p = unit(x.detach()).tolist(), unit(loss.proxies.detach()).tolist()
    r = None if ref is None else unit(ref.detach()).tolist()
    of_proxy = [c for c in CLASSES for _ in range(loss.proxies_per_class)]
    weight = [1.0] * len(z) if weight is None else weight
    tests = [(z, labels.tolist(), weight, "z")]
    tests += [(p, of_proxy, [1.0] * len(p), "p")] if p else []
    sources = [(z, labels.tolist(), "z") if r is None else (r, ref_labels.tolist(), "r")]
    sources += [(p, of_proxy, "p")] if p else []
    energy = 0.0
    num = {"z": len(z), "p": len(p), "r": 0 if r is None else len(r)}
    grads = {name: torch.zeros(n, x.shape[1], dtype=torch.float64) for name, n in num.items()}
    sizes = {name: torch.zeros(len(g), dtype=torch.float64) for name, g in grads.items()}
    delta_rep = loss.delta if loss.delta_rep is None else loss.delta_rep
    for points, point_labels, w, test in tests:
        for others, other_labels, source in sources:
            e, at_points, at_others, size, other_size = oracle.field(
                points, point_labels, others, other_labels, w,
                loss.alpha, loss.delta, delta_rep, loss.core_radius, test == source,
            )  # fmt: skip
            energy += e
            for name, grad, strength in ((test, at_points, size), (source, at_others, other_size)):
                grads[name] += torch.tensor(grad, dtype=torch.float64).reshape(grads[name].shape)
                sizes[name] += torch.tensor(strength, dtype=torch.float64)
    return energy, grads, sizes


def through_normalisation(rows, grad):
    """dU/dv = (g - (g.z) z) / |v|; 0 for a row of zeros."""
    length = rows.norm(dim=1, keepdim=True)
    z = unit(rows)
    return (grad - (grad * z).sum(dim=1, keepdim=True) * z) / length.masked_fill(
        length == 0, torch.inf
    )


def assert_rows_close(leaf, grad, expected, strength):
    """Relative to the forces summed; a gradient of unit rows scales with 1 / length."""
    size = leaf.detach().norm(dim=1, keepdim=True)
    bound = 1e-10 * strength[:, None] + 1e-12
    assert ((grad - through_normalisation(leaf.detach(), expected)).abs() * size <= bound).all()


options = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from((0.0, 1.0, 3.0, 6.0)),
        "delta": st.sampled_from((0.1937, 0.2713, 0.6111)),
        "delta_rep": st.sampled_from((None, 0.3517, 1.2345)),
        "proxies_per_class": st.sampled_from((0, 1, 3)),
    }
)


@given(batches(norms=True, values=CLASSES), options)
def test_batch_agrees_with_the_equation(batch, option):
    x, labels = batch
    x.requires_grad_()
    loss = loss_of(x.shape[1], **option)
    value = loss(x, labels)
    value.backward()
    energy, grads, sizes = expected_of(loss, x, labels)
    assert abs(value.item() - energy) <= 1e-10 * max(1.0, abs(energy))
    assert_rows_close(x, x.grad, grads["z"], sizes["z"])
    if loss.proxies_per_class > 0:
        assert_rows_close(loss.proxies, loss.proxies.grad, grads["p"], sizes["p"])


@given(batches_with_references(norms=True, values=CLASSES), options)
def test_references_are_sources_and_no_test_charges(batch, option):
    x, labels, ref, ref_labels = batch
    x.requires_grad_()
    ref.requires_grad_()
    loss = loss_of(x.shape[1], **option)
    value = loss(x, labels, None, ref, ref_labels)
    value.backward()
    energy, grads, sizes = expected_of(loss, x, labels, None, ref, ref_labels)
    assert abs(value.item() - energy) <= 1e-10 * max(1.0, abs(energy))
    assert_rows_close(x, x.grad, grads["z"], sizes["z"])
    assert_rows_close(ref, ref.grad, grads["r"], sizes["r"])
    if loss.proxies_per_class > 0:
        assert_rows_close(loss.proxies, loss.proxies.grad, grads["p"], sizes["p"])


def random_batch(num=12, size=5, dtype=torch.float64):
    torch.manual_seed(2)
    return torch.randn(num, size, dtype=dtype), torch.arange(num) % 3


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("with_ref", [False, True])
def test_tuple_weighs_the_field_at_its_samples(kind, with_ref):
    x, labels = random_batch()
    x.requires_grad_()
    mined = (torch.tensor([0, 0, 1, 4]), torch.tensor([3, 6, 4, 1]), torch.tensor([2, 2, 0, 0]))
    if kind == 4:
        mined = (*mined[:2], torch.tensor([7, 0]), torch.tensor([0, 1]))
    anchors = [mined[0]] if kind == 3 else [mined[0], mined[2]]
    counts = Counter(torch.cat(anchors if with_ref else list(mined)).tolist())
    weight = [counts[i] / max(counts.values()) for i in range(len(x))]
    assert len(set(weight)) > 2
    ref, ref_labels = (x.detach().flip(0) + 0.1, labels.flip(0)) if with_ref else (None, None)
    loss = loss_of(5)
    value = loss(x, labels, mined, ref, ref_labels)
    energy, grads, sizes = expected_of(loss, x, labels, weight, ref, ref_labels)
    assert value.item() == pytest.approx(energy, rel=1e-12)
    value.backward()
    assert_rows_close(x, x.grad, grads["z"], sizes["z"])
    assert_rows_close(loss.proxies, loss.proxies.grad, grads["p"], sizes["p"])


@pytest.mark.parametrize("with_ref", [False, True])
def test_reductions_divide_the_same_sum(with_ref):
    x, labels = random_batch()
    ref = (None, x[:7] + 0.1, labels[:7]) if with_ref else ()
    total, batch_mean, pair_mean = (
        loss_of(5, reduction=name)(x, labels, *ref).item() for name in REDUCTIONS
    )
    pairs = 18 * 13 - 6 if with_ref else 18 * 17
    assert batch_mean * 12 == pytest.approx(total)
    assert pair_mean * pairs == pytest.approx(total)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("with_ref", [False, True])
def test_statistics_sum_to_the_loss_up_to_the_wells(reduction, with_ref):
    x, labels = random_batch()
    x[3] = x[4] + 0.01  # two classes inside delta
    ref = (None, x[:7] + 0.1, labels[:7]) if with_ref else ()
    loss = loss_of(5, 2, reduction=reduction, collect_stats=True)
    with torch.no_grad():
        loss.proxies[0] = loss.proxies[2] + 0.01
        loss.proxies[1] = x[1]
    value = loss(x, labels, *ref).item()
    same = 3 * (6 * 5) if not with_ref else (6 * 5 + 6 * 4 + 6 * 4) - 6
    sources = 13 if with_ref else 18
    divisor = {"sum": 1, "batch_mean": 12, "pair_mean": 18 * sources - (6 if with_ref else 18)}
    parts = [getattr(loss, name) for name in loss._record_these_stats if "_" in name]
    assert len(parts) == 6
    assert min(parts) >= 0
    assert loss.repulsion_sample_sample > 0
    assert loss.repulsion_sample_proxy > 0
    assert loss.repulsion_proxy_proxy > 0
    wells = same * 0.2**-3 / divisor[reduction]
    assert sum(parts) - wells == pytest.approx(value, rel=1e-9)
    if not with_ref:
        loss(x[:0], labels[:0])
        assert loss.excess_sample_proxy == 0  # an empty batch does not repeat the last one


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_proxies_are_class_major(alpha):
    loss = loss_of(2, 2, alpha=alpha)
    angles = torch.tensor([0.0, 0.1, 2.0, 2.1, 4.0, 4.1], dtype=torch.float64)
    with torch.no_grad():
        loss.proxies.copy_(torch.stack([angles.cos(), angles.sin()], dim=1))
    assert (loss(loss.proxies.detach(), torch.tensor([0, 0, 1, 1, 2, 2])) <
            loss(loss.proxies.detach(), torch.tensor([0, 1, 2, 0, 1, 2])))  # fmt: skip


def test_gradients_are_tangents_of_the_sphere():
    x, labels = random_batch()
    x.requires_grad_()
    loss = loss_of(5)
    loss(x, labels).backward()
    for leaf in (x, loss.proxies):
        assert (leaf.grad * leaf).sum(dim=1).abs().max() < 1e-9


def test_without_proxies_any_labels_will_do():
    x, labels = random_batch()
    loss = loss_of(5, 0)
    assert loss.proxies.shape == (0, 5)
    assert loss(x, labels * 1000 - 7) == loss(x, labels)
    assert loss.param_groups(1e-3) == []


def test_proxies_start_standard_normal_or_as_asked():
    loss = PotentialFieldLoss(50, 64, 15)
    assert loss.proxies.shape == (750, 64)
    assert loss.proxies.std().item() == pytest.approx(1.0, rel=0.02)
    ones = PotentialFieldLoss(3, 4, 2, weight_init_func=torch.nn.init.ones_)
    assert (ones.proxies == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_batches_are_computed_in_float32(dtype):
    x, labels = random_batch(dtype=torch.float32)
    x = x.to(dtype).requires_grad_()
    loss = PotentialFieldLoss(3, 5, 2, reduction="batch_mean")
    value = loss(x, labels)
    value.backward()
    assert value.dtype == loss.proxies.dtype == loss.proxies.grad.dtype == torch.float32
    assert x.grad.dtype == dtype
    assert value == loss(x.detach().float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(x, labels) == value


def test_sum_in_half_precision_does_not_overflow():
    x, labels = random_batch(dtype=torch.float16)
    loss = PotentialFieldLoss(
        3,
        5,
        alpha=6.0,
        delta=0.1,
        weight_init_func=torch.nn.init.ones_,  # all proxies in one well, 1e6 deep
        embedding_regularizer=regularizers.LpRegularizer(),
    )
    assert loss(x, labels).abs() > torch.finfo(torch.float16).max
    assert loss(x, labels).isfinite()


@pytest.mark.parametrize("proxies_per_class", [0, 2])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_collapsed_batches_have_finite_gradients(value, proxies_per_class):
    x = torch.full((6, 4), value, requires_grad=True)
    loss = PotentialFieldLoss(3, 4, proxies_per_class)
    loss(x, torch.arange(6) % 3).backward()
    assert x.grad.isfinite().all()
    if value == 0.0:
        assert (x.grad == 0).all()  # no direction to turn from
    if proxies_per_class:
        assert loss.proxies.grad.isfinite().all()


def test_proxy_of_zeros_has_a_finite_gradient():
    loss = PotentialFieldLoss(2, 3, 2, weight_init_func=torch.nn.init.zeros_)
    x = torch.randn(4, 3, requires_grad=True)
    loss(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.isfinite().all()
    assert (loss.proxies.grad == 0).all()


def test_empty_batch_is_an_attached_zero():
    loss = PotentialFieldLoss(3, 4)
    x = torch.randn(0, 4, requires_grad=True)
    value = loss(x, torch.empty(0, dtype=torch.int64))
    value.backward()
    assert value == 0


def test_weight_regularizer_sees_the_proxies():
    x, labels = random_batch()
    plain = loss_of(5)(x, labels)
    kwargs = {"weight_regularizer": regularizers.LpRegularizer(), "weight_reg_weight": 0.5}
    loss = loss_of(5, **kwargs)
    added = 0.5 * loss.proxies.norm(dim=1).mean()
    torch.testing.assert_close(loss(x, labels), plain + added)
    assert loss.sub_loss_names() == ["loss", "weight_reg_loss"]
    with pytest.raises(ValueError, match=r"^weight_regularizer: expected None with proxies_per_cl"):
        loss_of(5, 0, **kwargs)


def test_unreduced_energy_reaches_do_nothing_reducer():
    x, labels = random_batch()
    out = loss_of(5, reducer=reducers.DoNothingReducer())(x, labels)
    assert out["loss"]["reduction_type"] == "already_reduced"
    assert out["loss"]["losses"] == loss_of(5)(x, labels)


@pytest.mark.parametrize(
    "reducer", [reducers.MeanReducer(), reducers.MultipleReducers({"loss": reducers.MeanReducer()})]
)
def test_other_reducers_are_refused(reducer):
    with pytest.raises(ValueError, match=r"^reducer: expected None or DoNothing.*`reduction`"):
        PotentialFieldLoss(3, 4, reducer=reducer)


@pytest.mark.parametrize(
    "distance",
    [
        distances.CosineSimilarity(),
        distances.LpDistance(normalize_embeddings=False),
        distances.LpDistance(p=1),
        distances.LpDistance(power=2),
    ],
)
def test_other_distances_are_refused(distance):
    with pytest.raises(ValueError, match=r"^distance: expected LpDistance\(\) on unit vectors"):
        PotentialFieldLoss(3, 4, distance=distance)


def test_labels_that_are_no_classes_are_refused():
    loss = PotentialFieldLoss(3, 4)
    x = torch.randn(2, 4)
    for labels, came in (
        (torch.tensor([0, 3]), r"values from 0 to 3"),
        (torch.tensor([-1, 2]), r"values from -1 to 2"),
        (torch.tensor([0.0, 1.0]), r"torch.float32"),
        (None, "None"),
    ):
        with pytest.raises(ValueError, match=rf"^labels: expected .*; got {came}"):
            loss(x, labels)
    with pytest.raises(ValueError, match=r"^ref_labels: expected classes in \[0, num_classes\)"):
        loss(x, torch.tensor([0, 1]), None, x + 1, torch.tensor([0, 9]))
    with pytest.raises(ValueError, match=r"^embeddings: expected embedding_size = 4 columns"):
        loss(torch.randn(2, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 0),
        ("num_classes", 2.5),
        ("embedding_size", 0),
        ("proxies_per_class", -1),
        ("alpha", -0.5),
        ("alpha", float("nan")),
        ("delta", 0.0),
        ("delta_rep", -1.0),
        ("core_radius", 0.25),
        ("reduction", "mean"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        PotentialFieldLoss(**{"num_classes": 3, "embedding_size": 4, name: value})


def test_proxies_learn_faster_than_the_trunk_and_do_not_decay():
    loss = PotentialFieldLoss(3, 4)
    (group,) = loss.param_groups(lr=1e-4, weight_decay=1e-3)
    assert group["params"] == [loss.proxies]
    assert group["lr"] == pytest.approx(1e-2)
    assert group["weight_decay"] == 0.0


def test_initial_norm_times_rate_is_an_angular_speed():
    loss = PotentialFieldLoss(4, 128, 2)
    optimizer = torch.optim.Adam(loss.param_groups(lr=1e-4))
    before = unit(loss.proxies.detach())
    x = torch.randn(8, 128)
    loss(x, torch.arange(8) % 4).backward()
    optimizer.step()
    angle = (before * unit(loss.proxies.detach())).sum(dim=1).clamp(max=1).acos()
    assert angle.mean().item() == pytest.approx(1e-2, rel=0.1)


def blobs(num_classes=4, num=48):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % num_classes
    centres = torch.randn(num_classes, 10, generator=generator)
    return centres[labels] + torch.randn(num, 10, generator=generator), labels


def test_training_under_autocast_with_a_grad_scaler():
    torch.manual_seed(0)
    x, labels = blobs()
    trunk = torch.nn.Linear(10, 8)
    loss = PotentialFieldLoss(4, 8, 2, reduction="batch_mean", collect_stats=True)
    start = loss.proxies.detach().clone()
    optimizer = torch.optim.Adam(
        [{"params": trunk.parameters(), "lr": 1e-2}, *loss.param_groups(lr=1e-4)]
    )
    scaler = torch.amp.GradScaler("cpu")
    excess = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            value = loss(trunk(x), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        excess.append(loss.excess_sample_proxy)
    assert loss.proxies.dtype == torch.float32
    assert not torch.equal(loss.proxies, start)
    assert excess[-1] < excess[0]


@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()])
def test_training_with_pml_trainer_sampler_and_miner(miner):
    x, labels = blobs()
    dataset = torch.utils.data.TensorDataset(x, labels)
    trunk = torch.nn.Linear(10, 8)
    loss = PotentialFieldLoss(4, 8, 2, reduction="batch_mean")
    start = loss.proxies.detach().clone()
    trainer = trainers.MetricLossOnly(
        models={"trunk": trunk},
        optimizers={
            "trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=1e-2),
            "metric_loss_optimizer": torch.optim.Adam(loss.param_groups(lr=1e-4)),
        },
        batch_size=16,
        loss_funcs={"metric_loss": loss},
        dataset=dataset,
        mining_funcs={} if miner is None else {"tuple_miner": miner},
        sampler=MPerClassSampler(labels, m=4, batch_size=16, length_before_new_iter=48),
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    )
    seen = []
    trainer.end_of_iteration_hook = lambda t: seen.append(t.losses["total_loss"].item())
    trainer.train(num_epochs=20)
    assert sum(seen[-5:]) < sum(seen[:5])
    assert not torch.equal(loss.proxies, start)


def test_works_inside_multiple_losses():
    x, labels = random_batch()
    ours, theirs = loss_of(5), losses.ContrastiveLoss()
    both = losses.MultipleLosses([ours, theirs], weights=[2.0, 3.0])
    expected = 2 * ours(x, labels) + 3 * theirs(x, labels)
    torch.testing.assert_close(both(x, labels), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_in_float64_is_computed_in_float64(dtype):
    x, labels = random_batch(dtype=dtype)
    loss = loss_of(5)
    value = loss(x, labels)
    assert value.dtype == loss.proxies.dtype == torch.float64
    energy, _, _ = expected_of(loss, x.double(), labels)
    assert value.item() == pytest.approx(energy, rel=1e-6 if dtype == torch.float32 else 1e-12)


def test_empty_batch_keeps_proxies_in_the_graph():
    loss = PotentialFieldLoss(3, 4, weight_regularizer=regularizers.LpRegularizer())
    x = torch.randn(0, 4, requires_grad=True)
    loss(x, torch.empty(0, dtype=torch.int64)).backward()
    assert (loss.proxies.grad == 0).all()
    with pytest.raises(ValueError, match="Number of embeddings"):
        loss(x, torch.zeros(5, dtype=torch.int64))


def test_statistics_of_the_distance_are_recorded():
    x, labels = random_batch()
    distance = distances.LpDistance(collect_stats=True)
    loss_of(5, distance=distance)(3 * unit(x), labels)
    assert distance.initial_avg_query_norm == pytest.approx(3.0)
    assert distance.final_avg_ref_norm == pytest.approx(1.0)


def test_not_a_number_reaches_the_value():
    x, _ = random_batch(4)
    x[1] = x[0]
    x[3] = torch.nan
    loss = PotentialFieldLoss(4, 5, 0)
    assert loss(x, torch.arange(4)).isnan()


def test_labels_of_any_integer_type_are_classes():
    x, labels = random_batch()
    loss = loss_of(5)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.uint16):
        assert loss(x, labels.to(dtype)) == loss(x, labels)


def test_numpy_numbers_are_numbers():
    loss = PotentialFieldLoss(np.int64(3), np.int32(5), np.int64(2), np.float32(3.0))
    assert loss.proxies.shape == (6, 5)


@pytest.mark.parametrize("lr", [0.0, -1e-3])
def test_rates_out_of_range_are_refused(lr):
    with pytest.raises(ValueError, match=r"^lr: expected"):
        loss_of(5).param_groups(lr)
