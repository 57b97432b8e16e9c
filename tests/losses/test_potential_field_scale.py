"""Many proxies: neighbour lists, memory, and one graph under a compiler."""

import copy
import pickle
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from torch.utils._python_dispatch import TorchDispatchMode

from pml_extras.functional import field_energy, neighbour_list, pairwise, tiles
from pml_extras.losses import PotentialFieldLoss, potential_field
from tests.old_torch import one_graph

CLASSES, SIZE = 20, 6


def batch(num=12, classes=CLASSES):
    x = torch.randn(num, SIZE, dtype=torch.float64, requires_grad=True)
    return x, torch.randint(classes, (num,))


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr(potential_field, "_MANY_PROXIES", 2)


@pytest.fixture
def builds(monkeypatch):
    calls = []
    search = neighbour_list.pairs_nearer_than

    def counted(*arguments):
        calls.append(arguments)
        return search(*arguments)

    monkeypatch.setattr(neighbour_list, "pairs_nearer_than", counted)
    return calls


def with_and_without(**kwargs):
    """Two losses on the same proxies."""
    listed = PotentialFieldLoss(CLASSES, SIZE, 2, delta_rep=0.4, **kwargs).double()
    plain = PotentialFieldLoss(
        CLASSES, SIZE, 2, delta_rep=0.4, neighbour_lists=False, **kwargs
    ).double()
    plain.proxies = listed.proxies
    return listed, plain


def value_and_gradients(loss, x, labels):
    x.grad = loss.proxies.grad = None
    value = loss(x, labels)
    value.backward()
    return value.item(), x.grad, loss.proxies.grad


def assert_equal(ours, theirs, tolerance=1e-12):
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    for grad, expected in zip(ours[1:], theirs[1:], strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(grad, expected, rtol=tolerance, atol=tolerance * scale)


moves = st.lists(
    st.sampled_from(("adam", "small", "jump", "reload", "data", "radius")), min_size=1, max_size=8
)


@given(moves, st.integers(0, 2**32))
def test_lists_change_nothing_while_proxies_move(drawn, seed):
    torch.manual_seed(seed)
    with mock.patch.object(potential_field, "_MANY_PROXIES", 2):
        listed, plain = with_and_without()
        optimizer = torch.optim.Adam([listed.proxies], lr=1e-2)
        start = copy.deepcopy(listed.state_dict())
        for move in ("small", *drawn, "small"):
            x, labels = batch()
            theirs = value_and_gradients(plain, x, labels)
            assert_equal(value_and_gradients(listed, x, labels), theirs)
            with torch.no_grad():
                if move == "adam":
                    optimizer.step()
                elif move in ("small", "jump"):
                    listed.proxies += {"small": 1e-3, "jump": 2.0}[move] * torch.randn(SIZE)
                elif move == "reload":
                    listed.load_state_dict(start)
                elif move == "data":
                    listed.proxies.data[3] = listed.proxies.data[8]  # pml writes so
                else:
                    listed.delta_rep = plain.delta_rep = 0.2 + torch.rand(()).item()


def test_proxies_at_rest_are_searched_once(builds):
    listed, _ = with_and_without()
    for mode in (listed.train, listed.eval, listed.train):
        mode()
        listed(*batch())
    with torch.no_grad():
        listed(*batch())
    listed.proxies.requires_grad_(False)
    x, labels = batch()
    listed(x, labels).backward()
    assert x.grad.abs().sum() > 0
    assert len(builds) == 1


def test_a_list_of_inference_serves_training():
    listed, plain = with_and_without()
    x, labels = batch()
    with torch.inference_mode():
        listed(x, labels)
    assert_equal(value_and_gradients(listed, x, labels), value_and_gradients(plain, x, labels))


def test_few_proxies_and_a_loss_without_lists_have_none(builds, monkeypatch):
    listed, plain = with_and_without()
    plain(*batch())
    monkeypatch.setattr(potential_field, "_MANY_PROXIES", 2 * CLASSES + 1)
    listed(*batch())
    assert builds == []
    monkeypatch.setattr(potential_field, "_MANY_PROXIES", 2 * CLASSES)
    listed(*batch())
    assert len(builds) == 1


def test_lists_are_no_state(builds):
    listed, _ = with_and_without()
    x, labels = batch()
    expected = value_and_gradients(listed, x, labels)
    assert list(listed.state_dict()) == ["proxies"]
    for twin in (copy.deepcopy(listed), pickle.loads(pickle.dumps(listed))):
        assert twin._neighbours._points is None
        assert_equal(value_and_gradients(twin, x, labels), expected)
    assert len(builds) == 3
    single = value_and_gradients(listed.float(), x.detach().float().requires_grad_(), labels)
    assert len(builds) == 4
    assert single[0] == pytest.approx(expected[0], rel=1e-5)


def test_statistics_do_not_depend_on_lists():
    listed, plain = with_and_without(collect_stats=True)
    with torch.no_grad():
        listed.proxies[5] = listed.proxies[2] + 0.05
    x, labels = batch()
    listed(x, labels), plain(x, labels)
    assert plain.repulsion_proxy_proxy > 0
    for name in potential_field._STATISTICS:
        assert getattr(listed, name) == pytest.approx(getattr(plain, name), rel=1e-12)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(ValueError, match=r"^neighbour_lists: expected True or False"):
        PotentialFieldLoss(CLASSES, SIZE, neighbour_lists=value)


class Alive(TorchDispatchMode):
    """Most storages of at least so many elements that are alive at a time, among those made."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.alive, self.most, self.largest = elements, [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(x):
                self.largest = max(self.largest, x.numel())
                if x.numel() >= self.elements:
                    self.alive.append(weakref.ref(x))
        held = [x() for x in self.alive if x() is not None]
        self.alive = [weakref.ref(x) for x in held]
        self.most = max(self.most, len({x.untyped_storage().data_ptr() for x in held}))
        return result


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_memory_is_three_arrays_of_the_size_of_the_proxies(lists, scale):
    classes, size, tile = 50, 32, 1024
    loss = PotentialFieldLoss(classes, size, 3, neighbour_lists=lists)
    with torch.no_grad():
        loss.proxies.mul_(scale).add_(1 - scale)  # spread, or of one direction
    x, labels = torch.randn(8, size, requires_grad=True), torch.randint(classes, (8,))
    with (
        mock.patch.dict(tiles.TILE_ELEMENTS, {"cpu": tile}),
        mock.patch.object(pairwise, "CHUNK_ELEMENTS", 1024),
        mock.patch.object(field_energy, "CHUNK_ELEMENTS", 1024),
        mock.patch.object(neighbour_list, "CHUNK_ELEMENTS", 1024),
        mock.patch.object(neighbour_list, "_SAMPLE", 16),
        Alive(loss.proxies.numel() // 2) as memory,
    ):
        for _ in range(2):
            loss.proxies.grad = None
            loss(x, labels).backward()
    assert memory.largest == loss.proxies.numel()  # a fourth of a matrix of all pairs
    # Directions and their gradient, then that and .grad; a list, which a crowd has not, holds one.
    assert memory.most == (3 if lists and scale == 1.0 else 2)


@one_graph
@pytest.mark.parametrize("with_ref", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"proxies_per_class": 0}, {"alpha": 0.0, "delta_rep": 0.9, "reduction": "pair_mean"}],
)
def test_compiles_into_one_graph_with_the_same_numbers(options, with_ref):
    torch._dynamo.reset()
    loss = PotentialFieldLoss(CLASSES, SIZE, **{"proxies_per_class": 2, **options}).double()
    x, labels = batch()
    with torch.no_grad():
        x[1] = x[0]  # coincide, of one class or of two
        x[3] = x[2] + 0.01
        x[4] = 0.0
    references = (None, x.detach()[:7] + 0.1, labels[:7]) if with_ref else ()
    results = []
    for each in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        x.grad = loss.proxies.grad = None
        value = each(x, labels, *references)
        value.backward()
        of_proxies = loss.proxies.grad if loss.proxies.numel() > 0 else torch.zeros(1)
        results.append((value.item(), x.grad, of_proxies))
    assert_equal(results[1], results[0], 1e-9)


@one_graph
def test_compiled_in_float32_it_keeps_the_digits_of_eager():
    torch._dynamo.reset()
    loss = PotentialFieldLoss(CLASSES, SIZE, 2)
    x, labels = batch()
    x = x.detach().float()
    x[3] = x[2] + 1e-3
    x.requires_grad_()
    eager = value_and_gradients(loss, x, labels)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x.grad = loss.proxies.grad = None
    value = compiled(x, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert_equal((value.item(), x.grad, loss.proxies.grad), eager, 2e-6)


@one_graph
def test_statistics_are_left_out_under_a_compiler():
    torch._dynamo.reset()
    distance = LpDistance(collect_stats=True)
    loss = PotentialFieldLoss(CLASSES, SIZE, 2, collect_stats=True, distance=distance).double()
    x, labels = batch()
    value = loss(x, labels).item()
    assert loss.excess_sample_proxy > 0
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert compiled(x, labels).item() == pytest.approx(value)
    assert loss.excess_sample_proxy == distance.final_avg_query_norm == 0  # not those of before


def test_a_list_does_not_outlive_a_move():
    loss = PotentialFieldLoss(CLASSES, SIZE, 2)
    before = loss._neighbours
    loss.double()
    assert loss._neighbours is not before
