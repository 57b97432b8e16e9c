"""The checker as a caller meets it: what it leaves alone, what it refuses, how it reads."""

import random

import numpy as np
import pytest
import torch

from pml_extras.testing import Status, check_loss, promises, registry
from pml_extras.testing.report import Outcome, Report
from tests.testing import broken_losses as losses


def test_the_state_of_the_caller_is_left_alone():
    torch.set_default_dtype(torch.float64)
    num_threads = torch.get_num_threads()
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
            assert torch.get_num_threads() == num_threads
            assert [draw() for draw in generators] == expected
    finally:
        torch.set_default_dtype(torch.float32)


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
    assert "nothing_to_compare: broken (one row)" in text
    assert "batch     float32 (1, 8), labels int64 [1]" in text
    assert "expected  value 0, attached to the graph" in text
    assert "came      0, cut from the graph" in text


def test_the_report_counts_promises_by_status_and_tells_what_each_means():
    report = check_loss(losses.HonestProxies, labels_index_classes=True, num_classes=5)
    first, *lines = str(report).splitlines()
    assert first == "HonestProxies: 13 kept, 2 refused, 4 not applicable"
    assert len(lines) == len(promises())
    assert all(meaning in line for line, meaning in zip(lines, promises().values(), strict=True))


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

            More than one line.
            """
            yield Outcome("", Status.BROKEN, came="a scowl")

        assert promises()["is_kind"] == "A loss is kind."
        assert check_loss(losses.Honest, promises=["is_kind"]).broken[0].promise == "is_kind"
    finally:
        registry.REGISTRY.pop("is_kind")


def test_a_promise_without_a_case_is_not_applicable():
    report = check_loss(losses.RefusesEverything, promises=["order"])
    assert report.status("order") is Status.NOT_APPLICABLE


def test_an_instance_in_place_of_a_factory_is_refused():
    with pytest.raises(TypeError, match=r"factory: expected a class .*Honest'>. Pass `lambda"):
        check_loss(losses.Honest())


def test_a_factory_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"factory: expected to make a torch\.nn\.Module; got"):
        check_loss(dict)


def test_an_unknown_promise_is_refused_with_the_list_of_those_known():
    with pytest.raises(ValueError, match=r"promises: expected names among plain, order,.*'ordr'"):
        check_loss(losses.Honest, promises=["ordr"])


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
