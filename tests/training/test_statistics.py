"""Each statistic against loops over plain floats, its invariances, limits and bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pml_extras.training._statistics import (
    effective_rank,
    mean_cosine,
    share_never_anchor,
    share_of_zeros,
    share_without_positive,
)
from tests.oracles import diagnostics as oracle
from tests.strategies import batches, labels, rows

CPU = torch.device("cpu")
EXACT = {"rel_tol": 0.0, "abs_tol": 1e-10}
SHARE = {"rel_tol": 0.0, "abs_tol": 1e-6}  # shares are float32


def close(actual, expected, rel_tol, abs_tol):
    return math.isclose(float(actual), expected, rel_tol=rel_tol, abs_tol=abs_tol)


def random_rows(seed, num, size):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator, dtype=torch.float64)


def rotation(seed, size):
    return torch.linalg.qr(random_rows(seed, size, size)).Q


shapes = st.tuples(st.integers(0, 2**20), st.integers(2, 9), st.integers(1, 9))


@given(st.integers(1, 9).flatmap(labels))
def test_rows_without_another_of_their_class_are_counted(labels):
    expected = oracle.share_without_positive(labels.tolist())
    assert close(share_without_positive(labels), expected, **SHARE)


@given(st.integers(1, 6).flatmap(labels), st.integers(0, 7).flatmap(labels))
def test_rows_without_a_reference_of_their_class_are_counted(labels, ref_labels):
    expected = oracle.share_without_positive(labels.tolist(), ref_labels.tolist())
    assert close(share_without_positive(labels, ref_labels), expected, **SHARE)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1)))))
def test_rows_that_a_miner_gave_no_positive_are_counted(drawn):
    num, anchors = drawn
    actual = share_never_anchor(torch.tensor(anchors, dtype=torch.int64), num, CPU)
    assert close(actual, oracle.share_never_anchor(anchors, num), **SHARE)


@given(st.lists(st.lists(st.sampled_from((0.0, 1e-30, 0.5)), max_size=6), max_size=3))
def test_zeros_among_the_losses_of_all_terms_are_counted(losses):
    tensors = [torch.tensor(term) for term in losses]
    assert close(share_of_zeros([*tensors, 0], CPU), oracle.share_of_zeros(losses), **SHARE)


@given(batches(min_rows=2))
def test_mean_cosine_agrees_with_all_pairs(batch):
    x, _ = batch
    assert close(mean_cosine(x), oracle.mean_cosine(x.tolist()), **EXACT)


@given(shapes)
def test_effective_rank_agrees_with_singular_values_by_rotations(drawn):
    x = random_rows(*drawn)
    assert close(effective_rank(x), oracle.effective_rank(x.tolist()), **EXACT)


@given(st.integers(2, 7).flatmap(lambda n: rows(n, 3)), st.integers(0, 99))
def test_effective_rank_of_rows_that_coincide_or_vanish_agrees_too(x, seed):
    x = (x * 2).round() @ rotation(seed, 3)  # of any rank, with singular values far from rounding
    assert close(effective_rank(x), oracle.effective_rank(x.tolist()), rel_tol=0.0, abs_tol=1e-7)


@given(shapes, st.integers(-8, 8))
def test_rotation_and_the_length_of_rows_change_neither(drawn, power):
    x = random_rows(*drawn)
    lengths = 10.0 ** (power * random_rows(drawn[0] + 1, len(x), 1).clamp(-2, 2))
    other = lengths * (x @ rotation(drawn[0] + 2, x.shape[1]))
    assert close(mean_cosine(other), mean_cosine(x).item(), **EXACT)
    assert close(effective_rank(other), effective_rank(x).item(), **EXACT)


@given(shapes)
def test_both_stay_within_their_bounds(drawn):
    x = random_rows(*drawn)
    assert -1 / (len(x) - 1) - 1e-12 <= mean_cosine(x) <= 1 + 1e-12
    assert 1 - 1e-12 <= effective_rank(x) <= min(x.shape) + 1e-12


@pytest.mark.parametrize("copies", [1, 3, 7])
@pytest.mark.parametrize("num", [1, 2, 5])
def test_equally_many_rows_in_each_of_k_orthogonal_directions_have_rank_k(num, copies):
    x = rotation(4, 5)[:num].repeat(copies, 1)
    assert close(effective_rank(x), num, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_identical_rows_are_of_rank_one_and_of_cosine_one(dtype):
    x = random_rows(0, 1, 40).to(dtype).expand(70, 40)
    assert close(effective_rank(x), 1.0, **EXACT)
    assert close(mean_cosine(x), 1.0, rel_tol=0.0, abs_tol=1e-5)
    assert mean_cosine(x).dtype == torch.promote_types(dtype, torch.float32)


def test_a_direction_and_its_opposite_are_of_rank_one_and_not_of_cosine_one():
    x = random_rows(0, 1, 6) * torch.tensor([[1.0], [-2.0], [3.0], [-4.0]])
    assert close(effective_rank(x), 1.0, **EXACT)
    assert close(mean_cosine(x), -1 / 3, **EXACT)


def test_zero_rows_have_no_rank_and_cosine_zero():
    assert effective_rank(torch.zeros(4, 3)) == 0
    assert mean_cosine(torch.zeros(4, 3)) == 0


def test_a_row_that_is_not_finite_gives_nan_and_no_error():
    x = random_rows(0, 4, 3)
    x[2, 1] = torch.inf
    assert effective_rank(x).isnan()
    assert mean_cosine(x).isnan()


@pytest.mark.parametrize("num", [0, 1])
def test_a_batch_of_less_than_two_rows_has_no_mean_cosine(num):
    assert mean_cosine(torch.ones(num, 3)).isnan()
    assert effective_rank(torch.ones(num, 3)) == num


def test_an_autocast_region_rounds_neither():
    x = random_rows(0, 30, 20).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine, rank = mean_cosine(x), effective_rank(x)
    assert torch.equal(cosine, mean_cosine(x))
    assert torch.equal(rank, effective_rank(x))
