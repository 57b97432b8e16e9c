import pytest
import torch

from pml_extras.weighting import RandomWeights
from tests.oracles import loss_weighting as oracle
from tests.weighting.problems import assert_close, bound, weigh


def draws(strategy, num):
    out = []
    for _ in range(num):
        weighted, losses, _ = weigh(strategy)
        out.append((weighted.terms / losses).detach())
        assert_close(strategy.weights(), out[-1])
    return torch.stack(out)


def test_weights_are_the_softmax_of_normal_draws_of_its_own_generator():
    strategy = bound(RandomWeights(seed=5))
    generator = torch.Generator().manual_seed(5)
    for weights in draws(strategy, 4):
        a = torch.randn(3, generator=generator, dtype=torch.float64)
        assert_close(weights, oracle.softmax(a.tolist()))


def test_every_draw_is_on_the_simplex_and_their_mean_is_uniform():
    num = 3000
    weights = draws(bound(RandomWeights()), num)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(num, dtype=torch.float64))
    error = (weights.mean(dim=0) - 1 / 3).abs() / (weights.std(dim=0) / num**0.5)
    assert (error < 4).all()
    assert (weights.std(dim=0) > 0.1).all()


def test_seeds_decide_the_draws():
    first, again, other = (draws(bound(RandomWeights(seed)), 3) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


def test_evaluation_is_uniform_and_draws_nothing():
    broken, whole = bound(RandomWeights()), bound(RandomWeights())
    draws(broken, 1)
    broken.eval()
    weighted, losses, _ = weigh(broken)
    assert_close(weighted.terms, (losses / 3).tolist())
    assert_close(broken.weights(), [1 / 3] * 3)
    broken.train()
    torch.testing.assert_close(draws(broken, 2), draws(whole, 3)[1:], rtol=0, atol=0)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_refuses_a_seed_that_is_no_count(seed):
    with pytest.raises(ValueError, match="seed: expected an integer >= 0; got"):
        RandomWeights(seed)
