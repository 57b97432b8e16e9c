"""From global average pooling to transport: what is stored, what is picked, what is saved."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

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
        assert torch.equal(module.prototypes, first)
    assert not module.started  # before the next forward of training
    module(batches[3])
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
    assert int(module.num_collected) == 0
    assert torch.equal(module.startup_rows, torch.zeros(20, 4).double())
    module(x)
    assert int(module.num_collected) == 5
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
    assert int(twin.num_collected) == int(module.num_collected)
    assert twin.started == module.started
    assert torch.equal(twin(x), module(x))


def test_an_average_of_weights_starts_with_the_layer():
    """Buffers alone tell it, as they tell whatever else copies a state dict of tensors."""
    module, x = layer(startup_size=8), maps()
    averaged = AveragedModel(module, use_buffers=True)
    for _ in range(3):
        module(x)
        averaged.update_parameters(module)
    assert averaged.module.started
    assert (averaged.eval()(x) - averaged.module.projection(x.mean(dim=(2, 3)))).abs().max() > 1e-3
    assert all(torch.is_tensor(value) for value in module.state_dict().values())


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_forwards_that_are_computed_again_store_and_start_nothing(use_reentrant):
    module, twin = layer(startup_size=8), layer(startup_size=8)
    twin.load_state_dict(module.state_dict())
    for _ in range(4):
        x = maps(4).requires_grad_()
        y = x.detach().clone().requires_grad_()
        checkpoint(module, x, use_reentrant=use_reentrant).square().sum().backward()
        twin(y).square().sum().backward()
        assert torch.equal(x.grad, y.grad)
        assert int(module.num_collected) == int(twin.num_collected)
        assert module.started == twin.started
    assert module.started


def test_rows_that_are_not_finite_are_not_stored():
    module = layer(startup_size=8)
    x = maps(8)
    x[3, 0, 0, 0], x[5, 0, 0, 0] = torch.inf, torch.nan
    module(x)
    assert int(module.num_collected) == 6
    module(maps(4)), module(maps(4))
    assert module.started
    assert module.prototypes.isfinite().all()


def test_a_layer_that_has_started_loads_whatever_its_start_up_was():
    module, x = layer(startup_size=8), maps(8)
    module(x), module(x)
    for size in (0, 20):
        fresh = layer(startup_size=size)
        fresh.load_state_dict(module.state_dict())
        assert fresh.started
        assert torch.equal(fresh(x), module(x))
        assert len(fresh.startup_rows) == size
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer(startup_size=20).load_state_dict(layer(startup_size=8).state_dict())


def test_replicas_whose_rows_would_be_lost_are_refused():
    module = layer(startup_size=8)
    replica = module._replicate_for_data_parallel()
    replica.prototypes = module.prototypes
    with pytest.raises(ValueError, match=r"^startup_size: expected start_from\(\.\.\.\) to be"):
        replica(maps())


@pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7),
    reason="torch before 2.7 has no graph of the question whether there is autocast",
)
def test_compiled_once_before_and_once_after_the_start():
    """Not once for each count of rows, which would end compilation."""
    module, graphs = layer(startup_size=64).float(), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = torch.compile(torch.nn.Sequential(torch.nn.ReLU(), module), backend=count)
    seen = []
    for _ in range(20):
        with torch.no_grad():
            model(torch.randn(4, 8, 2, 3))
        seen.append(len(graphs))
    assert module.started
    assert seen[2] == seen[15]
    assert seen[18] == seen[19]
