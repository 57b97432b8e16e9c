import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_extras.weighting import DynamicWeightAverage
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import assert_close, bound, floats, names_of, numbers, weigh


def epoch(strategy, batches):
    rows = [[1.0, 2.0]] * len(batches[0])
    used = [weigh(strategy, values, rows) for values in batches]
    strategy.step_epoch()
    return [weighted.terms / losses for weighted, losses, _ in used]


@settings(max_examples=40)
@given(st.data(), st.integers(1, 5), floats(0.1, 10.0))
def test_weights_follow_the_equation_over_epochs_of_different_lengths(data, num, temperature):
    strategy = bound(DynamicWeightAverage(temperature), num)
    means = []
    for t in range(4):
        lengths = data.draw(st.integers(1, 4))
        batches = [data.draw(numbers(num, 0.1, 10.0)) for _ in range(lengths)]
        expected = [1.0] * num
        if t >= 2:
            expected = oracle.dynamic_average(means[-1], means[-2], temperature)
        assert_close(strategy.weights(), expected)
        for used in epoch(strategy, batches):
            assert_close(used, expected)
        means.append([sum(column) / len(batches) for column in zip(*batches, strict=True)])


def test_default_temperature_is_that_of_the_paper():
    strategy = bound(DynamicWeightAverage(), 2)
    epoch(strategy, [[1.0, 1.0]])
    epoch(strategy, [[0.5, 0.9]])
    assert_close(strategy.previous_mean, [0.5, 0.9])
    assert_close(strategy.epoch_mean, [0.0, 0.0])
    assert_close(strategy.weights(), oracle.dynamic_average([0.5, 0.9], [1.0, 1.0], 2.0))
    assert strategy.weights()[1] > 1 > strategy.weights()[0]  # the slower one weighs more


def test_a_mean_of_zero_is_no_divisor():
    strategy = bound(DynamicWeightAverage(), 2)
    epoch(strategy, [[0.0, 2.0]])
    epoch(strategy, [[3.0, 1.0]])
    assert_close(strategy.weights(), oracle.dynamic_average([1.0, 0.5], [1.0, 1.0], 2.0))


def test_a_rise_from_almost_nothing_stays_finite():
    strategy = bound(DynamicWeightAverage(), 2, double=False)
    epoch(strategy, [[1e-38, 2.0]])
    epoch(strategy, [[1e5, 1.0]])
    torch.testing.assert_close(strategy.weights(), torch.tensor([2.0, 0.0]))


def test_evaluation_and_scaled_values_do_not_count():
    strategy = bound(DynamicWeightAverage(), 2)
    losses = torch.tensor([7.0, 8.0], dtype=torch.float64)
    strategy(losses, torch.tensor([1.0, 3.0], dtype=torch.float64), None)
    strategy.eval()
    strategy(losses, losses, None)
    assert_close(strategy.epoch_mean, [1.0, 3.0])
    assert (strategy.num_batches == 1).all()


def test_the_graph_survives_the_end_of_an_epoch():
    strategy = bound(DynamicWeightAverage(), 3)
    weighted, _, x = weigh(strategy)
    strategy.step_epoch()
    weighted.terms.sum().backward()
    assert x.grad.abs().sum() > 0


def test_an_epoch_without_batches_is_refused():
    message = "step_epoch: expected a batch in training mode since the last call; got none"
    with pytest.raises(ValueError, match=message):
        DynamicWeightAverage().step_epoch()
    strategy = bound(DynamicWeightAverage(), 3)
    with pytest.raises(ValueError, match=message):
        strategy.step_epoch()
    weigh(strategy)
    strategy.step_epoch()
    with pytest.raises(ValueError, match=message):
        strategy.step_epoch()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_refuses_a_temperature_out_of_range(temperature):
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0; got"):
        DynamicWeightAverage(temperature).bind(names_of(2))
