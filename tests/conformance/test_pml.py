"""What the checker says of pml's own losses: known defects are found, sound losses are not accused.

The facts are those of pml 2.9.0; another version may have mended or broken something.
"""

import inspect
from importlib.metadata import version

import pytest
from pytorch_metric_learning import losses

from pml_extras.testing import Status, promises, table
from tests.conformance.catalogue import LOSSES
from tests.conformance.pml_catalogue import CATALOGUE, LEFT_OUT
from tests.conformance.pml_defects import BROKEN_BY, FINDINGS
from tests.conformance.pml_table import (
    INTRODUCTION,
    NOTES,
    OURS,
    PAGE,
    RESULTS,
    findings,
    promise_table,
    reports,
    versions,
)

of_this_version = pytest.mark.skipif(
    version("pytorch-metric-learning") != "2.9.0", reason="the facts are those of pml 2.9.0"
)


@of_this_version
@pytest.mark.parametrize("promise", BROKEN_BY)
def test_a_promise_is_broken_by_these_losses_and_no_other(promise):
    broken = {name for name, r in reports().items() if r.status(promise) is Status.BROKEN}
    assert broken == BROKEN_BY[promise]


@of_this_version
@pytest.mark.parametrize(("loss", "promise", "case", "came"), FINDINGS)
def test_a_known_defect_is_found(loss, promise, case, came):
    found = [o for o in reports()[loss].broken if o.promise == promise and case in o.case]
    assert any(came in outcome.came for outcome in found)


def test_the_facts_are_of_every_promise_that_takes_no_minutes():
    assert list(BROKEN_BY) == list(reports()["SupConLoss"].meanings)


def test_every_loss_of_pml_accepts_a_plain_batch():
    assert {report.status("plain") for report in reports().values()} <= {
        Status.KEPT,
        Status.REFUSED,  # SmoothAPLoss wants as many rows of each class
    }


def test_every_class_of_pml_is_checked_or_left_out_for_a_reason():
    public = {name for name, value in vars(losses).items() if inspect.isclass(value)}
    assert CATALOGUE.keys() | LEFT_OUT.keys() == public


@of_this_version
def test_the_page_shows_every_loss_and_every_promise():
    shown = cells(PAGE.read_text(encoding="utf-8"))
    columns = promises(extra=True, without="out_of_range").keys()
    assert shown.keys() == {*(f"`{name}`" for name in CATALOGUE), "broken by"}
    assert all(line.keys() == columns for line in shown.values())
    counts = shown.pop("broken by")
    for name in columns:
        marks = [line[name] for line in shown.values()]
        assert set(marks) <= {"kept", "refused", "**BROKEN**", ""}
        assert counts[name] == str(marks.count("**BROKEN**"))
        assert any(marks)


def test_the_page_shows_every_loss_of_ours_and_what_it_does_not_keep():
    shown = cells(PAGE.read_text(encoding="utf-8").partition(OURS)[2])
    del shown["broken by"]
    assert shown.keys() == {f"`{name}`" for name in LOSSES}
    assert all(line.keys() == promises(extra=True).keys() for line in shown.values())
    broken = {(loss, name) for loss, line in shown.items() for name in line if "BR" in line[name]}
    assert {pair for pair in broken if pair[1] != "infinite_rows"} == {
        ("`DelayedMemoryLoss`", "compiles"),
        ("`zabihzadeh_ensemble`", "compiles"),
        ("`zabihzadeh_ensemble`", "memory"),
    }


def test_the_page_tells_what_every_promise_means_and_how_it_is_used():
    text = PAGE.read_text(encoding="utf-8")
    for part in (INTRODUCTION, promise_table(), NOTES, RESULTS, OURS):
        assert part in text


def test_the_page_is_current_but_for_what_takes_minutes():
    text = PAGE.read_text(encoding="utf-8")
    if versions() not in text:
        pytest.skip(f"the page was not made with {versions()}")
    shown, quick = cells(text), list(BROKEN_BY)
    for loss, line in cells(table(reports().values())).items():
        assert {name: shown[loss][name] for name in quick} == line
    listed = [
        line
        for line in text.partition("## What broke")[2].splitlines()
        if line.startswith("- ") and line.split("`")[1] in quick
    ]
    lines = [line for name, report in reports().items() for line in findings(name, report)]
    assert listed == [line for line in lines if line.startswith("- ")]


def cells(text):
    """Loss -> promise -> mark, of the table in a text."""
    lines = text[text.index("| Loss |") :].partition("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
