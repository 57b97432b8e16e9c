from contextlib import contextmanager
from math import hypot
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pml_extras.functional import close_pairs as search
from pml_extras.functional import pairwise, potential_field_energy, tiles
from pml_extras.functional.close_pairs import close_pairs, pairs_of_one_class
from tests.functional.test_potential_field import assert_close_to_oracle, away_from_the_kinks
from tests.oracles import potential_field as oracle
from tests.strategies import batches, batches_with_references

sizes = st.sampled_from((1, 4, 9, 30))
"""Elements of a tile: sides that divide the number of points and sides that do not."""


@contextmanager
def small_parts(tile, pairs=1, chunk=3):
    with (
        mock.patch.dict(tiles.TILE_ELEMENTS, {"cpu": tile}),
        mock.patch.object(search, "_PAIRS_AT_A_TIME", pairs),
        mock.patch.object(pairwise, "CHUNK_ELEMENTS", chunk),
    ):
        yield


def listed(parts):
    return [pair for rows, cols in parts for pair in zip(rows.tolist(), cols.tolist(), strict=True)]


def pairs_of(labels, others, itself):
    """(a, b, of one class), in loops."""
    for a, label in enumerate(labels):
        for b, other in enumerate(others):
            if not itself or a < b:
                yield a, b, label == other


@given(batches_with_references(), st.booleans(), sizes, st.integers(1, 9))
def test_pairs_of_one_class_come_once_each(batch, itself, tile, at_a_time):
    _, labels, _, y_labels = batch
    with small_parts(tile, pairs=at_a_time):
        found = listed(pairs_of_one_class(labels, None if itself else y_labels))
    others = labels if itself else y_labels
    expected = [(a, b) for a, b, same in pairs_of(labels, others, itself) if same]
    assert sorted(found) == expected


@given(batches_with_references(), st.booleans(), sizes, st.floats(0.01, 2.5))
def test_close_pairs_of_two_classes_come_once_each(batch, itself, tile, radius):
    x, labels, y, y_labels = batch
    if itself:
        y, y_labels = x, labels
    with small_parts(tile):
        found = listed(
            close_pairs(x, labels, None if itself else y, None if itself else y_labels, radius)
        )
    assert len(found) == len(set(found))
    for a, b, same in pairs_of(labels, y_labels, itself):
        r = hypot(*(x[a] - y[b]).tolist())
        if same or r > (radius**2 + 0.01 * (x[a] @ x[a] + y[b] @ y[b])) ** 0.5:
            assert (a, b) not in found
        elif r < radius:
            assert (a, b) in found
    assert all(a < b for a, b in found) or not itself


@given(batches(max_rows=9), st.sampled_from((0.0, 1.0, 3.0)), st.floats(0.05, 1.2), sizes)
def test_own_field_in_parts_agrees_with_the_equation(batch, alpha, delta, tile):
    x, labels = batch
    away_from_the_kinks(x, x, delta, 0.3, 0.01)
    x.requires_grad_()
    weight = torch.arange(len(x), dtype=torch.float64)
    with small_parts(tile):
        actual = potential_field_energy(
            x, labels, alpha=alpha, delta=delta, delta_rep=0.3, weight=weight
        ).energy
    actual.backward()
    expected, at_x, at_source, strength, source_strength = oracle.field(
        x.tolist(), labels.tolist(), x.tolist(), labels.tolist(), weight.tolist(),
        alpha, delta, 0.3, 0.01, True,
    )  # fmt: skip
    total = [
        [u + v for u, v in zip(a, b, strict=True)] for a, b in zip(at_x, at_source, strict=True)
    ]
    strength = [u + v for u, v in zip(strength, source_strength, strict=True)]
    assert_close_to_oracle(actual, expected, x.grad, total, strength)


@given(batches_with_references(), st.floats(0.05, 1.2), sizes)
def test_field_of_sources_in_parts_agrees_with_the_equation(batch, delta, tile):
    x, labels, y, y_labels = batch
    away_from_the_kinks(x, y, delta, 0.01)
    x.requires_grad_()
    y.requires_grad_()
    with small_parts(tile):
        actual = potential_field_energy(x, labels, y, y_labels, alpha=2.0, delta=delta).energy
    actual.backward()
    expected, at_x, at_y, strength, source_strength = oracle.field(
        x.tolist(), labels.tolist(), y.tolist(), y_labels.tolist(), [1.0] * len(x),
        2.0, delta, delta, 0.01, False,
    )  # fmt: skip
    assert_close_to_oracle(actual, expected, x.grad, at_x, strength)
    assert_close_to_oracle(actual, expected, y.grad, at_y, source_strength)


def test_points_of_unequal_norms_are_searched_in_one_tile():
    x = torch.tensor([[100.0, 0.0], [100.1, 0.0], [0.0, 0.01], [0.0, -0.01]])
    labels = torch.tensor([0, 1, 2, 3])
    found = listed(close_pairs(x, labels, None, None, 0.15))
    assert {(0, 1), (2, 3)} <= set(found)


@pytest.mark.parametrize("nothing", [(0, 0), (3, 0), (0, 3)])
def test_empty_sets_have_no_pairs(nothing):
    x, y = (torch.randn(num, 2) for num in nothing)
    labels, y_labels = (torch.zeros(num, dtype=torch.int64) for num in nothing)
    assert listed(close_pairs(x, labels, y, y_labels, 1.0)) == []
    assert listed(pairs_of_one_class(labels, y_labels)) == []
    assert listed(close_pairs(x[:0], labels[:0], None, None, 1.0)) == []


def test_what_is_no_number_is_close_to_all():
    x = 10 * torch.eye(5)
    x[3, 2] = torch.nan
    with small_parts(4):
        found = listed(close_pairs(x, torch.arange(5), None, None, 0.1))
    assert sorted(found) == [(0, 3), (1, 3), (2, 3), (3, 4)]


class Made(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns; names of those that return it."""

    def __init__(self, watched=0):
        super().__init__()
        self.elements, self.watched, self.names = 0, watched, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(x):
                self.elements = max(self.elements, x.numel())
                if x.numel() == self.watched:
                    self.names.append(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("own", [True, False])
def test_an_empty_tile_costs_its_products_and_one_reduction(own):
    x, y = 9 * torch.eye(16), -9 * torch.eye(16)
    labels = torch.arange(16)
    others = (None, None) if own else (y, labels)
    with small_parts(64, chunk=2**20), Made(watched=64) as far:
        assert listed(close_pairs(x, labels, *others, 1.0)) == []
    num_tiles = 3 if own else 4
    assert far.names.count("mm") == num_tiles
    assert set(far.names) <= {"mm", "fill_diagonal_"} | {"slice", "t", "transpose"}


@pytest.mark.parametrize("collapsed", [False, True])
def test_no_tensor_grows_with_the_pairs(collapsed):
    num, size, tile = 600, 4, 1024
    x = torch.nn.functional.normalize(torch.randn(num, size))
    if collapsed:
        x = x[:1] + 1e-3 * x
    x.requires_grad_()
    labels = torch.arange(num) // 2
    with small_parts(tile, pairs=1024, chunk=4096), Made() as made:
        potential_field_energy(x, labels, alpha=3.0, delta=0.2).energy.backward()
    assert made.elements <= 4 * (num * size + tile)
    one_class = torch.zeros(num, dtype=torch.int64)
    with small_parts(tile, pairs=1024, chunk=4096), Made() as made:
        potential_field_energy(x, one_class, alpha=3.0, delta=0.2).energy.backward()
    assert made.elements <= 4 * (num * size + tile)
