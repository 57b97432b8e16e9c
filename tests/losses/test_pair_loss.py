"""Losses of pairs under relations that are no equality of classes: ``match_fn``."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, reducers

from pml_extras import losses
from pml_extras.functional import tiles
from tests.oracles import against_negatives, binomial_deviance, lifted_structure, ranking, snr
from tests.oracles import relation as oracle
from tests.oracles.intra_batch_connections import derivative

PLAIN = distances.LpDistance(normalize_embeddings=False)
RAW = distances.SNRDistance(normalize_embeddings=False)
UNREDUCED = reducers.DoNothingReducer()
UPSTREAM = torch.linspace(0.5, 2.0, 128, dtype=torch.float64)
COSINE = against_negatives.cosine
REFERENCES = pytest.mark.parametrize("with_ref", [False, True])


def ready(relation, _):
    return relation


def equal(a, b):
    return a[:, None] == b


@st.composite
def tables(draw, *, square, entries=(1, 0, -1)):
    """(B, R) whose rows, columns and diagonal have no more to do with each other than by chance."""
    num = draw(st.integers(1, 6))
    num_ref = num if square else draw(st.integers(1, 7))
    row = st.lists(st.sampled_from(entries), min_size=num_ref, max_size=num_ref)
    dtype = draw(st.sampled_from((torch.int8, torch.int64)))
    return torch.tensor(draw(st.lists(row, min_size=num, max_size=num)), dtype=dtype)


def rows(num, seed=0, size=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, dtype=torch.float64, generator=generator)
    return x.requires_grad_()


def scalars(x):
    return [list(row.unbind()) for row in x.unbind()]


def compared_with_negatives(pair_loss, x, y, table, same):
    listed = oracle.listed(table, same=same)
    return {"loss": against_negatives.of_list(pair_loss, COSINE, x, y, listed)}


def lifted(x, y, table, same):
    listed = oracle.listed(table, same=same)
    return {"loss": lifted_structure.of_list(x, y, listed, 1.7, 0.2, same)[1]}


def generalized(x, y, table, same):
    def is_entry(value):
        return lambda i, j: table[i][j] == value and not (same and i == j)

    return {"loss": lifted_structure.generalized(x, y, is_entry(1), is_entry(0), 1.7, 0.2)}


def hinges(x, y, table, same):
    a1, p, a2, n = oracle.listed(table, same=same)
    pull = [(snr.snr(x[i], y[j]) - 0.3).clamp(min=0) for i, j in zip(a1, p, strict=True)]
    push = [(2.5 - snr.snr(x[i], y[j])).clamp(min=0) for i, j in zip(a2, n, strict=True)]
    return {"pos_loss": pull, "neg_loss": push}


PAIRS = {  # the loss, what loops make of a table; tile is for those that have one
    "NTXentLoss": (
        partial(losses.NTXentLoss, 0.3),
        partial(compared_with_negatives, partial(against_negatives.ntxent, temperature=0.3)),
    ),
    "TupletMarginLoss": (
        partial(losses.TupletMarginLoss, 20, 8),
        partial(
            compared_with_negatives,
            partial(against_negatives.tuplet, margin=math.radians(20), scale=8),
        ),
    ),
    "LiftedStructureLoss": (
        partial(losses.LiftedStructureLoss, 1.7, 0.2, distance=PLAIN),
        lifted,
    ),
    "GeneralizedLiftedStructureLoss": (
        partial(losses.GeneralizedLiftedStructureLoss, 1.7, 0.2, distance=PLAIN),
        generalized,
    ),
    "SignalToNoiseRatioContrastiveLoss": (
        lambda tile, **given: losses.SignalToNoiseRatioContrastiveLoss(
            0.3, 2.5, distance=RAW, **given
        ),
        hinges,
    ),
}
RANKINGS = {
    "SmoothAPLoss": (
        partial(losses.SmoothAPLoss, 0.3),
        lambda sim, sides: ranking.smooth_ap(sim, sides, 0.3),
    ),
    "PNPLoss": (
        partial(losses.PNPLoss, 0.7, 2.5, 0.3, "Dq"),
        lambda sim, sides: ranking.pnp(sim, sides, 0.3, "Dq", 2.5, 0.7),
    ),
}


def assert_same(actual, expected, leaves):
    """Values, and gradients under one upstream weight each, of what is not pml's 0."""
    if isinstance(actual, int):
        assert actual == 0
        assert not expected
        return
    expected = torch.stack(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    w = UPSTREAM[: len(expected)]
    attached = (w * expected).sum() + sum(0 * leaf.sum() for leaf in leaves)
    grads = torch.autograd.grad((w * actual).sum(), leaves, retain_graph=True)
    wanted = torch.autograd.grad(attached, leaves)
    torch.testing.assert_close(grads, wanted, rtol=1e-10, atol=1e-9)


def called(loss, x, table, ref=None):
    """With a ready relation, in place of labels."""
    return loss(x, table) if ref is None else loss(x, table, None, ref, table.T)


@REFERENCES
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=60)
@given(data=st.data(), tile=st.sampled_from((None, 1, 2, 5)))
def test_pairs_are_those_of_the_relation(name, with_ref, data, tile):
    make, expected = PAIRS[name]
    table = data.draw(tables(square=not with_ref))
    x = rows(table.shape[0])
    ref = rows(table.shape[1], seed=1) if with_ref else None
    result = called(make(tile=tile, match_fn=ready, reducer=UNREDUCED), x, table, ref)
    others = scalars(ref) if with_ref else scalars(x)
    leaves = [x, ref] if with_ref else [x]
    for part, values in expected(scalars(x), others, table.tolist(), not with_ref).items():
        assert_same(result[part]["losses"], values, leaves)


@pytest.mark.parametrize("name", RANKINGS)
@settings(max_examples=60)
@given(table=tables(square=True), tile=st.sampled_from((None, 1, 2, 5)))
def test_rankings_are_those_of_the_relation_with_each_row_among_its_own(name, table, tile):
    make, expected = RANKINGS[name]
    x = rows(len(table))
    entry = make(tile=tile, match_fn=ready, reducer=UNREDUCED)(x, table)["loss"]
    unit = torch.nn.functional.normalize(x)
    sides = oracle.sides(table.tolist())
    values = expected(scalars(unit @ unit.T), sides)
    listed = [i for i, (own, _) in enumerate(sides) if name == "SmoothAPLoss" or len(own) > 1]
    assert_same(entry["losses"], [values[i] for i in listed], [x])
    if listed:
        assert entry["indices"].tolist() == listed


@REFERENCES
@pytest.mark.parametrize("per_anchor", [True, False])
@settings(max_examples=60)
@given(data=st.data())
def test_binomial_deviance_is_that_of_the_relation(per_anchor, with_ref, data):
    table = data.draw(tables(square=not with_ref))
    x, ref = rows(table.shape[0]), rows(table.shape[1], seed=1) if with_ref else None
    a1, p, a2, n = oracle.listed(table.tolist(), same=not with_ref)
    positive, negative = set(zip(a1, p, strict=True)), set(zip(a2, n, strict=True))
    numbers = 3.0, 1.5, -0.2

    def function(z):
        y = ref.tolist() if with_ref else z
        if per_anchor:
            parts = binomial_deviance.by_anchor(
                z, y,
                lambda i, j: (i, j) in positive,
                lambda i, j: (i, j) in negative,
                binomial_deviance.cosine, *numbers,
            )  # fmt: skip
            return binomial_deviance.mean([pull + push for pull, push in parts])
        kinds = (positive, -1, numbers[0]), (negative, 1, numbers[1])
        return sum(
            binomial_deviance.mean(
                binomial_deviance.of_pairs(
                    [binomial_deviance.cosine(z[i], y[j]) for i, j in pairs], sign, scale, -0.2
                )
            )
            for pairs, sign, scale in kinds
        )

    loss = losses.BinomialDevianceLoss(*numbers, per_anchor=per_anchor, match_fn=ready)
    value = called(loss, x, table, ref)
    assert value.item() == pytest.approx(complex(function(x.tolist())).real, rel=1e-10, abs=1e-10)
    (grad,) = torch.autograd.grad(value, x)
    towards = rows(len(x), seed=2).detach()
    slope = derivative(function, x.tolist(), towards.tolist())
    assert (grad * towards).sum().item() == pytest.approx(slope, rel=1e-10, abs=1e-10)


@REFERENCES
@given(data=st.data(), elements=st.sampled_from((1, 9, 2**19)))
def test_means_of_ratios_are_those_of_the_relation_without_a_list(with_ref, data, elements):
    table = data.draw(tables(square=not with_ref))
    x = rows(table.shape[0])
    ref = rows(table.shape[1], seed=1) if with_ref else None
    loss = losses.SignalToNoiseRatioContrastiveLoss(0.3, 2.5, distance=RAW, match_fn=ready)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_ELEMENTS, "cpu", elements)
        value = called(loss, x, table, ref)
    others = scalars(ref) if with_ref else scalars(x)
    total = 0 * x.sum()
    for values in hinges(scalars(x), others, table.tolist(), not with_ref).values():
        above = [v for v in values if v.item() > 0]
        total = total + (sum(above) / len(above) if above else 0)
    assert_same(value[None], [total], [x])
