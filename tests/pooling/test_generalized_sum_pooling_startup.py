"""From global average pooling to transport: what is stored, what is picked, what is saved."""

import copy
import io
import pickle

import pytest
import torch

from pml_extras.functional import farthest_first, unit_ball
from pml_extras.pooling import GeneralizedSumPooling


def layer(startup_size, **others):
    """8 channels to 4 with 3 prototypes, in float64."""
    return GeneralizedSumPooling(
        8, 4, num_prototypes=3, startup_size=startup_size, **others
    ).double()


def maps(num=5):
    return torch.randn(num, 8, 2, 3, dtype=torch.float64)


def collected(module, batches):
    """What is stored: means of projected features, in the unit ball."""
    rows = [x.mean(dim=(2, 3)) @ module.projection.weight.T for x in batches]
    return unit_ball(torch.cat(rows)).detach()


def test_it_averages_until_enough_rows_are_there_and_then_transports():
    module = layer(startup_size=7)
    parameter, first = module.prototypes, module.prototypes.detach().clone()
    batches = [5 * maps(num=3) for _ in range(4)]  # some means are outside the unit ball
    for x in batches[:3]:
        assert not module.started
        pooled, z = module(x, return_attributes=True)
        torch.testing.assert_close(pooled, x.mean(dim=(2, 3)) @ module.projection.weight.T)
        assert torch.equal(z, torch.zeros_like(z))
        if x is not batches[2]:
            assert torch.equal(module.prototypes, first)
    assert module.started
    rows = collected(module, batches[:3])[:7]
    torch.testing.assert_close(module.startup_rows, rows, rtol=0, atol=1e-12)
    expected = rows[3:][farthest_first(rows[3:], 3, cover=rows[:3])]
    torch.testing.assert_close(module.prototypes.detach(), expected, rtol=0, atol=1e-12)
    assert module.prototypes is parameter
    p, features = module.weights(batches[3]), batches[3].flatten(2).transpose(1, 2)
    expected = (p.flatten(1)[:, :, None] * features).sum(dim=1) @ module.projection.weight.T
    torch.testing.assert_close(module(batches[3]), expected)
    assert (p.max() - p.min()) > 1e-3


def test_waiting_for_the_start_gives_zero_gradients_and_no_more():
    module = layer(startup_size=50, learn_mass=True, learn_sharpness=True)
    pooled, z = module(maps(), return_attributes=True)
    (pooled.sum() + z.sum()).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad.abs().max() > 0) == (name == "projection.weight"), name


def test_only_training_forwards_store():
    module, x = layer(startup_size=20), maps()
    module.eval()(x)
    module.train()
    assert torch.equal(module.weights(x), torch.full((5, 2, 3), 1 / 6, dtype=x.dtype))
    assert torch.equal(module.attributes(x), torch.zeros(5, 3).double())
    assert torch.equal(module.plan(x), torch.zeros(5, 3, 2, 3).double())
    assert module.get_extra_state() == {"filled": 0, "started": 0}
    assert torch.equal(module.startup_rows, torch.zeros(20, 4).double())
    module(x)
    assert module.get_extra_state() == {"filled": 5, "started": 0}
    assert not module.eval().started


def test_start_up_goes_on_in_the_middle_bit_for_bit():
    batches = [maps() for _ in range(5)]
    whole, part = layer(startup_size=18), layer(startup_size=18)
    part.load_state_dict(whole.state_dict())
    for x in batches[:2]:
        whole(x), part(x)
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = layer(startup_size=18)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for x in batches[2:]:
        assert torch.equal(whole(x), resumed(x))
    assert whole.started
    assert resumed.started
    assert torch.equal(whole.prototypes, resumed.prototypes)
    again = layer(startup_size=18)
    again.load_state_dict(resumed.state_dict())
    assert torch.equal(again(batches[0]), whole(batches[0]))


def test_explicit_start_takes_pooled_rows():
    module, embeddings = layer(startup_size=100), 3 * torch.randn(9, 4, dtype=torch.float64)
    parameter = module.prototypes
    module.start_from(embeddings)
    assert module.started
    assert module.prototypes is parameter
    rows = unit_ball(embeddings)
    assert torch.equal(module.prototypes, rows[3:][farthest_first(rows[3:], 3, cover=rows[:3])])
    before = module.startup_rows.clone()
    module(maps())
    assert torch.equal(module.startup_rows, before)
    for bad in (embeddings[:5], torch.randn(9, 5), torch.randn(4)):
        with pytest.raises(ValueError, match=r"^embeddings: expected"):
            module.start_from(bad)


@pytest.mark.parametrize("startup_size", [0, 100])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_give_the_same(startup_size, clone):
    module, x = layer(startup_size=startup_size, learn_mass=True), maps()
    module(x)
    twin = clone(module)
    assert twin.get_extra_state() == module.get_extra_state()
    assert torch.equal(twin(x), module(x))
