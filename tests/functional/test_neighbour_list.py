import copy
import pickle
from math import hypot
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.functional import close_pairs as search
from pml_extras.functional import neighbour_list, tiles
from pml_extras.functional.field import check_field
from pml_extras.functional.field_energy import Points, Term, field_energy
from pml_extras.functional.neighbour_list import NeighbourList

FIELD = check_field(3.0, 0.2, 0.31, 0.01)


def near(listed, x, labels, radius=FIELD.delta_rep):
    parts = listed(x, labels, None, None, radius)
    return {pair for a, b in parts for pair in zip(a.tolist(), b.tolist(), strict=True)}


def in_loops(x, labels, radius=FIELD.delta_rep):
    return {
        (a, b)
        for a in range(len(x))
        for b in range(a + 1, len(x))
        if labels[a] != labels[b] and hypot(*(x[a] - x[b]).tolist()) < radius
    }


@pytest.fixture
def builds(monkeypatch):
    """Searches at the radius of a list."""
    calls = []
    search_for_list = neighbour_list.pairs_nearer_than

    def counted(radius, *points):
        calls.append(radius())
        return search_for_list(radius, *points)

    monkeypatch.setattr(neighbour_list, "pairs_nearer_than", counted)
    return calls


steps = st.lists(st.sampled_from((0.0, 1e-6, 1e-3, 0.02, 0.1, 0.5, 3.0)), min_size=1, max_size=12)


@given(
    st.integers(0, 2**32), st.integers(2, 24), st.integers(1, 3), steps,
    st.sampled_from((1, 2, 5)), st.sampled_from((1, 2, 1024)), st.sampled_from((4, 25, 2**19)),
)  # fmt: skip
def test_lists_change_nothing_along_a_walk(seed, num, size, walk, pairs_a_point, sample, tile):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, dtype=torch.float64, generator=generator)
    start, labels, listed = x.clone(), torch.arange(num) // 2, NeighbourList()
    with (
        mock.patch.object(neighbour_list, "_PAIRS_A_POINT", pairs_a_point),
        mock.patch.object(neighbour_list, "_SAMPLE", sample),
        mock.patch.object(neighbour_list, "_PAUSE", 2),
        mock.patch.dict(tiles.TILE_ELEMENTS, {"cpu": tile}),
    ):
        for length in (*walk, None):
            if length is None:
                x = start  # weights are loaded again
            else:
                x = x + length * torch.randn(x.shape, dtype=x.dtype, generator=generator)
            found = near(listed, x, labels)
            assert found >= in_loops(x, labels)
            results = []
            for how in (listed, search.close_pairs):
                points = x.clone().requires_grad_()
                term = Term(0, None, search=how)
                energy, *_ = field_energy([Points(points, labels)], [term], FIELD)
                energy.backward()
                results.append((energy.item(), points.grad))
            (ours, grad), (plain, expected) = results
            assert ours == pytest.approx(plain, rel=1e-12, abs=1e-12)
            scale = expected.abs().max().item()
            torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12 * max(1.0, scale))
            kept = listed._pairs
            assert kept is None or len(kept[0]) <= pairs_a_point * num


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("share", [0.5, 0.6, 1.0])
def test_two_that_move_straight_at_each_other_are_not_lost(size, share, monkeypatch):
    """By what a list allows and by a little less and more, in equal shares and in others."""
    monkeypatch.setattr(search, "_PRODUCT_ERROR", 1e-14)  # no pair is listed that need not be
    radius, labels = 0.3, torch.arange(22)
    direction = torch.nn.functional.normalize(torch.randn(size, dtype=torch.float64), dim=0)
    crowd = torch.linspace(1, 5, 20, dtype=torch.float64)  # its pairs say how far a list reaches
    kept = 0
    for beyond in (1e-12, 1e-9):
        for nudge in (-1e-9, -1e-12, -1e-15, 0.0, 1e-15, 1e-12, 1e-9):
            apart = 2.0
            for _ in range(2):  # the probes move to where a list just ends; it ends there again
                listed, start = NeighbourList(), torch.cat([crowd, crowd.new_tensor([-4.0, -4.0])])
                start[21] += apart
                near(listed, start[:, None] * direction, labels, radius)
                seen = listed._reach
                apart = seen + beyond
            assert radius < seen < 1.0
            assert (20, 21) not in {
                (a, b) for a, b in zip(*(side.tolist() for side in listed._pairs), strict=True)
            }
            moved = start.clone()
            moved[20] += share * (seen - radius) * (1 + nudge)
            moved[21] -= (1 - share) * (seen - radius) * (1 + nudge)
            x, before = moved[:, None] * direction, listed._points
            assert near(listed, x, labels, radius) >= in_loops(x, labels, radius)
            kept += listed._points is before
    assert 0 < kept < 14  # some of these moves are allowed, and some are not


def test_rounding_hides_no_pair():
    """A list that would end exactly where a pair arrives, as float32 measures displacements."""
    labels, beside = torch.arange(2), 0
    for seed in range(50):
        a, b = spread(2, 512, seed)
        moved = torch.stack([a + 0.3 * (b - a), b - 0.4 * (b - a)])
        listed = NeighbourList()
        listed._points, listed._pairs = torch.stack([a, b]), (labels[:0], labels[:0])
        listed._reach = (a.double() - b.double()).norm().item()  # it is not listed
        radius = listed._reach - (moved - listed._points).norm(dim=1).sum().item()
        nearer = int(search.distances_of((labels[:1], labels[1:]), moved) < radius)
        assert len(near(listed, moved, labels, radius)) >= nearer
        beside += nearer
    assert beside > 0


def spread(num=40, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(num, size, generator=generator))


def test_points_that_move_little_are_searched_once(builds):
    x, labels, listed = spread(), torch.arange(40), NeighbourList()
    near(listed, x, labels)
    skin = (builds[0] - FIELD.delta_rep) / 2
    for _ in range(5):
        moved = x + 0.99 * skin * spread(seed=1)  # each by as much, wherever it was before
        near(listed, moved, labels)
    assert len(builds) == 1
    near(listed, x + 1.01 * skin * spread(seed=1), labels)
    assert len(builds) == 2


def test_a_wider_radius_is_seen(builds):
    x, labels, listed = spread(), torch.arange(40), NeighbourList()
    for radius in (0.1, 0.3, 2.0, 0.3):
        assert near(listed, x, labels, radius) >= in_loops(x, labels, radius)
    assert len(builds) == 2  # 0.3 is within what the list for 0.1 reaches; all is within 2


def test_a_skin_is_wide_for_spread_points_and_thin_for_crowded_ones(builds):
    labels = torch.arange(40)
    for scale in (1.0, 0.6):
        near(NeighbourList(), scale * spread(), labels)
    assert builds[1] == pytest.approx(0.6 * builds[0], rel=1e-5)
    assert builds[0] > 2 * FIELD.delta_rep


def test_a_crowd_is_searched_plainly_with_a_try_now_and_then(builds):
    x, labels, listed = 0.1 * spread(), torch.arange(40), NeighbourList()
    for _ in range(12):
        assert near(listed, x, labels) == in_loops(x, labels)
        assert listed._pairs is None
    assert len(builds) == 2
    for _ in range(11):
        near(listed, 20 * x, labels)
    assert len(builds) == 3  # and once it has dispersed, a list again
    assert listed._pairs is not None


@pytest.mark.parametrize("change", ["double", "fewer", "wider", "nan"])
def test_other_points_are_searched_anew(change, builds):
    x, labels, listed = spread(), torch.arange(40), NeighbourList()
    near(listed, x, labels)
    if change == "double":
        x = x.double()
    elif change == "fewer":
        x, labels = x[:30], labels[:30]
    elif change == "wider":
        x = torch.nn.functional.pad(x, (0, 1))
    else:
        x = x.clone()
        x[3] = torch.nan
        for _ in range(2):
            assert len(near(listed, x, labels)) >= 39  # a point that is NaN is close to all
        return
    near(listed, x, labels)
    assert len(builds) == 2


def test_other_sources_are_searched_plainly():
    x, labels, listed = spread(), torch.arange(40), NeighbourList()
    parts = listed(x, labels, x.flip(0), labels.flip(0), 0.7)
    expected = search.close_pairs(x, labels, x.flip(0), labels.flip(0), 0.7)
    for ours, plain in zip(parts, expected, strict=True):
        assert torch.equal(torch.stack(ours), torch.stack(plain))
    assert listed._points is None


def test_copies_start_empty():
    x, labels, listed = spread(), torch.arange(40), NeighbourList()
    near(listed, x, labels)
    for twin in (copy.deepcopy(listed), pickle.loads(pickle.dumps(listed))):
        assert twin._points is None
        assert near(twin, x, labels) == near(listed, x, labels)


def test_nothing_to_list_is_no_pair():
    listed = NeighbourList()
    for num in (0, 1, 2):
        assert near(listed, spread(num), torch.zeros(num)) == set()
        assert near(listed, spread(num), torch.zeros(num)) == set()


def test_points_that_jump_at_each_call_are_searched_plainly_most_of_the_time(builds):
    listed, labels = NeighbourList(), torch.arange(40)
    for call in range(100):
        x = torch.randn(40, 3, dtype=torch.float64) * 2
        assert near(listed, x, labels) >= in_loops(x, labels), call
    assert len(builds) <= 100 // 4
