import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, trainers
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as c_f
from torch import nn

from pml_extras.functional import head_diversity, minimum_norm_weights
from pml_extras.losses import LiftedStructureLoss, PotentialFieldLoss, WeightedLossEnsemble
from pml_extras.weighting import (
    DynamicWeightAverage,
    FixedWeights,
    GradNorm,
    HomoscedasticUncertainty,
    LearnedSimplex,
    LossWeighting,
    MultipleGradientDescent,
    NonNegativeUncertainty,
    RandomWeights,
    SquaredWeights,
    Weighted,
)
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES
from tests.conformance.pml_catalogue import CATALOGUE

SIZE = 6


class Given(nn.Module):
    """A loss whose value is told to it; its gradient at each embedding is that value too."""

    def __init__(self, *values):
        super().__init__()
        self.values = list(values)

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        return value * (1 + (embeddings - embeddings.detach()).sum())


def batch_of(num=12, seed=1, dtype=torch.float64, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, generator=generator, dtype=dtype)
    return x, torch.arange(num) % 3


def told(*sequences, **options):
    """An ensemble of losses that give these values, batch after batch."""
    return WeightedLossEnsemble([Given(*values) for values in sequences], **options).double()


def three_losses():
    torch.manual_seed(4)
    return {
        "similarity": losses.MultiSimilarityLoss(),
        "proxies": losses.ProxyAnchorLoss(3, SIZE),
        "softmax": losses.NormalizedSoftmaxLoss(3, SIZE),
    }


# ---------------------------------------------------------------- weights and values


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of pml
@pytest.mark.parametrize("name", CATALOGUE)
def test_fixed_weights_without_scaling_are_pml_s_multiple_losses(name):
    entry = CATALOGUE[name]
    torch.manual_seed(0)
    member, other = entry.make().double(), losses.ContrastiveLoss()
    x, labels = batch_of(NUM_CLASSES**2, size=EMBEDDING_SIZE)
    labels = torch.arange(NUM_CLASSES**2) // NUM_CLASSES  # sorted and equal, which some need
    weights = {"first": 0.7, "second": 1.9}
    results = []
    for cls in (losses.MultipleLosses, WeightedLossEnsemble):
        members = {"first": copy.deepcopy(member), "second": other}
        if cls is WeightedLossEnsemble:
            both = cls(members, weighting=FixedWeights(weights), scale=None)
        else:
            both = cls(members, weights=weights)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        value = both(leaf, labels)
        value.backward()
        results.append([value.detach(), leaf.grad, *(p.grad for p in both.losses.parameters())])
    for theirs, ours in zip(*results, strict=True):
        if (
            theirs.dtype == torch.float32
        ):  # as the value of SmoothAP is, to which pml adds the other
            ours = ours.float()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["cumulative", 0.9, None])
@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (LearnedSimplex, 1e-12),
        (lambda: SquaredWeights(floor=0.75), 1e-12),  # c = 0.5, which float32 holds
        (SquaredWeights, 1e-6),  # c = 0.866..., rounded to float32
    ],
    ids=["simplex", "squared", "squared_at_the_default_floor"],
)
def test_one_loss_is_itself_at_every_batch(make, tolerance, scale):
    alone = losses.TripletMarginLoss()
    ensemble = WeightedLossEnsemble([alone], weighting=make(), scale=scale).double()
    for seed in range(3):
        x, labels = batch_of(seed=seed)
        torch.testing.assert_close(ensemble(x, labels), alone(x, labels), rtol=tolerance, atol=0)
        assert ensemble.loss_weights() == {"loss_0": pytest.approx(1.0, rel=tolerance)}


@pytest.mark.parametrize("scale", ["cumulative", 0.9])
@pytest.mark.parametrize("make", [LearnedSimplex, SquaredWeights])
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=4), st.data())
def test_the_first_total_is_the_mean_of_the_losses_for_any_prior(make, scale, values, data):
    """To float32, in which the weights start; exactly, it is their sum that multiplies the mean."""
    prior = [data.draw(st.floats(1.0, 2.0)) for _ in values]
    ensemble = told(*[(v,) for v in values], weighting=make(prior=prior), scale=scale)
    x, labels = batch_of()
    total, mean = ensemble(x, labels).item(), sum(values) / len(values)
    assert total == pytest.approx(mean, rel=1e-6)
    weights = list(ensemble.loss_weights().values())
    penalty = 1e4 * (sum(weights) - 1) ** 2 if make is SquaredWeights else 0.0
    assert total == pytest.approx(sum(weights) * mean + penalty, rel=1e-12)
    assert weights == pytest.approx([p / sum(prior) for p in prior], rel=1e-6)


def test_the_published_total_holds_the_penalty_of_weights_that_have_moved():
    ensemble = told((2.0, 1.0), (3.0, 5.0), weighting=SquaredWeights(prior=[1, 2], penalty=7.0))
    x, labels = batch_of()
    ensemble(x, labels)
    with torch.no_grad():
        ensemble.weighting.roots.copy_(torch.tensor([0.5, 1.0]))
    weights, means = [0.25 + 0.125, 1.0 + 0.125], [1.5, 4.0]
    terms = [w * 2.75 / m * v for w, m, v in zip(weights, means, [1.0, 5.0], strict=True)]
    expected = sum(terms) + 7.0 * (sum(weights) - 1) ** 2
    assert ensemble(x, labels).item() == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(("cumulative", 0.9, 0.3)),
    st.sampled_from((None, 2.0)),
)
def test_scaled_terms_agree_with_the_equation(batches, scale, cap):
    """Eq. 8 in plain floats; the exponential mean from its definition as a weighted sum."""
    prior = [1.0, 2.0, 1.5]
    weights = [p / sum(prior) for p in prior]
    columns = list(zip(*batches, strict=True))
    ensemble = told(
        *columns,
        weighting=FixedWeights(weights),
        scale=scale,
        max_scale=cap,
        reducer=reducers.DoNothingReducer(),
    )
    x, labels = batch_of()
    for n in range(1, len(batches) + 1):
        found = ensemble(x, labels)
        means = []
        for column in columns:
            if scale == "cumulative":
                shares = [1 / n] * n
            else:
                shares = [scale ** (n - k) * (1 - scale) / (1 - scale**n) for k in range(1, n + 1)]
            means.append(sum(s * v for s, v in zip(shares, column[:n], strict=True)))
        common = sum(means) / len(means)
        for j, mean in enumerate(means):
            factor = common / mean if mean > 1e-12 * common else 1.0
            factor = factor if cap is None else min(cap, factor)
            expected = weights[j] * factor * columns[j][n - 1]
            term = found[f"loss_{j}"]["losses"].item()
            assert term == pytest.approx(expected, rel=1e-9, abs=1e-300)
        torch.testing.assert_close(
            ensemble.running_mean, torch.tensor(means, dtype=torch.float64), rtol=1e-9, atol=1e-300
        )


def test_running_means_are_those_of_training_and_are_saved():
    ensemble = told((4.0, 2.0, 100.0), (1.0, 3.0, 100.0))
    x, labels = batch_of()
    for _ in range(2):
        ensemble(x, labels)
    assert ensemble.running_mean.tolist() == [3.0, 2.0]
    ensemble.eval()(x, labels)
    assert ensemble.running_mean.tolist() == [3.0, 2.0]
    assert ensemble.num_batches.tolist() == [2, 2]
    other = told((1.0,), (1.0,))
    other.load_state_dict(ensemble.state_dict())
    assert other.running_mean.tolist() == [3.0, 2.0]
    ensemble.reset_scale()
    assert ensemble.running_mean.tolist() == [0.0, 0.0]
    assert ensemble.num_batches.tolist() == [0, 0]


def test_a_factor_on_one_loss_multiplies_everything_alike():
    kappa = 50.0
    results = []
    for factor in (1.0, kappa):
        ensemble = told(
            *[(2.0, 3.0), (factor * 5.0, factor * 1.0)], weighting=LearnedSimplex(prior=[2, 1])
        )
        x, labels = batch_of()
        x.requires_grad_()
        for _ in range(2):
            x.grad = None
            ensemble.zero_grad()
            value = ensemble(x, labels)
            value.backward()
        (logits,) = ensemble.weighting.parameters()
        results.append((value.item(), x.grad, logits.grad))
    ratio = (2.5 + kappa * 3.0) / (2.5 + 3.0)
    (value, grad, of_logits), (value_k, grad_k, of_logits_k) = results
    assert value_k == pytest.approx(ratio * value)
    torch.testing.assert_close(grad_k, ratio * grad)
    torch.testing.assert_close(of_logits_k, ratio * of_logits)


def test_no_gradient_flows_through_the_means():
    ensemble = told((2.0, 6.0), (3.0, 1.0), weighting=FixedWeights([0.5, 0.5]))
    x, labels = batch_of()
    x.requires_grad_()
    ensemble(x, labels)
    value = ensemble(x, labels)
    (grad,) = torch.autograd.grad(value, x)
    means = [4.0, 2.0]
    expected = sum(0.5 * 3.0 / m * v for m, v in zip(means, [6.0, 1.0], strict=True))
    torch.testing.assert_close(grad, torch.full_like(grad, expected))


def test_a_loss_that_wakes_up_late_is_finite_and_can_be_capped():
    silent = (0.0,) * 4 + (0.01,)
    for cap in (None, 3.0):
        ensemble = told((1.0,), silent, max_scale=cap, weighting=FixedWeights([1.0, 1.0]))
        ensemble.reducer = reducers.DoNothingReducer()
        x, labels = batch_of()
        x.requires_grad_()
        for n in range(1, 6):
            terms = {name: part["losses"] for name, part in ensemble(x, labels).items()}
            (grad,) = torch.autograd.grad(sum(terms.values()), x)
            assert grad.isfinite().all()
            if n < 5:
                assert terms["loss_1"] == 0
        expected = 5 * (1.0 + 0.002) / 2 if cap is None else cap * 0.01
        assert terms["loss_1"].item() == pytest.approx(expected)


def test_a_loss_that_falls_silent_for_good_stays_finite():
    ensemble = told((100.0,), (1.0, *[0.0] * 1500), scale=0.5)
    x, labels = batch_of(2, dtype=torch.float32)
    ensemble.float()
    for _ in range(1500):
        assert ensemble(x, labels).isfinite()
    assert ensemble.running_mean[1] < 1e-30


def test_rounding_below_zero_is_zero():
    ensemble = told((1.0,), (-5e-7,))
    assert ensemble(*batch_of()).item() == pytest.approx(0.25, rel=1e-5)
    assert ensemble.running_mean.tolist() == [1.0, 0.0]


def test_a_silent_loss_has_the_factor_one():
    ensemble = told((2.0,), (0.0, 3.0), weighting=FixedWeights([1.0, 1.0]))
    x, labels = batch_of()
    ensemble(x, labels)
    assert ensemble.eval()(x, labels).item() == pytest.approx(2.0 * 0.5 + 3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_returned_and_not_counted(bad):
    ensemble = told((1.0, bad, 3.0), (2.0, 2.0, 2.0))
    x, labels = batch_of()
    assert ensemble(x, labels).isfinite()
    assert ensemble(x, labels).item() == pytest.approx(bad, nan_ok=True)
    assert ensemble(x, labels).isfinite()
    assert ensemble.running_mean.tolist() == [2.0, 2.0]
    assert ensemble.num_batches.tolist() == [2, 3]


def test_weights_learn_with_the_optimizer_and_stay_on_the_simplex():
    ensemble = told((1.0, 0.5), (1.0, 1.0), (1.0, 2.0))
    optimizer = torch.optim.Adam(ensemble.param_groups(lr=0.2))
    x, labels = batch_of()
    for _ in range(300):
        optimizer.zero_grad()
        ensemble(x, labels).backward()
        optimizer.step()
    weights = ensemble.loss_weights()
    assert weights["loss_0"] == pytest.approx(10 / 12, abs=0.02)
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 1 / 12 - 1e-6


# ---------------------------------------------------------------- heads


def heads_of(names, out=4):
    torch.manual_seed(6)
    return {name: nn.Linear(SIZE, out) for name in names}


def test_each_loss_and_miner_sees_its_own_head_and_references_too():
    seen = []

    class Seeing(Given):
        def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
            seen.append((embeddings, indices_tuple, ref_emb, ref_labels))
            return super().forward(embeddings, labels)

    class SeeingMiner(nn.Module):
        def forward(self, *given):
            seen.append(given)
            return tuple(torch.zeros(1, dtype=torch.int64) for _ in range(3))

    heads = heads_of("ab")
    ensemble = WeightedLossEnsemble(
        {"a": Seeing(1.0), "b": Seeing(2.0)}, miners={"b": SeeingMiner()}, heads=heads
    ).double()
    x, labels = batch_of()
    ref, ref_labels = batch_of(5, seed=7)
    mined = (torch.tensor([0]), torch.tensor([3]), torch.tensor([1]))
    ensemble(x, labels, mined, ref, ref_labels)
    at_a, at_miner, at_b = seen
    assert torch.equal(at_a[0], heads["a"](x))
    assert torch.equal(at_a[2], heads["a"](ref))
    assert at_a[1] is mined
    assert torch.equal(at_miner[0], heads["b"](x))
    assert torch.equal(at_miner[2], heads["b"](ref))
    assert torch.equal(at_b[0], heads["b"](x))
    assert [int(i) for i in at_b[1]] == [0, 0, 0]
    assert torch.equal(at_b[3], ref_labels)
    seen.clear()
    ensemble(x, labels)
    assert len(seen[1]) == 2
    assert seen[0][2] is None


def test_slices_are_heads_that_live_in_the_trunk():
    x, labels = batch_of()
    members = {"a": losses.ContrastiveLoss(), "b": losses.TripletMarginLoss()}
    weighting = FixedWeights([1.0, 1.0])
    ensemble = WeightedLossEnsemble(members, heads=[2, 4], weighting=weighting, scale=None)
    expected = members["a"](x[:, :2], labels) + members["b"](x[:, 2:], labels)
    torch.testing.assert_close(ensemble(x, labels), expected)
    for columns in (5, 7):
        message = f"embeddings: expected 6 columns, .* got {columns} columns"
        with pytest.raises(ValueError, match=message):
            ensemble(x.repeat(1, 2)[:, :columns], labels)


def test_a_loss_sends_no_gradient_to_the_head_of_another():
    heads = heads_of("ab")
    ensemble = WeightedLossEnsemble(
        {"a": losses.ContrastiveLoss(), "b": Given(0.0)}, heads=heads
    ).double()
    x, labels = batch_of()
    ensemble(x, labels).backward()
    assert heads["a"].weight.grad.abs().max() > 0
    assert (heads["b"].weight.grad == 0).all()


def unit_heads(vectors):
    """Heads that give these (B, D) vectors whatever comes in."""

    class Constant(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.rows = torch.nn.Parameter(rows)

        def forward(self, x):
            return self.rows + 0 * x.sum()

    return {f"loss_{k}": Constant(v.double()) for k, v in enumerate(vectors)}


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([torch.eye(3)[:1], -torch.eye(3)[:1]], 0.0),
        ([torch.eye(3)[k : k + 1] for k in range(3)], 2 - math.sqrt(2)),
        ([torch.eye(3)[:1]] * 3, 2.0),
    ],
)
def test_diversity_of_known_heads(vectors, expected):
    ensemble = told(*[(0.0,)] * len(vectors), heads=unit_heads(vectors), diversity_weight=0.3)
    x, labels = torch.zeros(1, SIZE, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    value = ensemble(x.requires_grad_(), labels)
    assert value.item() == pytest.approx(0.3 * expected, abs=1e-12)
    value.backward()
    assert all(p.grad.isfinite().all() for p in ensemble.heads.parameters())


def test_diversity_is_the_mean_over_pairs_and_rows():
    torch.manual_seed(0)
    vectors = [torch.randn(5, 3).double() for _ in range(3)]
    ensemble = told(
        *[(0.0,)] * 3, heads=unit_heads(vectors), diversity_weight=1.0, diversity_margin=9.0
    )
    total = 0.0
    for i in range(3):
        for j in range(i):
            for b in range(5):
                apart = (vectors[i][b] - vectors[j][b]).tolist()
                total += math.sqrt(sum(v * v for v in apart)) / 5 / 3
    x, labels = batch_of(5)
    assert ensemble(x, labels).item() == pytest.approx(9.0 - total, rel=1e-12)


def test_heads_farther_apart_than_the_margin_cost_nothing_and_are_left_alone():
    heads = unit_heads([torch.eye(3)[:1], -torch.eye(3)[:1]])  # 2 apart
    ensemble = told((0.0,), (0.0,), heads=heads, diversity_weight=1.0, diversity_margin=1.9)
    value = ensemble(torch.zeros(1, SIZE, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    assert value.item() == 0.0
    value.backward()
    assert all((p.grad == 0).all() for p in ensemble.heads.parameters())


def test_the_diversity_of_one_head_or_of_unlike_ones_is_refused():
    x = torch.zeros(4, 3)
    for heads, message in (
        ([x], "heads: expected two at least; got 1"),
        ([x, x, x[:, :1]], r"heads: expected one shape, \(4, 3\); got \(4, 1\)"),
        ([x, x[:1]], r"heads: expected one shape, \(4, 3\); got \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            head_diversity(heads)
    with pytest.raises(ValueError, match="margin: expected a finite number; got nan"):
        head_diversity([x, x], margin=math.nan)


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_unit_heads_are_farthest_apart_in_a_regular_simplex(num):
    corners = torch.eye(num) - 1 / num
    corners = corners / corners.norm(dim=1, keepdim=True)
    bound = 2 - math.sqrt(2 * num / (num - 1))
    x, labels = torch.zeros(1, SIZE, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    torch.manual_seed(0)
    for attempt in range(20):
        vectors = [corners[k : k + 1] for k in range(num)]
        if attempt:
            vectors = [nn.functional.normalize(torch.randn(1, num)) for _ in range(num)]
        ensemble = told(*[(0.0,)] * num, heads=unit_heads(vectors), diversity_weight=1.0)
        value = ensemble(x, labels).item()
        assert value >= bound - 1e-6
        if not attempt:
            assert value == pytest.approx(bound, abs=1e-6)


def test_embed_weighs_squared_distances_and_keeps_unit_norm():
    torch.manual_seed(0)
    vectors = [nn.functional.normalize(torch.randn(4, 3).double()) for _ in range(3)]
    ensemble = told(
        *[(1.0,)] * 3, heads=unit_heads(vectors), weighting=LearnedSimplex(prior=[3, 1, 2])
    )
    x = ensemble.embed(torch.zeros(4, SIZE, dtype=torch.float64))
    weights = list(ensemble.loss_weights().values())
    assert weights == pytest.approx([0.5, 1 / 6, 1 / 3])
    expected = sum(w * torch.cdist(v, v).square() for w, v in zip(weights, vectors, strict=True))
    torch.testing.assert_close(torch.cdist(x, x).square(), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4, dtype=torch.float64))
    shared = told((1.0,), (1.0,))
    assert shared.embed(x) is x


def test_embed_weighs_slices_in_float32_at_least_and_refuses_other_rows():
    ensemble = told((1.0,), (1.0,), heads=[2, 4], weighting=FixedWeights([4.0, 0.25]))
    x, _ = batch_of()
    expected = torch.cat([2.0 * x[:, :2], 0.5 * x[:, 2:]], dim=1)
    torch.testing.assert_close(ensemble.embed(x), expected, rtol=1e-12, atol=0)
    assert ensemble.embed(x.half()).dtype == torch.float32
    with pytest.raises(ValueError, match="features: expected 6 columns, the sum of the sizes of h"):
        ensemble.embed(x[:, :5])
    for other in (ensemble, told((1.0,))):
        with pytest.raises(ValueError, match="features: expected a floating tensor of shape"):
            other.embed(x.long())


# ---------------------------------------------------------------- in the library


def test_names_of_sub_losses_are_those_of_the_dictionary():
    names = {
        "plain": ({}, ["similarity", "proxies", "softmax"]),
        "squared": (
            {"weighting": SquaredWeights()},
            ["similarity", "proxies", "softmax", "weight_sum_penalty"],
        ),
        "diverse": (
            {"heads": heads_of(three_losses(), SIZE), "diversity_weight": 0.1},
            ["similarity", "proxies", "softmax", "diversity_loss"],
        ),
        "regularized": (
            {"embedding_regularizer": regularizers.LpRegularizer()},
            ["similarity", "proxies", "softmax", "embedding_reg_loss"],
        ),
    }
    x, labels = batch_of(dtype=torch.float32)
    for options, expected in names.values():
        ensemble = WeightedLossEnsemble(three_losses(), **options)
        assert ensemble.sub_loss_names() == expected
        ensemble.reducer = reducers.DoNothingReducer()
        assert list(ensemble(x, labels)) == expected


@pytest.mark.parametrize(
    "reducer",
    [
        reducers.MeanReducer(),
        reducers.SumReducer(),
        reducers.PerAnchorReducer(),
        reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 3.0])),
        reducers.AvgNonZeroReducer(),
    ],
    ids=lambda r: type(r).__name__,
)
def test_the_outer_reducer_changes_nothing(reducer):
    x, labels = batch_of(dtype=torch.float32)
    expected = WeightedLossEnsemble(three_losses())(x, labels)
    torch.testing.assert_close(
        WeightedLossEnsemble(three_losses(), reducer=reducer)(x, labels), expected
    )


def test_references_are_passed_on_or_refused_by_name():
    x, labels = batch_of()
    ref, ref_labels = batch_of(7, seed=5)
    pairs = {"a": losses.ContrastiveLoss(), "b": LiftedStructureLoss()}
    ensemble = WeightedLossEnsemble(pairs, weighting=FixedWeights([1.0, 1.0]), scale=None)
    expected = sum(loss(x, labels, None, ref, ref_labels) for loss in pairs.values())
    torch.testing.assert_close(ensemble(x, labels, None, ref, ref_labels), expected)
    pairs["c"] = losses.ProxyAnchorLoss(3, SIZE).double()
    with pytest.raises(ValueError, match=r"losses\['c'\], ProxyAnchorLoss: .*ref_emb"):
        WeightedLossEnsemble(pairs)(x, labels, None, ref, ref_labels)


def test_references_of_another_type_are_compared_in_that_of_the_rows():
    x, labels = batch_of(dtype=torch.float32)
    ref, ref_labels = batch_of(7, seed=5)
    ensemble = WeightedLossEnsemble([LiftedStructureLoss(), losses.ContrastiveLoss()], scale=None)
    found = ensemble(x, labels, None, ref, ref_labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ensemble(x, labels, None, ref.float(), ref_labels))


@pytest.mark.parametrize("as_list", [False, True])
def test_miners_may_be_a_mapping_or_a_list(as_list):
    x, labels = batch_of()
    miner = miners.TripletMarginMiner(margin=0.5)
    members = {"a": losses.ContrastiveLoss(), "b": losses.TripletMarginLoss()}
    ensemble = WeightedLossEnsemble(
        list(members.items()),
        miners=[None, miner] if as_list else {"b": miner},
        weighting=FixedWeights([1.0, 1.0]),
        scale=None,
    )
    expected = members["a"](x, labels) + members["b"](x, labels, miner(x, labels))
    torch.testing.assert_close(ensemble(x, labels), expected)


def test_groups_hold_every_parameter_once():
    shared = losses.ProxyAnchorLoss(3, SIZE)
    field = PotentialFieldLoss(3, SIZE, 1)
    members = {**three_losses(), "field": field, "again": shared, "and_again": shared}
    ensemble = WeightedLossEnsemble(members, heads=heads_of(members, SIZE))
    groups = ensemble.param_groups(lr=0.01, weight_decay=0.1, weighting_lr=0.5)
    assert all(group["params"] for group in groups)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in ensemble.parameters()})
    by_id = {id(p): group for group in groups for p in group["params"]}
    of_field = by_id[id(field.proxies)]
    assert (of_field["lr"], of_field["weight_decay"]) == (1.0, 0.0)  # as the loss itself asks
    of_head = by_id[id(ensemble.heads["again"].weight)]
    assert (of_head["lr"], of_head["weight_decay"]) == (0.01, 0.1)
    (logits,) = ensemble.weighting.parameters()
    assert (by_id[id(logits)]["lr"], by_id[id(logits)]["weight_decay"]) == (0.5, 0.0)
    torch.optim.Adam(groups)


def test_of_two_losses_that_share_a_layer_the_second_adds_its_other_one():
    own, shared, other = (nn.Linear(2, 2, bias=False) for _ in range(3))
    members = [nn.Sequential(own, shared), nn.Sequential(shared, other)]
    groups = WeightedLossEnsemble(members).param_groups(lr=0.1)
    found = [[id(p) for p in group["params"]] for group in groups[:2]]
    assert found == [[id(own.weight), id(shared.weight)], [id(other.weight)]]


class OwnGroups(Given):
    """A loss that wants half of the rate, all of the decay, and a setting of its own."""

    def __init__(self):
        super().__init__(1.0)
        self.weight = nn.Parameter(torch.ones(1))

    def param_groups(self, lr, weight_decay=0.0):
        group = {"params": list(self.parameters()), "lr": lr / 2, "weight_decay": weight_decay}
        return [{**group, "betas": (0.5, 0.9)}]


def test_a_loss_with_groups_of_its_own_is_told_rate_and_decay_at_any_depth():
    inner = WeightedLossEnsemble({"own": OwnGroups()})
    ensemble = WeightedLossEnsemble({"inner": inner, "own": OwnGroups()})
    groups = ensemble.param_groups(lr=0.01, weight_decay=0.1)
    by_id = {id(p): group for group in groups for p in group["params"]}
    for loss in (inner.losses["own"], ensemble.losses["own"]):
        group = by_id[id(loss.weight)]
        assert (group["lr"], group["weight_decay"], group["betas"]) == (0.005, 0.1, (0.5, 0.9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr: expected a finite number > 0; got 0.0"),
        ({"lr": 0.1, "weight_decay": -0.1}, "weight_decay: expected a finite number >= 0; got -0"),
        ({"lr": 0.1, "weighting_lr": 0.0}, "weighting_lr: expected a finite number > 0; got 0.0"),
    ],
)
def test_groups_of_impossible_rates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        told((1.0,)).param_groups(**arguments)


def test_statistics():
    ensemble = told((2.0,), (3.0,), weighting=LearnedSimplex(prior=[2, 1]), collect_stats=True)
    ensemble(*batch_of())
    assert (ensemble.value_loss_0, ensemble.value_loss_1) == (2.0, 3.0)
    assert ensemble.weight_loss_0 == pytest.approx(2 / 3)
    options = {"heads": [3, 3], "diversity_weight": 1.0, "diversity_margin": 9.0}
    ensemble = told((2.0,), (3.0,), collect_stats=True, weighting=SquaredWeights(), **options)
    parts = ensemble(*batch_of()).item() - 2.5
    assert ensemble.value_weight_sum_penalty == pytest.approx(0, abs=1e-9)
    assert ensemble.value_diversity_loss == pytest.approx(parts, rel=1e-6)
    assert ensemble._record_these == ["diversity_weight", "diversity_margin"]
    of_losses = ["value_loss_0", "value_loss_1"]
    of_terms = ["value_weight_sum_penalty", "value_diversity_loss"]
    of_weights = ["weight_loss_0", "weight_loss_1"]
    assert ensemble._record_these_stats == of_losses + of_terms + of_weights
    silent = told((2.0,), (3.0,), weighting=SquaredWeights(), **options)
    silent(*batch_of())
    assert not any(hasattr(silent, name) for name in of_losses + of_terms + of_weights)


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="Python 3.11 has notes")
def test_an_error_of_another_kind_keeps_its_type_and_names_the_loss():
    ensemble = WeightedLossEnsemble({"pairs": losses.ContrastiveLoss(), "wide": Wide()})
    with pytest.raises(RuntimeError) as error:
        ensemble(*batch_of())
    assert error.value.__notes__ == ["in losses['wide'], Wide"]


class Wide(nn.Module):
    def forward(self, embeddings, labels, indices_tuple=None):
        return (embeddings @ torch.zeros(SIZE + 1, 1)).sum()


class Refusing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, embeddings, labels, indices_tuple=None):
        raise self.error("no such rows")


@pytest.mark.parametrize("kind", [ValueError, TypeError, AssertionError])
def test_what_a_loss_refuses_is_a_value_error_with_its_name(kind):
    ensemble = WeightedLossEnsemble({"pairs": losses.ContrastiveLoss(), "own": Refusing(kind)})
    with pytest.raises(ValueError, match=r"^losses\['own'\], Refusing: no such rows$") as error:
        ensemble(*batch_of())
    assert isinstance(error.value.__cause__, kind)


@pytest.mark.parametrize("given_in", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("held", [torch.float32, torch.float64])
def test_any_type_of_rows_and_parameters(given_in, held):
    members = {"a": losses.ContrastiveLoss(), "b": losses.TripletMarginLoss()}
    ensemble = WeightedLossEnsemble(members, heads=heads_of(members)).to(held)
    x, labels = batch_of(dtype=given_in)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = ensemble(x, labels)
    value.backward()
    exact = WeightedLossEnsemble(members, heads=heads_of(members)).double()
    expected = exact(x.detach().double(), labels)
    exactly = torch.float64 in (given_in, held)  # the wider type of rows and parameters
    assert value.item() == pytest.approx(expected.item(), rel=1e-12 if exactly else 1e-5)
    assert {p.dtype for p in ensemble.parameters()} == {held}
    assert x.grad.isfinite().all()


def test_a_break_in_training_changes_no_bit():
    def fresh():
        torch.manual_seed(3)
        trunk = nn.Linear(5, SIZE)
        members = three_losses()
        ensemble = WeightedLossEnsemble(members, heads=heads_of(members, SIZE), max_scale=10.0)
        groups = [{"params": trunk.parameters()}, *ensemble.param_groups(lr=0.01)]
        return trunk, ensemble, torch.optim.Adam(groups, lr=0.01)

    def train(trunk, ensemble, optimizer, steps):
        totals = []
        for step in steps:
            x, labels = batch_of(seed=step, dtype=torch.float32, size=5)
            optimizer.zero_grad()
            total = ensemble(trunk(x), labels)
            total.backward()
            optimizer.step()
            totals.append((total.item(), *ensemble.loss_weights().values()))
        return totals

    expected = train(*fresh(), range(8))
    first = fresh()
    found = train(*first, range(4))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = fresh()
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    found += train(*second, range(4, 8))
    assert found == expected


def test_it_copies_and_pickles():
    ensemble = WeightedLossEnsemble(three_losses(), miners={"similarity": miners.BatchHardMiner()})
    x, labels = batch_of(dtype=torch.float32)
    ensemble(x, labels)
    ensemble.eval()
    for same in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert torch.equal(same(x, labels), ensemble(x, labels))


def test_in_pml_s_trainer():
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    images = torch.randn(24, 5) + 2 * torch.eye(5)[labels]
    trunk = nn.Linear(5, SIZE)
    ensemble = WeightedLossEnsemble(three_losses())
    before = copy.deepcopy(ensemble.state_dict())
    c_f.NUMPY_RANDOM = np.random.default_rng(0)

    def detach(trainer):
        trainer.losses["total_loss"] = trainer.losses["total_loss"].detach()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainers.MetricLossOnly(
            models={"trunk": trunk},
            optimizers={
                "trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=0.02),
                "metric_loss_optimizer": torch.optim.Adam(ensemble.param_groups(lr=0.02)),
            },
            batch_size=12,
            loss_funcs={"metric_loss": ensemble},
            dataset=torch.utils.data.TensorDataset(images, labels),
            data_device=torch.device("cpu"),
            sampler=MPerClassSampler(labels, m=4, batch_size=12, length_before_new_iter=60),
            dataloader_num_workers=0,
            end_of_iteration_hook=detach,
        ).train(num_epochs=2)
    assert ensemble.num_batches.tolist() == [10, 10, 10]
    for name, p in ensemble.named_parameters():
        assert not torch.equal(p, before[name]), name


# ---------------------------------------------------------------- misuse

TRIPLET = losses.TripletMarginLoss
MISUSE = [
    (
        lambda: WeightedLossEnsemble({"a": TRIPLET(reducer=reducers.DoNothingReducer())}),
        r"losses\['a'\]: expected a loss that reduces; got DoNothingReducer. Leave",
    ),
    *(
        (
            lambda make=make: WeightedLossEnsemble([TRIPLET()] * 4, weighting=make([20, 1, 1, 1])),
            r"^prior: expected shares of the sum above the floor 0\.0625; "
            r"got \[0\.8696, 0\.0435, 0\.0435, 0\.0435\]\. "
            r"Raise the smallest entries or lower `floor`\.$",
        )
        for make in (LearnedSimplex, SquaredWeights)
    ),
    (
        lambda: WeightedLossEnsemble(
            {"a": TRIPLET(), "b": TRIPLET()}, heads={"a": nn.Linear(2, 2)}
        ),
        r"heads: expected the names of the losses, \['a', 'b'\]; got \['a'\]",
    ),
    (
        lambda: WeightedLossEnsemble([("a", TRIPLET()), ("a", TRIPLET())]),
        "losses: expected names that differ; got 'a' twice",
    ),
    (
        lambda: WeightedLossEnsemble(
            {"diversity_loss": TRIPLET(), "b": TRIPLET()}, heads=[1, 1], diversity_weight=1.0
        ),
        "losses: expected names other than those of extra terms; got 'diversity_loss'",
    ),
    (
        lambda: WeightedLossEnsemble({"keys": TRIPLET()}),
        "identifiers and no attributes of a module; got 'keys'",
    ),
    (
        lambda: WeightedLossEnsemble({"a.b": TRIPLET()}),
        "identifiers and no attributes of a module; got 'a.b'",
    ),
    (lambda: WeightedLossEnsemble([]), "losses: expected one at least; got none"),
    (lambda: WeightedLossEnsemble(TRIPLET()), "losses: expected a mapping or a list; got Triplet"),
    (
        lambda: WeightedLossEnsemble([TRIPLET]),
        r"losses\['loss_0'\]: expected a loss, a torch module",
    ),
    (lambda: WeightedLossEnsemble([TRIPLET()], weighting=[1.0]), "weighting: expected a strategy"),
    (lambda: WeightedLossEnsemble([TRIPLET()], weights=[1.0]), r"Pass weighting=FixedWeights\(wei"),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], distance=distances.LpDistance()),
        "distance: expected None; got LpDistance. Give it to the losses.",
    ),
    (lambda: WeightedLossEnsemble([TRIPLET()], scale="mean"), 'scale: expected "cumulative", a'),
    (lambda: WeightedLossEnsemble([TRIPLET()], scale=1.0), "scale: .* got 1.0"),
    (lambda: WeightedLossEnsemble([TRIPLET()], max_scale=0.5), "max_scale: expected None or at le"),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], max_scale=2.0, scale=None),
        "max_scale: expected None with scale=None; got 2.0",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], diversity_weight=-1),
        "diversity_weight: expected a",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()] * 2, diversity_weight=1),
        "diversity_weight: expected 0 without heads",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], heads=[2], diversity_weight=1),
        "diversity_weight: expected 0 without heads, and with a single loss; got 1",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()] * 2, heads=[2, 3], diversity_weight=1),
        r"heads: expected one size for all, to measure diversity; got \[2, 3\]",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], heads=[2], diversity_margin=0),
        "diversity_margin: expected a finite number > 0; got 0",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], miners={"b": miners.BatchHardMiner()}),
        "names among",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], miners=[None, None]),
        "miners: expected 1, one a loss",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], heads=[0]),
        "heads: expected an integer >= 1; got 0",
    ),
    (
        lambda: WeightedLossEnsemble([TRIPLET()], heads=[1, 2]),
        "heads: expected 1 sizes, one a loss",
    ),
]


@pytest.mark.parametrize(("construct", "message"), MISUSE, ids=range(len(MISUSE)))
def test_misuse_is_refused_at_construction(construct, message):
    with pytest.raises(ValueError, match=message):
        construct()


class Returning(nn.Module):
    """A loss that returns what this makes of the rows."""

    def __init__(self, made_of):
        super().__init__()
        self.made_of = made_of

    def forward(self, embeddings, labels, indices_tuple=None):
        return self.made_of(embeddings)


def test_a_loss_may_return_its_number_in_a_vector_of_one():
    x, labels = batch_of()
    members = [Returning(lambda rows: rows.square().sum().reshape(1)), Given(2.0)]
    ensemble = WeightedLossEnsemble(members, weighting=FixedWeights([1.0, 3.0]), scale=None)
    value = ensemble(x, labels)
    assert value.shape == ()
    assert value.item() == pytest.approx(x.square().sum().item() + 6.0, rel=1e-12)


def test_misuse_is_refused_in_a_call():
    x, labels = batch_of()
    with pytest.raises(
        ValueError, match=r"losses\['loss_1'\]: expected a value >= 0, .* got -0.5. Pass scale=None"
    ):
        told((1.0,), (-0.5,))(x, labels)
    assert told((1.0,), (-0.5,), scale=None)(x, labels).isfinite()
    miner = miners.BatchHardMiner()
    all_mined = WeightedLossEnsemble([TRIPLET()], miners=[miner])
    with pytest.raises(
        ValueError, match="indices_tuple: expected None where every loss has a miner"
    ):
        all_mined(x, labels, miner(x, labels))
    for made_of, came in ((lambda rows: rows, r"shape \(12, 6\)"), (lambda rows: 1.0, "float")):
        message = rf"^losses\['loss_0'\]: expected a loss that returns one number; got {came}"
        with pytest.raises(ValueError, match=message):
            WeightedLossEnsemble([Returning(made_of)], scale=None)(x, labels)
    weighting = LearnedSimplex()
    WeightedLossEnsemble([TRIPLET()], weighting=weighting)
    with pytest.raises(ValueError, match="weighting: expected a strategy of its own for each"):
        WeightedLossEnsemble([TRIPLET()], weighting=weighting)


KINDS = ("shared", "slices", "modules")


def heads_of_kind(kind, names):
    torch.manual_seed(6)
    return {
        "shared": None,
        "slices": [2, 2, 2],
        "modules": {name: nn.Linear(SIZE, 4) for name in names},
    }[kind]


def pulling():
    return {
        "pairs": losses.ContrastiveLoss(),
        "triplets": losses.TripletMarginLoss(),
        "lifted": LiftedStructureLoss(),
    }


def separate_gradients(kind, x, labels):
    """(m, n) gradient of each loss at the embeddings, each from a graph of its own."""
    rows, values = [], []
    heads = heads_of_kind(kind, pulling())
    for j, (name, loss) in enumerate(pulling().items()):
        leaf = x.detach().clone().requires_grad_()
        seen = leaf
        if kind == "slices":
            seen = leaf[:, 2 * j : 2 * j + 2]
        elif kind == "modules":
            seen = heads[name].double()(leaf)
        value = loss(seen, labels)
        rows.append(torch.autograd.grad(value, leaf)[0].flatten())
        values.append(value.item())
    return torch.stack(rows), values


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_based_strategies_see_the_gradient_of_each_loss(kind, requires_grad):
    x, labels = batch_of()
    rows, _ = separate_gradients(kind, x, labels)
    x.requires_grad_(requires_grad)
    heads = heads_of_kind(kind, pulling())
    ensemble = WeightedLossEnsemble(
        pulling(), heads=heads, weighting=MultipleGradientDescent(), scale=None
    ).double()
    ensemble(x, labels).backward()
    expected = minimum_norm_weights(rows @ rows.T)
    assert (expected - 1 / 3).abs().max() > 0.05
    found = torch.tensor(list(ensemble.loss_weights().values())).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    if requires_grad:
        total = (expected[:, None] * rows).sum(dim=0).view_as(x)
        torch.testing.assert_close(x.grad, total, rtol=1e-5, atol=1e-6)
    balance = WeightedLossEnsemble(
        pulling(),
        heads=heads_of_kind(kind, pulling()),
        weighting=GradNorm(restoring_force=0.0),
        scale=None,
        reducer=reducers.DoNothingReducer(),
    ).double()
    extra = balance(x, labels)["gradnorm_loss"]["losses"].item()
    norms = rows.norm(dim=1)
    assert extra == pytest.approx((norms - norms.mean()).abs().sum().item(), rel=1e-9)


def test_views_of_frozen_rows_have_a_gradient_only_where_one_can_be_taken():
    class Seeing(LossWeighting):
        takes_gradients = True

        def forward(self, losses, raw, shared):
            self.seen = [view.requires_grad for view in shared]
            return Weighted(losses)

    x, labels = batch_of()
    ensemble = told((1.0,), (2.0,), weighting=Seeing())
    assert ensemble(x, labels).requires_grad
    assert ensemble.weighting.seen == [True, True]
    with torch.no_grad():
        ensemble(x, labels)
    assert ensemble.weighting.seen == [False, False]
    assert not ensemble.eval()(x, labels).requires_grad
    assert ensemble.weighting.seen == [False, False]


def test_strategies_of_history_see_raw_values_and_others_scaled_ones():
    x, labels = batch_of()
    ensemble = told((8.0, 8.0, 2.0), (1.0, 1.0, 1.0), weighting=DynamicWeightAverage())
    for _ in range(2):
        ensemble(x, labels)
        ensemble.weighting.step_epoch()
    ensemble(x, labels)
    ensemble.weighting.step_epoch()  # raw means 2 and 8 against 1 and 1
    ratio = torch.tensor([0.25, 1.0], dtype=torch.float64) / 2
    expected = 2 * ratio.softmax(dim=0)
    assert list(ensemble.loss_weights().values()) == pytest.approx(expected.tolist())
    scaled = told((8.0,), (1.0,), weighting=HomoscedasticUncertainty(initial=0.0))
    assert scaled(x, labels).item() == pytest.approx(0.5 * 4.5 * 2)


@pytest.mark.parametrize(
    "make",
    [
        LearnedSimplex,
        SquaredWeights,
        HomoscedasticUncertainty,
        NonNegativeUncertainty,
        GradNorm,
        DynamicWeightAverage,
        RandomWeights,
        MultipleGradientDescent,
    ],
)
def test_values_that_are_not_finite_spoil_no_strategy(make):
    x, labels = batch_of()
    x.requires_grad_()
    bad = (math.nan, 1.0, math.inf, 1.0)
    ensemble = told(bad, (2.0,), (3.0,), weighting=make())
    for _ in range(4):
        last = ensemble(x, labels)
        if make is DynamicWeightAverage:
            ensemble.weighting.step_epoch()
    assert last.isfinite()
    assert ensemble.eval()(x, labels).isfinite()
    assert all(math.isfinite(w) for w in ensemble.loss_weights().values())


def test_mgda_trains_on_where_a_miner_finds_nothing():
    x, labels = batch_of()
    x.requires_grad_()
    members = {"a": losses.ContrastiveLoss(), "silent": Given(0.0), "b": LiftedStructureLoss()}
    ensemble = WeightedLossEnsemble(members, weighting=MultipleGradientDescent())
    ensemble(x, labels).backward()
    assert ensemble.loss_weights()["silent"] == 0.0
    assert x.grad.abs().max() > 0


def test_a_state_of_other_names_or_of_another_order_is_refused():
    state = told((1.0,), (2.0,)).state_dict()
    swapped = WeightedLossEnsemble({"loss_1": Given(1.0), "loss_0": Given(2.0)})
    with pytest.raises(
        ValueError, match=r"state_dict: expected that of losses \['loss_1', 'loss_0'"
    ):
        swapped.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_ensemble_keeps_means_in_float32_and_members_in_half(dtype):
    ensemble = WeightedLossEnsemble([losses.ProxyAnchorLoss(3, SIZE), Given(1e5)]).to(dtype)
    x, labels = batch_of(dtype=dtype)
    for _ in range(3):
        assert ensemble(x, labels).isfinite()
    assert ensemble.running_mean.dtype == torch.float32
    assert ensemble.num_batches.dtype == torch.int64
    assert ensemble.losses["loss_0"].proxies.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_move_to_half_rounds_no_mean_and_stays_finite(dtype):
    ensemble = told((2e5,), (0.1,)).float()  # float16 ends at 65504
    x, labels = batch_of()
    ensemble(x, labels)
    means, expected = ensemble.running_mean.clone(), ensemble.eval()(x, labels).item()
    ensemble.to(dtype)
    assert torch.equal(ensemble.running_mean, means)
    assert ensemble(x, labels).item() == pytest.approx(expected, rel=1e-2)  # weights are half now
    ensemble.double()
    assert ensemble.running_mean.dtype == torch.float64
    assert ensemble.to("meta", dtype).running_mean.device.type == "meta"


def test_nested_ensembles():
    inner = WeightedLossEnsemble(pulling())
    outer = WeightedLossEnsemble({"inner": inner, "proxies": losses.ProxyAnchorLoss(3, SIZE)})
    assert outer(*batch_of()).isfinite()
    groups = outer.param_groups(lr=0.1, weighting_lr=0.001)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for ensemble in (inner, outer):
        assert rates[id(next(ensemble.weighting.parameters()))] == 0.001


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_embed_takes_half_rows_and_no_autocast(half):
    ensemble = told((1.0,), (1.0,), heads=heads_of(["loss_0", "loss_1"])).float()
    x, _ = batch_of(dtype=half)
    expected = ensemble.embed(x.float())
    with torch.autocast("cpu", half):
        found = ensemble.embed(x)
    assert torch.equal(found, expected)


def test_a_failed_construction_leaves_the_strategy_free():
    weighting = LearnedSimplex()
    with pytest.raises(ValueError, match="miners: expected 1, one a loss"):
        WeightedLossEnsemble([TRIPLET()], miners=[None, None], weighting=weighting)
    WeightedLossEnsemble([TRIPLET()], weighting=weighting)


@pytest.mark.parametrize(
    ("extra", "returned"),
    [
        ("extra", lambda losses: Weighted(losses)),
        (None, lambda losses: Weighted(losses, losses.sum())),
        (None, lambda losses: Weighted(losses[:1])),
        (None, lambda losses: losses),
    ],
    ids=["no_extra_term", "an_extra_term_without_name", "too_few", "no_weighted"],
)
def test_a_strategy_that_returns_something_else_is_refused(extra, returned):
    class Wrong(LossWeighting):
        extra_name = extra

        def forward(self, losses, raw, shared):
            return returned(losses)

    with pytest.raises(
        ValueError, match=r"weighting: expected Weighted terms \(2,\), and an extra"
    ):
        told((1.0,), (2.0,), weighting=Wrong())(*batch_of())


def test_a_strategy_of_one_s_own():
    class Worst(LossWeighting):
        def forward(self, losses, raw, shared):
            self.raw, self.shared = raw, shared
            self.last = (raw == raw.max()).to(losses)
            return Weighted(self.last * losses)

        def weights(self):
            return self.last

    x, labels = batch_of()
    x.requires_grad_()
    ensemble = told((1.0,), (5.0,), weighting=Worst(), scale=None)
    assert ensemble(x, labels).item() == 5.0
    assert ensemble.weighting.raw.tolist() == [1.0, 5.0]
    assert not ensemble.weighting.raw.requires_grad
    assert ensemble.weighting.shared is x  # views are for strategies that take gradients
    assert ensemble.loss_weights() == {"loss_0": 0.0, "loss_1": 1.0}
