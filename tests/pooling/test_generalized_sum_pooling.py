import copy
import itertools

import pytest
import torch
from torch import nn

from pml_extras.functional import (
    sum_pooling_plan,
    sum_pooling_weights,
    unit_ball_cost,
)
from pml_extras.pooling import GeneralizedSumPooling


def layer(**others):
    """8 channels to 4 with 3 prototypes, in float64, started unless it is told otherwise."""
    arguments = {"num_prototypes": 3, "startup_size": 0, **others}
    size = arguments.pop("embedding_size", 4)
    return GeneralizedSumPooling(8, size, **arguments).double()


def maps(num=5, height=2, width=3):
    return torch.randn(num, 8, height, width, dtype=torch.float64)


def tokens_of(x):
    return x.flatten(2).transpose(1, 2)


def transported(module, x):
    """(features, p, z), put together from the formulas."""
    features = tokens_of(x) @ module.projection.weight.T
    cost = unit_ball_cost(features, module.prototypes)
    p, z = sum_pooling_weights(cost, mass=module.mass, sharpness=module.sharpness)
    return features, p, z


def test_pooled_is_the_weighted_sum_of_projected_features():
    module, x = layer(), maps()
    features, p, z = transported(module, x)
    pooled, attributes = module(x, return_attributes=True)
    torch.testing.assert_close(pooled, (p[:, :, None] * features).sum(dim=1))
    torch.testing.assert_close(attributes, z)
    torch.testing.assert_close(module(x), pooled)
    torch.testing.assert_close(module.weights(x), p.reshape(5, 2, 3))
    torch.testing.assert_close(module.attributes(x), z)
    assert (p.max() - p.min()) > 1e-3


def test_plan_has_the_maps_of_all_prototypes():
    module, x = layer(), maps()
    plan = module.plan(x)
    features = tokens_of(x) @ module.projection.weight.T
    cost = unit_ball_cost(features, module.prototypes)
    expected = 6 * sum_pooling_plan(cost, mass=0.3, sharpness=5.0)
    torch.testing.assert_close(plan, expected.reshape(5, 3, 2, 3))
    torch.testing.assert_close(plan.sum(dim=1), 6 * 0.3 * module.weights(x))


def test_tokens_and_maps_are_pooled_alike():
    module, x = layer(), maps()
    tokens = tokens_of(x)
    torch.testing.assert_close(module(tokens), module(x))
    torch.testing.assert_close(module.weights(tokens), module.weights(x).flatten(1))
    torch.testing.assert_close(module.plan(tokens), module.plan(x).flatten(2))


def test_the_order_of_locations_means_nothing():
    module, x = layer(), maps()
    for moved, weights in (
        (x.flip(2), module.weights(x).flip(1)),
        (x.transpose(2, 3), module.weights(x).transpose(1, 2)),
    ):
        torch.testing.assert_close(module(moved), module(x))
        torch.testing.assert_close(module.weights(moved), weights)


def test_without_projection_the_features_themselves_are_pooled():
    module, x = layer(project=False, embedding_size=None), maps()
    assert module.prototypes.shape == (3, 8)
    p = module.weights(x).flatten(1)
    torch.testing.assert_close(module(x), (p[:, None] * x.flatten(2)).sum(dim=2))
    assert layer(project=False, embedding_size=8)(x).shape == (5, 8)


@pytest.mark.parametrize("project", [True, False])
def test_all_mass_is_global_average_pooling(project):
    module, x = layer(mass=1, project=project, embedding_size=4 if project else None), maps()
    mean = x.mean(dim=(2, 3))
    torch.testing.assert_close(module(x), module.projection(mean))
    module(x).sum().backward()
    assert torch.equal(module.prototypes.grad, torch.zeros_like(module.prototypes))


@pytest.mark.parametrize("startup_size", [0, 100])
def test_the_branch_adds_the_projected_maximum(startup_size):
    module, x = layer(max_pool_branch=True, startup_size=startup_size), maps()
    plain = layer(startup_size=startup_size)
    plain.load_state_dict(module.state_dict())
    expected = plain(x) + x.amax(dim=(2, 3)) @ module.projection.weight.T
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("startup_size", [0, 100])
@pytest.mark.parametrize("max_pool_branch", [True, False])
def test_gem_is_of_weighted_backbone_features(startup_size, max_pool_branch):
    module = layer(gem=True, max_pool_branch=max_pool_branch, startup_size=startup_size)
    assert module.exponent.item() == 3
    with torch.no_grad():
        module.exponent.fill_(2.5)
    x = maps().requires_grad_()
    weighted = (6 * module.weights(x)[:, None] * x).flatten(2).clamp(min=1e-6)
    mean = weighted.pow(2.5).mean(dim=2).pow(1 / 2.5)
    if max_pool_branch:
        mean = mean + x.amax(dim=(2, 3))
    torch.testing.assert_close(module(x), mean @ module.projection.weight.T)
    module(x).sum().backward()
    assert module.exponent.grad.abs() > 1e-6


def test_learned_mass_and_sharpness_start_at_what_was_given_and_learn():
    module, x = layer(mass=0.2, sharpness=7.0, learn_mass=True, learn_sharpness=True), maps()
    assert module.mass.item() == pytest.approx(0.2, rel=1e-6)
    assert module.sharpness.item() == pytest.approx(7.0, rel=1e-6)
    fixed = layer(mass=module.mass.item(), sharpness=module.sharpness.item())
    fixed.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(module(x), fixed(x), rtol=0, atol=1e-12)
    module(x).square().sum().backward()
    assert module.mass_logit.grad.abs() > 1e-9
    assert module.log_sharpness.grad.abs() > 1e-9
    assert (fixed.mass, fixed.sharpness) == (module.mass.item(), module.sharpness.item())
    assert layer(mass=1).mass == 1


def test_attributes_are_concatenated_in_training_mode_alone():
    module, x = layer(concatenate_attributes=True), maps()
    pooled, z = module(x, return_attributes=True)
    assert torch.equal(module(x), torch.cat([pooled, z], dim=1))
    assert torch.equal(module.eval()(x), pooled)


def test_every_parameter_has_a_gradient():
    for gem, branch in itertools.product((False, True), repeat=2):
        module = layer(
            gem=gem, max_pool_branch=branch, learn_mass=True, learn_sharpness=True, startup_size=0
        )
        pooled, z = module(maps(), return_attributes=True)
        (pooled.square().sum() + z.square().sum()).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("startup_size", [0, 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_and_parameters_are_computed_in_float32(startup_size, dtype):
    module = layer(startup_size=startup_size, learn_mass=True, gem=True).to(dtype)
    x = maps().to(dtype)
    pooled, z = module(x, return_attributes=True)
    expected, expected_z = copy.deepcopy(module).float()(x.float(), return_attributes=True)
    assert pooled.dtype == z.dtype == torch.float32
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(z, expected_z)
    assert {v.dtype for v in module.parameters()} == {dtype}
    pooled.sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in module.parameters())


@pytest.mark.parametrize("startup_size", [0, 100])
def test_autocast_rounds_nothing(startup_size):
    module, x = layer(startup_size=startup_size, learn_sharpness=True).float(), maps().float()

    def results():
        return *module(x, return_attributes=True), module.weights(x), module.plan(x)

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = results()
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    parameters = list(module.parameters())
    grads = [torch.autograd.grad(r[0].square().sum(), parameters) for r in (actual, expected)]
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("startup_size", [0, 100])
def test_the_wider_of_features_and_parameters_decides(startup_size):
    module, x = layer(startup_size=startup_size), maps().float()
    assert torch.equal(module(x), module(x.double()))
    assert module(x).dtype == module.float()(x.double()).dtype == torch.float64


def test_forward_draws_nothing_and_leaves_its_input():
    module, x = layer(startup_size=8), maps()
    before, state = x.clone(), torch.get_rng_state()
    for _ in range(3):
        module(x)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_printed_says_what_the_state_dict_does_not_hold():
    shown = repr(layer(mass=0.2, sharpness=7.0, learn_sharpness=True, startup_size=6))
    assert "num_prototypes=3, mass=0.2, sharpness=7," in shown
    assert "started=False" in shown


def test_initial_weights_are_glorot_uniform():
    module = GeneralizedSumPooling(300, 100, num_prototypes=200)
    for matrix, bound in (
        (module.projection.weight, (6 / 400) ** 0.5),
        (module.prototypes, (6 / 300) ** 0.5),
    ):
        assert 0.99 * bound < matrix.abs().max() <= bound
    assert module.projection.bias is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "^in_channels: expected an integer >= 1"),
        ({"embedding_size": 0}, "^embedding_size: expected an integer >= 1"),
        ({"embedding_size": None}, "^embedding_size: expected an integer >= 1; got None"),
        ({"project": False}, "^embedding_size: expected None or in_channels = 8 without"),
        ({"num_prototypes": 0}, "^num_prototypes: expected an integer >= 1"),
        ({"mass": 0.0}, "^mass: expected a finite number > 0"),
        ({"mass": 1.5}, r"^mass: expected a fraction in \(0, 1\]"),
        ({"mass": 1, "learn_mass": True}, "^mass: expected a fraction below 1 where it is learned"),
        ({"sharpness": 0.0}, "^sharpness: expected a finite number > 0"),
        ({"mass": torch.tensor(0.3)}, "^mass: expected a finite number > 0; got tensor"),
        ({"startup_size": 5, "num_prototypes": 3}, "^startup_size: expected 0, or at least .* = 6"),
        ({"startup_size": -1}, "^startup_size: expected an integer >= 0"),
        ({"project": 1}, "^project: expected True or False"),
        ({"max_pool_branch": None}, "^max_pool_branch: expected True or False"),
        ({"gem": 3.0}, "^gem: expected True or False"),
        ({"learn_mass": 1}, "^learn_mass: expected True or False"),
        ({"learn_sharpness": 1}, "^learn_sharpness: expected True or False"),
        ({"concatenate_attributes": 1}, "^concatenate_attributes: expected True or False"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedSumPooling(**{"in_channels": 8, "embedding_size": 4, **arguments})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 8), r"^x: expected a floating tensor \(B, C, H, W\) or \(B, N, C\); got"),
        (torch.zeros(2, 8, 2, 2).long(), "^x: expected a floating tensor"),
        (nn.Identity(), "^x: expected a floating tensor"),
        (torch.zeros(2, 3, 8, 8), "^x: expected in_channels = 8 channels; got 3"),
        (torch.zeros(2, 8, 3), "^x: expected in_channels = 8 channels; got 3"),
        (torch.zeros(2, 8, 0, 3), "^x: expected at least one location"),
        (torch.zeros(2, 0, 8), "^x: expected at least one location"),
    ],
)
def test_features_of_another_shape_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        layer()(x)


@pytest.mark.parametrize("name", ["mass_logit", "log_sharpness"])
@pytest.mark.parametrize("value", [-1000.0, 1000.0])
def test_what_is_learned_stays_where_the_weights_are_defined(name, value):
    module = layer(learn_mass=True, learn_sharpness=True).float()
    with torch.no_grad():
        getattr(module, name).fill_(value)
    pooled, z = module(maps().float(), return_attributes=True)
    (pooled.sum() + z.sum()).backward()
    assert pooled.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_gem_of_features_whose_power_overflows():
    module, x = layer(gem=True, startup_size=0).float(), maps().float().abs()
    torch.testing.assert_close(module(1e18 * x) / 1e18, gem_of(module, x, 1e18), rtol=1e-4, atol=0)


def gem_of(module, x, scale):
    """In float64 at the weights of the scaled features."""
    p = module.weights(scale * x).double()
    weighted = (x[0, 0].numel() * p[:, None] * x.double()).clamp(min=1e-6 / scale)
    pooled = weighted.pow(3).mean(dim=(2, 3)).pow(1 / 3)
    return (pooled @ module.projection.weight.double().T).float()
