"""Each promise finds the loss that breaks it, and none accuses a loss that keeps them all."""

import re

import pytest

from pml_extras.testing import Status, check_loss, promises
from tests.testing import broken_at_scale as scale
from tests.testing import broken_losses as losses

PROXIES = {"labels_index_classes": True, "num_classes": 5}
BAD_NUMBER = {"out_of_range": {"num_classes": 0}}
TILES = {"cost_only": {"tile": (10, 4)}}

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
    (scale.DropsWhatIsNoNumber, "overflow", {}),
    (scale.CountsNoNumber, "overflow", {}),
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
    (scale.OverflowsWhereARowIsZero, "half_degenerate", {}),
    (scale.ListsTriplets, "memory", {}),
    (scale.SubtractsEachRowFromEach, "memory", {}),
    (scale.SubtractsInHalf, "memory", {}),
    (scale.DoublesForALeaf, "chunks", {}),
    (scale.CountsFromTheTile, "chunks", TILES),
    (scale.DetachesInTiles, "chunks", TILES),
]

# An honest loss in pairs with some that break the promise.
EXTRA = [
    ("infinite_rows", scale.SkipsWithoutPairs, [losses.Honest]),
    (
        "two_processes",
        scale.Learns,
        [scale.ScalesByItsRank, scale.PullsByItsRank, scale.LearnsByItsRank],
    ),
    ("compiles", scale.CompilesInOneGraph, [scale.ReadsANumber, scale.DetachesInAGraph]),
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
    extra = {promise for promise, _, _ in EXTRA}
    assert extra == promises(extra=True).keys() - promises().keys()


@pytest.mark.parametrize(("promise", "honest", "broken"), EXTRA, ids=[name for name, _, _ in EXTRA])
def test_an_extra_promise_tells_broken_losses_from_an_honest_one(promise, honest, broken):
    assert check_loss(honest, promises=promise).status(promise) is Status.KEPT
    for loss in broken:
        assert check_loss(loss, promises=promise).status(promise) is Status.BROKEN
        check_loss(loss).raise_if_broken()


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (losses.Honest, {}),
        (losses.HonestAnchors, {}),
        (scale.SkipsWithoutPairs, {}),
        (scale.CompilesInOneGraph, {}),
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


def test_a_second_call_with_another_gradient_is_found():
    class PullsHarder(losses.Honest):
        calls = 0

        def spoilt(self, value, x, labels):
            self.calls += 1
            return value + self.calls * (value - value.detach())

    (outcome,) = check_loss(PullsHarder, promises="repeatable").broken
    assert outcome.case == "uneven classes, called again"


def test_draws_excuse_no_other_disturbance():
    report = check_loss(losses.SwitchesGradientsOff, promises="global_state", stochastic=True)
    assert [outcome.came for outcome in report.broken] == ["another grad mode"]


def test_another_error_than_value_error_for_a_label_out_of_range_is_no_refusal():
    class Gathers(losses.HonestProxies):
        def targets(self, labels):
            if labels.max() >= len(self.proxies) or labels.min() < 0:
                raise IndexError("index out of bounds")
            return labels

    report = check_loss(Gathers, promises=["label_range"], **PROXIES)
    assert report.status("label_range") is Status.BROKEN
    assert {o.came for o in report.broken} == {"IndexError: index out of bounds"}


def test_what_breaks_is_told_in_numbers():
    def came(loss, promise, **arguments):
        return check_loss(loss, promises=promise, **arguments).broken[-1].came

    number = r"-?\d[\d.e+-]*"
    mismatch = rf"respect to embeddings, numerical:.*{number}.*analytical:.*{number}"
    assert re.search(mismatch, came(losses.DetachesATerm, "gradient"))
    other = rf"^the value, another gradient of embeddings \(by {number}\)$"
    assert re.search(other, came(scale.DetachesInTiles, "chunks", **TILES))
    hidden = rf"^value {number}, over gradients that are not finite$"
    assert re.search(hidden, came(scale.DropsWhatIsNoNumber, "overflow"))


def test_an_error_under_the_derivative_is_told_as_it_is():
    class WantsParameters(losses.HonestProxies):
        def held_in(self, dtype):
            if not isinstance(self.proxies, losses.nn.Parameter):
                raise IndexError("proxies")
            return super().held_in(dtype)

    report = check_loss(WantsParameters, promises="gradient", **PROXIES)
    assert [outcome.came for outcome in report.broken] == ["IndexError: proxies"]


def test_a_refusal_in_processes_is_told_apart_from_another_value():
    report = check_loss(scale.RefusesInProcesses, promises="two_processes")
    assert report.status("two_processes") is Status.REFUSED


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (losses.DeclaresThatItDraws, "stochastic or stateful"),
        (losses.HoldsALambda, "cannot be sent to a process"),
        (scale.CompilesInOneGraph, "losses on pml's base class alone"),
    ],
)
def test_two_processes_do_not_apply_to_a_loss_that_cannot_be_compared_there(loss, reason):
    (outcome,) = check_loss(loss, promises="two_processes").outcomes
    assert outcome.status is Status.NOT_APPLICABLE
    assert reason in outcome.case


def test_a_loss_that_refuses_a_batch_of_that_size_makes_no_promise_of_memory():
    class Small(losses.Honest):
        def spoilt(self, value, x, labels):
            if len(x) > 20:
                raise ValueError("embeddings: expected at most 20 rows")
            return value

    assert check_loss(Small, promises="memory").status("memory") is Status.REFUSED


def test_memory_counts_what_is_held_at_once_and_not_what_was_freed():
    class Passing(losses.Honest):
        def spoilt(self, value, x, labels):
            for row in x.detach():  # (B, B) at a time
                (x.detach() @ x.detach().T) * row.sum()
            return value

    def held(loss):
        (growth, *_) = check_loss(loss, promises="memory").of("memory")
        return int(growth.came.rpartition(": ")[2].removesuffix(" bytes").replace(",", ""))

    assert held(Passing) < 1.5 * held(losses.Honest)
    assert held(losses.Honest) > 4 * 128 * 128


def test_a_loss_without_labels_is_called_without_them():
    class Uniformity(losses.nn.Module):
        def forward(self, x, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
            if indices_tuple is not None or ref_emb is not None or labels is not None:
                raise ValueError("only embeddings are supported")
            unit = losses.direction(x)
            gram = unit @ unit.T
            return (gram.square().sum() - gram.diagonal().square().sum()) / max(1, len(x))

    report = check_loss(Uniformity, needs_labels=False)
    assert broken_promises(report) <= {"copies"}  # a class in a function cannot be pickled
    assert report.status("order") is Status.KEPT
    assert report.status("class_names") is Status.NOT_APPLICABLE
    assert report.status("label_types") is Status.NOT_APPLICABLE
