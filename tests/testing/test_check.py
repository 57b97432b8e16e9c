"""The checker as a caller meets it: what it leaves alone, what it refuses, how it reads."""

import json
import random

import numpy as np
import pytest
import torch

from pml_extras.testing import Status, check_loss, promises, registry, table
from pml_extras.testing.report import Outcome, Report
from tests.testing import broken_losses as losses


def test_the_state_of_the_caller_is_left_alone():
    torch.set_default_dtype(torch.float64)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    generators = (
        lambda: torch.rand(3).tolist(),
        lambda: np.random.rand(3).tolist(),  # noqa: NPY002
        lambda: random.random(),
    )
    try:
        with torch.no_grad():
            torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
            expected = [draw() for draw in generators]
            torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
            check_loss(losses.SwitchesGradientsOff)
            assert not torch.is_grad_enabled()
            assert torch.get_default_dtype() is torch.float64
            assert torch.get_num_threads() == 2
            assert [draw() for draw in generators] == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(num_threads)


def test_the_state_of_the_caller_does_not_change_the_outcome():
    expected = check_loss(losses.HonestProxies, labels_index_classes=True, num_classes=5)
    torch.manual_seed(99)
    with torch.no_grad():
        actual = check_loss(losses.HonestProxies, labels_index_classes=True, num_classes=5)
    assert actual == expected


def test_every_instance_is_in_eval_mode():
    modes = []

    class Remembers(losses.Honest):
        def spoilt(self, value, x, labels):
            modes.append(self.training)
            return value

    check_loss(Remembers)
    assert modes
    assert not any(modes)


def test_only_the_promises_asked_for_are_run_in_the_order_of_the_registry():
    report = check_loss(losses.ReadsTheNames, promises=["order", "plain"])
    assert list(report.meanings) == ["plain", "order"]
    report.raise_if_broken()


def test_a_broken_promise_raises_with_batch_expectation_and_outcome():
    report = check_loss(losses.CutsTheGraph)
    with pytest.raises(AssertionError) as raised:
        report.raise_if_broken()
    text = str(raised.value)
    assert "BROKEN" in text
    assert "nothing_to_compare: broken (no rows)" in text
    assert "also      one row" in text
    assert "batch     float32 (0, 8), labels int64 []" in text
    assert "expected  value 0, attached to the graph" in text
    assert "came      0, cut from the graph" in text


def test_the_report_counts_promises_by_status_and_tells_what_each_means():
    report = check_loss(losses.HonestProxies, labels_index_classes=True, num_classes=5)
    first, *lines = str(report).splitlines()
    assert first == "HonestProxies: 17 kept, 2 refused, 4 not applicable"
    told = " ".join(" ".join(lines).split())
    for name, meaning in promises().items():
        assert f" {name} {meaning}" in told
    marks = [line[:10].strip() for line in lines if line[:10].strip()]
    assert {mark: marks.count(mark) for mark in marks} == {"kept": 17, "refused": 2, "n/a": 4}


def test_cases_that_broke_alike_are_told_once():
    report = check_loss(losses.AnnouncesAnotherKey, promises="sub_loss_names")
    assert len(report.broken) > 3
    text = " ".join(str(report).split())
    assert text.count("came keys ['loss']") == 1
    first, *others = (outcome.case for outcome in report.broken)
    assert f"broken ({first})" in text
    assert f" also {'; '.join(others)} usual fix" in text
    assert str(check_loss(losses.IgnoresReferences, promises="ref_emb")).count("came ") == 2


def test_the_report_fits_a_terminal():
    report = check_loss(losses.DetachesATerm)
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 100
    (first,) = (i for i, line in enumerate(lines) if line.startswith("    usual fix "))
    fix = registry.REGISTRY["gradient"].fix
    assert " ".join(" ".join(lines[first:]).split()) == f"usual fix {fix}"


def test_the_status_of_a_promise_is_that_of_its_worst_case():
    outcomes = [Outcome("order", status) for status in (Status.KEPT, Status.BROKEN, Status.REFUSED)]
    assert Report("", {"order": ""}, tuple(outcomes)).status("order") is Status.BROKEN
    assert Report("", {"order": ""}, tuple(outcomes[::2])).status("order") is Status.REFUSED


def test_a_promise_that_was_not_run_has_no_status():
    report = check_loss(losses.Honest, promises=["order"])
    with pytest.raises(ValueError, match="promise: expected one of order; got 'plain'"):
        report.status("plain")


def test_a_function_under_the_decorator_is_all_that_a_new_promise_takes():
    try:

        @registry.promise
        def is_kind(subject):
            """A loss is kind.

            Let it smile,
            and more than once.
            """
            yield Outcome("", Status.BROKEN, came="a scowl")

        assert promises()["is_kind"] == "A loss is kind."
        report = check_loss(losses.Honest, promises=["is_kind"])
        assert report.broken[0].promise == "is_kind"
        assert str(report).splitlines()[-1] == "    usual fix Let it smile, and more than once."
    finally:
        registry.REGISTRY.pop("is_kind")


def test_a_promise_without_a_case_is_not_applicable():
    report = check_loss(losses.RefusesEverything, promises=["order"])
    assert report.status("order") is Status.NOT_APPLICABLE


def test_an_instance_in_place_of_a_factory_is_refused():
    with pytest.raises(TypeError, match=r"factory: expected a class .*Honest'>. Pass `lambda"):
        check_loss(losses.Honest())


def test_a_factory_that_needs_arguments_is_refused_with_the_way_out():
    class Sized(losses.Honest):
        def __init__(self, size):
            super().__init__()

    with pytest.raises(TypeError, match=r"factory: .* 'size'. Give them: `lambda \*\*kwargs"):
        check_loss(Sized)

    def fails():
        return 1 + "1"

    with pytest.raises(TypeError, match=r"^unsupported operand"):
        check_loss(fails)


def test_a_factory_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"factory: expected to make a torch\.nn\.Module; got"):
        check_loss(dict)


@pytest.mark.parametrize("argument", ["promises", "without"])
def test_an_unknown_promise_is_refused_with_those_known_and_a_guess(argument):
    ask = {
        "promises": lambda names: check_loss(losses.Honest, promises=names),
        "without": lambda names: promises(without=names),
    }[argument]
    listed = rf"{argument}: expected names among plain, order,.*got 'ordr'. Did you mean 'order'\?"
    for names in ("ordr", ["plain", "ordr"]):
        with pytest.raises(ValueError, match=listed):
            ask(names)
    with pytest.raises(ValueError, match=r"got 'kindness'\.$"):
        ask(["kindness"])


@pytest.mark.parametrize("argument", ["out_of_range", "cost_only"])
def test_a_hyper_parameter_that_the_loss_does_not_have_is_refused_and_not_called_broken(argument):
    listed = f"{argument}: expected arguments of the loss; got 'num_clases'. Pass arguments on"
    for loss in (losses.HonestProxies, losses.Honest):  # the second hands them on to pml's base
        with pytest.raises(ValueError, match=listed):
            check_loss(loss, promises="plain", **{argument: {"num_clases": [0]}})


def test_a_constructor_that_raises_a_type_error_of_its_own_is_judged_by_the_promise():
    class WantsAnInteger(losses.Honest):
        def __init__(self, size=1):
            super().__init__()
            if not isinstance(size, int):
                raise TypeError("size")

    report = check_loss(WantsAnInteger, promises="out_of_range", out_of_range={"size": "1"})
    assert report.status("out_of_range") is Status.BROKEN


def test_extra_promises_are_run_where_they_are_asked_for_alone():
    usual, every = promises(), promises(extra=True)
    assert usual.keys() < every.keys()
    assert list(check_loss(losses.Honest).meanings) == list(usual)
    assert promises(extra=True, without="order").keys() == every.keys() - {"order"}


@pytest.mark.parametrize("promise", promises(without=["out_of_range"]))
def test_one_parametrised_line_is_a_test_for_each_promise(promise):
    report = check_loss(losses.Honest, promises=[promise])
    assert list(report.meanings) == [promise]
    report.raise_if_broken()


def test_every_promise_says_what_mends_a_loss_in_a_sentence():
    for entry in registry.REGISTRY.values():
        assert entry.meaning.endswith(".")
        assert entry.fix.endswith(".")
        assert "|" not in entry.meaning + entry.fix  # they are cells of a table


def test_the_records_of_a_report_are_its_outcomes_as_strings():
    report = check_loss(losses.CutsTheGraph, promises=["plain", "nothing_to_compare"])
    records = json.loads(json.dumps(report.records()))
    assert len(records) == len(report.outcomes)
    assert {record["loss"] for record in records} == {"CutsTheGraph"}
    (broken,) = (record for record in records if record["case"] == "one row")
    assert broken["promise"] == "nothing_to_compare"
    assert broken["status"] == "broken"
    assert broken["came"].startswith("0, cut from the graph")
    assert broken["batch"].startswith("float32 (1, 8)")
    assert broken["expected"].startswith("value 0")


def test_a_table_has_a_line_for_each_loss_and_counts_what_broke():
    chosen = ["order", "label_range"]
    broken = check_loss(losses.FavoursTheFirstRow, promises=chosen)
    whole = check_loss(losses.Honest, promises=chosen)
    assert table([broken, whole]).splitlines() == [
        "| Loss | order | label_range |",
        "| --- | --- | --- |",
        "| `FavoursTheFirstRow` | **BROKEN** |  |",
        "| `Honest` | kept |  |",
        "| broken by | 1 | 0 |",
    ]
    with pytest.raises(ValueError, match="reports: expected the same promises in each"):
        table([broken, check_loss(losses.Honest, promises="order")])


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels_index_classes": True},
        {"num_classes": 5},
        {"labels_index_classes": True, "num_classes": 1},
    ],
)
def test_classes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="num_classes: expected"):
        check_loss(losses.HonestProxies, **arguments)
