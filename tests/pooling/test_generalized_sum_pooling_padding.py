"""Tokens that only pad are as good as not there, in every method, before and after the start."""

import itertools

import pytest
import torch

from pml_extras.pooling import GeneralizedSumPooling

LENGTHS = (4, 1, 6)
VALID = torch.arange(6) < torch.tensor(LENGTHS)[:, None]  # (3, 6)


def layer(**others):
    """8 channels to 4 with 3 prototypes, in float64, started unless it is told otherwise."""
    return GeneralizedSumPooling(
        8, 4, **{"num_prototypes": 3, "startup_size": 0, **others}
    ).double()


def tokens():
    return torch.randn(3, 6, 8, dtype=torch.float64)


@pytest.mark.parametrize("startup_size", [0, 100])
@pytest.mark.parametrize(("gem", "branch"), [*itertools.product((False, True), repeat=2)])
def test_each_text_is_pooled_as_it_would_be_alone(startup_size, gem, branch):
    module = layer(startup_size=startup_size, gem=gem, max_pool_branch=branch).eval()
    x = tokens()
    pooled, z = module(x, return_attributes=True, valid=VALID)
    weights, plan = module.weights(x, valid=VALID), module.plan(x, valid=VALID)
    assert torch.equal(module.attributes(x, valid=VALID), z)
    for b, length in enumerate(LENGTHS):
        alone = x[b : b + 1, :length]
        pooled_alone, z_alone = module(alone, return_attributes=True)
        torch.testing.assert_close(pooled[b : b + 1], pooled_alone)
        torch.testing.assert_close(z[b : b + 1], z_alone)
        torch.testing.assert_close(weights[b : b + 1, :length], module.weights(alone))
        torch.testing.assert_close(plan[b : b + 1, :, :length], module.plan(alone))
        assert not weights[b, length:].any()
        assert not plan[b, :, length:].any()


@pytest.mark.parametrize("startup_size", [0, 100])
def test_padding_has_no_gradient(startup_size):
    module = layer(startup_size=startup_size, gem=True, max_pool_branch=True)
    x = tokens().requires_grad_()
    pooled, z = module(x, return_attributes=True, valid=VALID)
    (pooled.square().sum() + z.square().sum()).backward()
    assert x.grad is not None
    assert not x.grad[~VALID].any()
    assert x.grad[VALID].any(dim=1).all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_the_start_collects_means_of_the_tokens_that_are_there():
    module = layer(startup_size=6).train()
    x = tokens() / 10  # inside the unit ball
    module(x, valid=VALID)
    expected = torch.stack(
        [row[:length].mean(dim=0) for row, length in zip(x, LENGTHS, strict=True)]
    )
    torch.testing.assert_close(module.startup_rows[:3], expected @ module.projection.weight.T)


@pytest.mark.parametrize(
    ("valid", "shape", "message"),
    [
        (VALID.long(), (3, 6, 8), r"^valid: expected bool \(3, 6\), True where a location is one"),
        (VALID[:, :5], (3, 6, 8), r"^valid: expected bool \(3, 6\)"),
        (VALID, (3, 8, 2, 3), "^valid: expected None for maps, which have no padding"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "weights", "attributes", "plan"])
def test_what_is_no_mask_of_the_tokens_is_refused(valid, shape, message, method):
    with pytest.raises(ValueError, match=message):
        getattr(layer(), method)(torch.zeros(shape), valid=valid)
