"""What every strategy keeps."""

import copy
import io
import pickle
import re

import pytest
import torch

from pml_extras import weighting
from pml_extras.weighting import (
    DynamicWeightAverage,
    GradNorm,
    LearnedSimplex,
    MultipleGradientDescent,
    RandomWeights,
)
from pml_extras.weighting.base import gradients
from tests.weighting.problems import (
    ROWS,
    STRATEGIES,
    VALUES,
    assert_close,
    bound,
    losses_of,
    names_of,
    objective,
    weigh,
)

every = pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.__name__)
by_gradient = pytest.mark.parametrize("cls", [GradNorm, MultipleGradientDescent])
SUMS = {"GradNorm": 3, "DynamicWeightAverage": 3}  # of the strategies that have one, else 1
WITHOUT_SUM = ("HomoscedasticUncertainty", "NonNegativeUncertainty")


class Run:
    """Training of a strategy and a small linear network on three losses that differ in rate."""

    def __init__(self, cls, *, double=True):
        self.strategy = bound(cls(), double=double)
        self.dtype = torch.float64 if double else torch.float32
        self.x = torch.linspace(-1, 2, 8).reshape(2, 4).to(self.dtype).requires_grad_()
        self.optimizer = torch.optim.Adam([self.x, *self.strategy.parameters()], lr=0.05)
        self.generator = torch.Generator().manual_seed(2)

    def step(self):
        noise = torch.rand(3, generator=self.generator).to(self.dtype)
        losses = torch.stack(
            [self.x.square().mean(), (self.x - 1).abs().mean(), (self.x.sum() - 2).square()]
        )
        losses = losses * (0.5 + noise)
        self.optimizer.zero_grad()
        objective(self.strategy(losses, losses.detach(), self.x)).backward()
        self.optimizer.step()
        return self.strategy.weights(), losses.detach()

    def train(self, epochs):
        out = []
        for _ in range(epochs):
            out += [value for _ in range(3) for value in self.step()]
            if isinstance(self.strategy, DynamicWeightAverage):
                self.strategy.step_epoch()
        return torch.stack(out)

    def state(self):
        file = io.BytesIO()
        parts = (self.strategy.state_dict(), self.x, self.optimizer.state_dict())
        torch.save((*parts, self.generator.get_state()), file)
        return file.getvalue()

    def load(self, state):
        strategy, x, optimizer, generator = torch.load(io.BytesIO(state))
        self.strategy.load_state_dict(strategy)
        self.x.data.copy_(x)
        self.optimizer.load_state_dict(optimizer)
        self.generator.set_state(generator)


def test_all_strategies_are_public_and_found():
    assert {cls.__name__ for cls in STRATEGIES} == {*weighting.__all__} - {
        "LossWeighting",
        "Weighted",
    }
    assert len(STRATEGIES) == 9


@every
@pytest.mark.parametrize("double", [False, True])
def test_a_resumed_run_continues_bit_for_bit(cls, double):
    whole, broken, resumed = (Run(cls, double=double) for _ in range(3))
    expected = whole.train(6)
    first = broken.train(3)
    resumed.load(broken.state())
    torch.testing.assert_close(first, expected[: len(first)], rtol=0, atol=0)
    torch.testing.assert_close(resumed.train(3), expected[len(first) :], rtol=0, atol=0)


@every
def test_copies_go_their_own_way_and_start_alike(cls):
    run = Run(cls)
    run.train(3)
    copies = [copy.deepcopy(run.strategy), pickle.loads(pickle.dumps(run.strategy))]
    values = [0.3, 1.9, 2.2]
    expected, _, _ = weigh(run.strategy, values)
    for strategy in copies:
        assert strategy.names == run.strategy.names
        weighted, _, _ = weigh(strategy, values)
        torch.testing.assert_close(weighted.terms, expected.terms, rtol=0, atol=0)
        for ours, theirs in zip(strategy.parameters(), run.strategy.parameters(), strict=True):
            assert ours.data_ptr() != theirs.data_ptr()


@every
def test_an_unbound_strategy_copies_and_then_binds(cls):
    strategy = copy.deepcopy(cls())
    bound(strategy, 2)
    assert strategy.weights().shape == (2,)
    assert strategy.names == tuple(names_of(2))


@every
def test_one_strategy_weighs_one_ensemble(cls):
    strategy = bound(cls())
    message = "weighting: expected a strategy of its own for each ensemble; got one that weighs"
    with pytest.raises(ValueError, match=message):
        strategy.bind(names_of(3))


def test_a_refused_bind_leaves_the_strategy_free():
    strategy = LearnedSimplex(prior=[1, 2])
    with pytest.raises(ValueError, match="prior: expected 3 entries"):
        strategy.bind(names_of(3))
    strategy.bind(names_of(2))
    torch.testing.assert_close(strategy.weights(), torch.tensor([1 / 3, 2 / 3]))


@every
def test_refuses_losses_that_it_is_not_bound_to(cls):
    losses, x, _ = losses_of()
    message = re.escape("losses: expected shape (0,), one entry for each of []; got shape (3,).")
    with pytest.raises(ValueError, match=message + r" Call bind\(names\) first\."):
        cls()(losses, losses.detach(), x)


@every
def test_weights_multiply_the_losses_and_have_no_graph(cls):
    strategy = bound(cls())
    weighted, losses, _ = weigh(strategy)
    weights = strategy.weights()
    assert_close(weighted.terms, weights * losses.detach())
    assert weights.shape == (3,)
    assert not weights.requires_grad
    (at_losses,) = torch.autograd.grad(weighted.terms.sum(), losses)
    assert_close(at_losses, weights)
    assert (weighted.extra is None) == (strategy.extra_name is None)
    before = strategy.weights()
    strategy.weights().fill_(7.0)  # a copy, not the state
    assert_close(strategy.weights(), before)


@every
def test_the_sum_of_the_weights_holds_while_it_trains(cls):
    if cls.__name__ in WITHOUT_SUM:
        pytest.skip("weights are inverse variances")
    run = Run(cls)
    tolerance = 0.5 if cls.__name__ == "SquaredWeights" else 1e-12  # a penalty, not a constraint
    for weights in run.train(4)[::2]:
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(SUMS.get(cls.__name__, 1), abs=tolerance)


@every
@pytest.mark.parametrize("views", [False, True])
def test_no_gradient_is_left_anywhere_and_the_graph_is_whole(cls, views):
    strategy = bound(cls())
    losses, x, shared = losses_of(views=views)
    inner = x.sum() * 0 + losses
    weighted = strategy(inner, losses.detach(), shared)
    assert x.grad is None
    assert all(p.grad is None for p in strategy.parameters())
    objective(weighted).backward()
    expected = strategy.weights() @ torch.tensor(ROWS, dtype=torch.float64)
    assert_close(x.grad.flatten(), expected)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in strategy.parameters())
    assert all(buffer.grad_fn is None for buffer in strategy.buffers())


@every
def test_state_is_float32_and_half_losses_are_computed_in_it(cls):
    strategy = bound(cls(), double=False)
    state = {k: v.clone() for k, v in strategy.state_dict().items() if torch.is_tensor(v)}
    for dtype, expected in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ]:
        weighted, _, x = weigh(strategy, dtype=dtype)
        assert weighted.terms.dtype == expected
        objective(weighted).backward()
        assert x.grad.dtype == dtype
    for held in (*strategy.parameters(), *strategy.buffers()):
        assert not held.is_floating_point() or held.dtype == torch.float32
    assert {k for k, v in strategy.state_dict().items() if torch.is_tensor(v)} == set(state)


@every
def test_autocast_changes_nothing(cls):
    plain, cast = bound(cls(), double=False), bound(cls(), double=False)
    expected, _, _ = weigh(plain, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual, _, _ = weigh(cast, dtype=torch.float32)
    torch.testing.assert_close(actual.terms, expected.terms, rtol=0, atol=0)
    if expected.extra is not None:
        torch.testing.assert_close(actual.extra, expected.extra, rtol=0, atol=0)


@every
def test_the_global_random_state_is_not_touched(cls):
    before = torch.get_rng_state()
    weigh(bound(cls()))
    assert torch.equal(torch.get_rng_state(), before)


@every
@pytest.mark.parametrize("mode", ["no_grad", "no_shared", "constant_shared", "eval"])
def test_where_no_gradient_can_be_taken_it_still_weighs(cls, mode):
    strategy = bound(cls()).train(mode != "eval")
    losses, x, _ = losses_of()
    with torch.set_grad_enabled(mode != "no_grad"):
        shared = {"no_shared": None, "constant_shared": x.detach()}.get(mode, x)
        weighted = strategy(losses, losses.detach(), shared)
    assert_close(weighted.terms, strategy.weights() * losses.detach())
    assert (weighted.extra is None) == (strategy.extra_name is None)
    if cls is GradNorm:
        assert weighted.extra == 0
        assert_close(strategy.weights(), [1.0] * 3)
    if cls is MultipleGradientDescent:
        assert strategy.weights().tolist() == pytest.approx([1 / 3] * 3, abs=1e-7)


@by_gradient
def test_evaluation_changes_no_state(cls):
    run = Run(cls)
    run.train(2)
    strategy = run.strategy.eval()
    before = {k: v.clone() for k, v in strategy.state_dict().items()}
    weigh(strategy, (9.0, 8.0, 7.0))
    for key, value in strategy.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@by_gradient
def test_views_and_the_tensor_itself_give_the_same(cls):
    first, second = bound(cls()), bound(cls())
    one, _, _ = weigh(first)
    each, _, _ = weigh(second, views=True)
    assert_close(each.terms, one.terms.detach())
    assert_close(second.weights(), first.weights())


@pytest.mark.parametrize("views", [False, True])
def test_gradients_are_the_rows_one_for_each_loss(views):
    losses, _, shared = losses_of(views=views)
    assert_close(gradients(losses, shared), ROWS)


def test_gradients_of_half_types_have_norms_beyond_their_range():
    losses, _, x = losses_of(rows=((6e4, 6e4), (1.0, 2.0), (0.5, 0.1)), dtype=torch.float16)
    assert gradients(losses, x)[0].norm() > torch.finfo(torch.float16).max
    assert gradients(losses, x)[0].norm().isfinite()


def test_a_loss_that_does_not_see_the_shared_tensor_has_gradient_zero():
    _, x, views = losses_of(views=True)
    free = torch.tensor(2.0, requires_grad=True, dtype=torch.float64)
    for shared in (x, list(views[:2])):
        seen = x if shared is x else shared[0]
        losses = torch.stack([seen.sum(), free])
        assert_close(gradients(losses, shared), [[1.0] * 4, [0.0] * 4])


def test_views_are_one_for_each_loss():
    losses, _, views = losses_of(views=True)
    with pytest.raises(ValueError, match="shared: expected one view for each of 3 losses; got 2"):
        gradients(losses, views[:2])


def test_one_pass_over_views_runs_each_backward_once():
    calls = []
    x = torch.ones(2, 3, requires_grad=True)

    def loss(view, j):
        value = view.square().sum()
        value.register_hook(lambda _: calls.append(j))
        return value

    views = [x.view_as(x) for _ in VALUES]
    gradients(torch.stack([loss(view, j) for j, view in enumerate(views)]), views)
    assert sorted(calls) == [0, 1, 2]


def test_a_state_on_another_device_finds_its_way_back():
    strategy = bound(RandomWeights())
    weigh(strategy)
    state = torch.load(io.BytesIO(saved(strategy)), map_location="cpu")
    other = bound(RandomWeights(seed=9))
    other.load_state_dict(state)
    torch.testing.assert_close(weigh(other)[0].terms, weigh(strategy)[0].terms, rtol=0, atol=0)


def saved(strategy):
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    return file.getvalue()
