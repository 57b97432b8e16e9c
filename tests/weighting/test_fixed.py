import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import MultipleLosses, MultiSimilarityLoss, TripletMarginLoss

from pml_extras.weighting import FixedWeights
from tests.weighting.problems import assert_close, batches, bound, names_of, numbers, weigh


@given(st.data(), batches(-10.0))
def test_terms_are_the_products_to_the_bit(data, batch):
    num, values = batch
    given_weights = data.draw(numbers(num, 0.0, 100.0).filter(any))
    strategy = bound(FixedWeights(given_weights), num, double=False)
    weighted, losses, _ = weigh(strategy, values, [[1.0, 2.0]] * num)
    assert weighted.terms.tolist() == [w * v for w, v in zip(given_weights, values, strict=True)]
    assert weighted.extra is None
    assert strategy.weights().tolist() == given_weights
    (at_losses,) = torch.autograd.grad(weighted.terms.sum(), losses)
    assert at_losses.tolist() == given_weights


def test_without_weights_it_is_the_mean():
    strategy = bound(FixedWeights(), 3)
    weighted, losses, _ = weigh(strategy)
    assert_close(weighted.terms.sum(), losses.mean().item())


def test_weights_by_name_come_in_any_order():
    strategy = FixedWeights({"b": 2.0, "a": 0.5})
    strategy.bind(["a", "b"])
    assert strategy.weights().tolist() == [0.5, 2.0]


def test_equals_multiple_losses_in_float64():
    torch.manual_seed(3)
    x = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(12) % 4
    members, weights = [MultiSimilarityLoss(), TripletMarginLoss()], [0.1, 0.7]
    theirs = MultipleLosses(members, weights=weights)(x, labels)
    losses = torch.stack([member(x, labels) for member in members])
    strategy = FixedWeights(weights)
    strategy.bind(names_of(2))
    ours = strategy(losses, losses.detach(), x).terms.sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=0)
    (at_ours,), (at_theirs,) = (torch.autograd.grad(v, x) for v in (ours, theirs))
    torch.testing.assert_close(at_ours, at_theirs, rtol=1e-13, atol=1e-16)


def test_casting_the_module_does_not_round_the_weights():
    strategy = bound(FixedWeights([0.1, 0.2]), 2, double=False).half()
    assert strategy.weights().tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.0, 0.0], "weights: expected one above 0; got 0 for every loss"),
        ([1.0, -1.0], r"weights: expected a finite number >= 0; got -1\.0"),
        ([1.0, float("inf")], "weights: expected a finite number >= 0; got inf"),
        ([1.0], "weights: expected 2 entries, one a loss; got 1"),
        ({"loss_0": 1.0, "other": 1.0}, r"weights: expected the names \['loss_0', 'loss_1'\]; got"),
        (3.0, r"weights: expected a sequence or a mapping by name, one entry a loss; got 3\.0"),
    ],
)
def test_refuses_weights_that_do_not_fit(weights, message):
    with pytest.raises(ValueError, match=message):
        FixedWeights(weights).bind(names_of(2))
