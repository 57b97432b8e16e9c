"""Losses of pairs with ``match_fn``: classes, labels of any form, memory, what is refused."""

import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import distances

from pml_extras import losses
from pml_extras.functional import tiles
from pml_extras.losses import lifted_structure
from pml_extras.testing import Status, check_loss, promises
from tests.largest import Largest
from tests.old_torch import one_graph

TILED = {
    "NTXentLoss": losses.NTXentLoss,
    "TupletMarginLoss": losses.TupletMarginLoss,
    "LiftedStructureLoss": losses.LiftedStructureLoss,
    "GeneralizedLiftedStructureLoss": losses.GeneralizedLiftedStructureLoss,
    "SmoothAPLoss": losses.SmoothAPLoss,
    "PNPLoss": losses.PNPLoss,
}
RANKINGS = ("SmoothAPLoss", "PNPLoss")


def by_pairs(**given):
    return losses.BinomialDevianceLoss(per_anchor=False, **given)


ALL = {
    **TILED,
    "SignalToNoiseRatioContrastiveLoss": losses.SignalToNoiseRatioContrastiveLoss,
    "BinomialDevianceLoss": losses.BinomialDevianceLoss,
    "BinomialDevianceLoss by pairs": by_pairs,
}
EVERY = pytest.mark.parametrize("name", ALL)


def equal(a, b):
    return a[:, None] == b


def ready(relation, _):
    return relation


def overlap(a, b):
    return a.float() @ b.float().T > 0


def batch(num=40, size=6, seed=0):
    """Rows, and targets of three labels, any number of which a row may have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, size, dtype=torch.float64, generator=generator).requires_grad_()
    return x, torch.rand(num, 3, generator=generator) < 0.3


def asymmetric(num, num_ref):
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(-1, 2, (num, num_ref), generator=generator)
    return drawn.to(torch.int8)


def value_and_gradient(loss, x, *given):
    value = loss(x, *given)
    return value.detach(), *torch.autograd.grad(value, x)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("with_ref", [False, True])
@EVERY
def test_equality_gives_what_classes_give(name, with_ref, tile):
    if with_ref and name in RANKINGS:
        pytest.skip("it takes no references")
    x, _ = batch(60)
    y = torch.arange(60) % 9
    ref, ref_y = batch(45, seed=1)[0].detach(), torch.arange(45) % 11
    given = [y, None, ref, ref_y] if with_ref else [y]
    options = {"tile": tile} if name in TILED else {}
    results = [
        value_and_gradient(ALL[name](match_fn=fn, **options), x, *given) for fn in (None, equal)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)
    assert results[0][0] > 1e-3


@EVERY
def test_a_shared_label_is_enough_whatever_the_labels_are_given_as(name):
    x, targets = batch()
    table = overlap(targets, targets)
    where = torch.arange(len(x))
    results = [
        value_and_gradient(ALL[name](match_fn=fn), x, labels)
        for fn, labels in (
            (overlap, targets),
            (ready, table),
            (lambda i, j: table[i][:, j], where),
        )
    ]
    assert results[0][0] > 1e-3
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@EVERY
def test_a_row_is_no_negative_of_itself_where_it_has_no_label(name):
    x, targets = batch()
    table = overlap(targets, targets)
    assert not table.diagonal().all()
    with_self = table.clone().fill_diagonal_(True)
    values = [ALL[name](match_fn=ready)(x, given) for given in (table, with_self)]
    assert torch.equal(*values)


@EVERY
def test_references_that_are_the_batch_under_other_labels_are_references(name):
    x, _ = batch(8)
    y, other = torch.arange(8) % 2, torch.arange(8) // 4
    loss = ALL[name](match_fn=equal)
    if name in RANKINGS:
        with pytest.raises(ValueError, match=r"^ref_emb: expected None"):
            loss(x, y, None, x, other)
        return
    expected = loss(x, y, None, x.detach().clone(), other)
    torch.testing.assert_close(loss(x, y, None, x, other), expected)


@pytest.mark.parametrize("elements", [41, 2**19])
@EVERY
def test_backward_has_the_relation_of_the_forward_pass_and_the_relation_is_not_written_to(
    name, elements
):
    x, _ = batch()
    table = asymmetric(40, 40)
    grads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_ELEMENTS, "cpu", elements)
        patch.setattr(lifted_structure, "_MANY_ELEMENTS", 1)
        for changed in (False, True):
            given, loss = table.clone(), ALL[name](match_fn=ready)
            value = loss(x, given)
            assert torch.equal(given, table)
            if changed:
                given.zero_()
                loss.match_fn = None
            grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 1e-6


@pytest.mark.parametrize("name", [n for n in ALL if n not in RANKINGS])
def test_backward_has_the_labels_of_references_that_the_forward_pass_had(name):
    x, ref = batch()[0], batch(30, seed=1)[0].detach()
    grads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_ELEMENTS, "cpu", 41)
        patch.setattr(lifted_structure, "_MANY_ELEMENTS", 1)
        for changed in (False, True):
            ref_y = torch.arange(30) % 4
            value = ALL[name](match_fn=equal)(x, torch.arange(40) % 5, None, ref, ref_y)
            if changed:
                ref_y.zero_()
            grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("with_ref", [False, True])
@pytest.mark.parametrize("name", TILED)
def test_some_rows_of_the_relation_and_of_the_matrix_exist_at_a_time(name, with_ref):
    if with_ref and name in RANKINGS:
        pytest.skip("it takes no references")
    x, _ = batch(300, size=4)
    y = torch.arange(300) // 2
    ref = batch(300, size=4, seed=1)[0] if with_ref else None
    asked = []

    def match_fn(a, b):
        asked.append(len(a))
        return equal(a, b)

    largest = Largest()
    with pytest.MonkeyPatch.context() as patch, largest:
        patch.setitem(tiles.TILE_ELEMENTS, "cpu", 5 * 300)
        loss = TILED[name](tile=5, match_fn=match_fn)
        given = (y, None, ref, y.clone()) if with_ref else (y,)
        loss(x, *given).backward()
    of_parts = 300 * 60 + 300 if with_ref and "Lifted" in name else 0
    assert max(asked) <= 5
    assert largest.elements <= max(5 * 300, of_parts, 4 * 600)


@EVERY
def test_it_keeps_the_promises_of_losses(name):
    report = check_loss(
        lambda: ALL[name](match_fn=equal),
        embedding_size=6,
        promises=promises(without=["memory", "two_processes", "compiles", "out_of_range"]),
    )
    report.raise_if_broken()
    assert report.status("class_names") is Status.KEPT


@one_graph
@pytest.mark.parametrize("with_ref", [False, True])
@EVERY
def test_a_compiled_graph_has_the_same_pairs(name, with_ref):
    if with_ref and name in RANKINGS:
        pytest.skip("it takes no references")
    torch._dynamo.reset()
    x, _ = batch(9)
    loss = ALL[name](match_fn=ready)
    table = asymmetric(9, 7 if with_ref else 9)
    given = (table, None, batch(7, seed=1)[0].detach(), table.T) if with_ref else (table,)
    expected = value_and_gradient(loss, x, *given)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(value_and_gradient(compiled, x, *given), expected)


def test_it_pickles_and_copies_with_a_function_that_does():
    x, targets = batch()
    loss = losses.NTXentLoss(match_fn=overlap)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, targets), loss(x, targets))


@EVERY
def test_a_batch_without_a_pair_is_an_attached_zero(name):
    x, _ = batch(5)
    nothing = -torch.ones(5, 5, dtype=torch.int8)
    value, grad = value_and_gradient(ALL[name](match_fn=ready), x, nothing)
    assert value == 0
    assert (grad == 0).all()


@EVERY
def test_no_rows_and_no_references_are_an_attached_zero(name):
    x, targets = batch(4)
    loss = ALL[name](match_fn=overlap)
    calls = [(x[:0], targets[:0])]
    if name not in RANKINGS:
        calls += [(x, targets, None, torch.zeros(0, 6).double(), targets[:0])]
    for given in calls:
        value, grad = (
            value_and_gradient(loss, x, *given[1:])
            if len(given) > 2
            else (loss(*given).detach(), torch.autograd.grad(loss(*given), x)[0])
        )
        assert value == 0
        assert (grad == 0).all()


REFUSED = {
    "a list": (lambda a, b: [[True]], "to return (4, 4); got list"),
    "a vector": (lambda a, b: a == b, "to return (4, 4); got (4,)"),
    "what is soft": (lambda a, b: (a[:, None] == b).float(), "bool or integers; got torch.float32"),
    "two": (lambda a, b: 2 * (a[:, None] == b).int(), "to return 1, 0 and -1; got 0 to 2"),
    "minus two": (lambda a, b: -2 * (a[:, None] == b).int(), "1, 0 and -1; got -2 to 0"),
    "elsewhere": (lambda a, b: (a[:, None] == b).to("meta"), "a tensor on cpu, as labels are"),
}


@pytest.mark.parametrize("case", REFUSED)
@EVERY
def test_other_relations_are_refused(name, case):
    match_fn, words = REFUSED[case]
    with pytest.raises(ValueError, match=r"^match_fn: expected ") as error:
        ALL[name](match_fn=match_fn)(batch(4)[0], torch.tensor([0, 0, 1, 1]))
    assert words in str(error.value)


@EVERY
def test_what_is_no_callable_and_a_tuple_beside_it_are_refused(name):
    with pytest.raises(ValueError, match=r"^match_fn: expected None or a callable .*; got Tensor"):
        ALL[name](match_fn=torch.eye(3))
    x, y = batch(4)[0], torch.tensor([0, 0, 1, 1])
    pairs = torch.tensor([0]), torch.tensor([1]), torch.tensor([2])
    with pytest.raises(ValueError, match=r"^indices_tuple: expected None beside `match_fn`"):
        ALL[name](match_fn=equal)(x, y, pairs)


@EVERY
def test_labels_are_one_a_row_and_classes_without_a_relation(name):
    x, targets = batch(4)
    with pytest.raises(ValueError, match="labels must be a 1D tensor"):
        ALL[name]()(x, targets)
    for wrong, came in ((targets[:3], r"\(3, 3\)"), (torch.tensor(0), r"\(\)")):
        with pytest.raises(ValueError, match=rf"^labels: expected a tensor of 4 .*; got {came}"):
            ALL[name](match_fn=overlap)(x, wrong)
    with pytest.raises(ValueError, match=r"^ref_labels: expected a tensor of 4 labels"):
        ALL[name](match_fn=overlap)(x, targets, None, x.detach(), targets[:2])
    with pytest.raises(ValueError, match=r"^labels: expected"):
        ALL[name](match_fn=overlap)(x)


def test_angles_that_are_recorded_are_of_the_relation():
    x, _ = batch(6)
    table = asymmetric(6, 6)
    loss = losses.TupletMarginLoss(match_fn=ready, collect_stats=True)
    loss(x, table)
    angle = distances.CosineSimilarity()(x).clamp(-1, 1).acos().rad2deg()
    others = ~torch.eye(6, dtype=torch.bool)
    expected = (
        angle[(table == 1) & others].mean().item(),
        angle[(table == 0) & others].mean().item(),
    )
    assert (loss.avg_pos_angle, loss.avg_neg_angle) == pytest.approx(expected)
