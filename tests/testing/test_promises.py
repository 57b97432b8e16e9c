"""Each promise finds the loss that breaks it, and none accuses a loss that keeps them all."""

import pytest

from pml_extras.testing import Status, check_loss, promises
from tests.testing import broken_losses as losses

PROXIES = {"labels_index_classes": True, "num_classes": 5}
BAD_NUMBER = {"out_of_range": {"num_classes": 0}}

BREAKS = [
    (losses.RefusesEverything, "plain", {}),
    (losses.OverflowsInFloat32, "plain", {}),
    (losses.FavoursTheFirstRow, "order", {}),
    (losses.ReadsTheNames, "class_names", {}),
    (losses.CountsCalls, "repeatable", {}),
    (losses.DetachesATerm, "gradient", {}),
    (losses.CutsTheGraph, "nothing_to_compare", {}),
    (losses.PullsALonelyRow, "nothing_to_compare", {}),
    (losses.DividesByTheNorm, "degenerate", {}),
    (losses.TakesAnglesByArcCosine, "degenerate", {}),
    (losses.CrashesOnOneClass, "degenerate", {}),
    (losses.IgnoresReferences, "ref_emb", {}),
    (losses.IgnoresLabelsOfReferences, "ref_emb", {}),
    (losses.CrashesOnReferences, "ref_emb", {}),
    (losses.IgnoresTuples, "indices_tuple", {}),
    (losses.CrashesOnTriplets, "indices_tuple", {}),
    (losses.WantsInt64, "label_types", {}),
    (losses.AcceptsAnyLabel, "label_range", PROXIES),
    (losses.LacksBfloat16, "half_precision", {}),
    (losses.OverflowsInFloat16, "half_precision", {}),
    (losses.CastsItsProxies, "parameter_dtype", PROXIES),
    (losses.ScalesItsInput, "inputs_untouched", {}),
    (losses.RenamesItsLabels, "inputs_untouched", {}),
    (losses.DrawsAndForgets, "global_state", {}),
    (losses.SwitchesGradientsOff, "global_state", {}),
    (losses.HoldsALambda, "copies", {}),
    (losses.KeepsTheLastValue, "copies", {}),
    (losses.ForgetsItsScale, "copies", {}),
    (losses.AcceptsAnyConstruction, "out_of_range", PROXIES | BAD_NUMBER),
    (losses.RefusesWithoutAName, "out_of_range", PROXIES | BAD_NUMBER),
    (losses.AssertsItsArguments, "out_of_range", PROXIES | BAD_NUMBER),
    (losses.RecordsAnInverse, "records", {}),
    (losses.AnnouncesAnotherKey, "sub_loss_names", {}),
]


def broken_promises(report):
    return {outcome.promise for outcome in report.broken}


@pytest.mark.parametrize(
    ("loss", "promise", "arguments"), BREAKS, ids=[loss.__name__ for loss, _, _ in BREAKS]
)
def test_the_promise_that_is_broken_is_reported_and_no_other(loss, promise, arguments):
    assert broken_promises(check_loss(loss, **arguments)) == {promise}


def test_there_is_a_loss_for_every_promise():
    assert {promise for _, promise, _ in BREAKS} == set(promises())


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (losses.Honest, {}),
        (losses.HonestTriplets, {}),
        (losses.HonestProxies, PROXIES | BAD_NUMBER),
        (losses.DeclaresThatItCountsCalls, {}),
        (losses.DeclaresThatItDraws, {}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_that_are_right_are_not_accused(loss, arguments, seed):
    check_loss(loss, seed=seed, **arguments).raise_if_broken()


def test_a_loss_that_draws_without_saying_so_breaks_more_than_one_promise():
    report = check_loss(losses.DrawsFromTheSystem)
    assert {"repeatable", "order", "copies"} <= broken_promises(report)


def test_a_loss_that_returns_several_numbers_fails_on_a_plain_batch():
    assert "plain" in broken_promises(check_loss(losses.ReturnsAVector))


def test_what_a_loss_refuses_is_told_apart_from_what_it_keeps():
    report = check_loss(losses.HonestProxies, **PROXIES)
    assert report.status("ref_emb") is Status.REFUSED
    assert report.status("indices_tuple") is Status.REFUSED
    assert report.status("label_range") is Status.KEPT
    assert report.status("class_names") is Status.NOT_APPLICABLE


def test_declared_draws_and_states_replace_the_order_of_the_batch_by_repeatability():
    for loss in (losses.DeclaresThatItDraws, losses.DeclaresThatItCountsCalls):
        report = check_loss(loss, promises=["order", "repeatable"])
        assert report.status("order") is Status.NOT_APPLICABLE
        assert report.status("repeatable") is Status.KEPT


def test_declarations_may_be_arguments_of_the_check():
    assert not check_loss(losses.CountsCalls, stateful=True).broken
    assert not check_loss(losses.DrawsAndForgets, stochastic=True).broken


def test_another_error_than_value_error_for_a_label_out_of_range_is_kept_and_noted():
    class Gathers(losses.HonestProxies):
        def targets(self, labels):
            if labels.max() >= len(self.proxies) or labels.min() < 0:
                raise IndexError("index out of bounds")
            return labels

    report = check_loss(Gathers, promises=["label_range"], **PROXIES)
    assert report.status("label_range") is Status.KEPT
    assert {o.came for o in report.of("label_range")} == {"IndexError: index out of bounds"}


def test_a_loss_without_labels_is_called_without_them():
    class Uniformity(losses.nn.Module):
        def forward(self, x, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
            if indices_tuple is not None or ref_emb is not None or labels is not None:
                raise ValueError("only embeddings are supported")
            unit = losses.nn.functional.normalize(x)
            gram = unit @ unit.T
            return (gram.square().sum() - gram.diagonal().square().sum()) / max(1, len(x))

    report = check_loss(Uniformity, needs_labels=False)
    assert broken_promises(report) <= {"copies"}  # a class in a function cannot be pickled
    assert report.status("order") is Status.KEPT
    assert report.status("class_names") is Status.NOT_APPLICABLE
    assert report.status("label_types") is Status.NOT_APPLICABLE
