"""The record of pml's own tests, the page that is made of it, and the runner."""

import pytest
from pytorch_metric_learning import losses

from tests.pml_suite.departures import DEPARTURES
from tests.pml_suite.replacements import names_in, replacements
from tests.pml_suite.run import session
from tests.pml_suite.table import PAGE, page, records, verdict

of_this_version = pytest.mark.skipif(
    not hasattr(losses, "SmoothAPLoss"), reason="the record is of pml 2.9, which has one loss more"
)
IS_OURS = """\
import unittest

from pytorch_metric_learning import losses
from pytorch_metric_learning.losses import SmoothAPLoss


class TestPlaces(unittest.TestCase):
    def test_ours(self):
        self.assertTrue(losses.SmoothAPLoss is SmoothAPLoss)
        self.assertTrue(SmoothAPLoss.__module__.startswith("pml_extras"))
"""


def recorded():
    """Every test of the record, and what became of it."""
    return {test: sides for file in records()[1] for test, sides in file["tests"].items()}


def test_the_page_is_what_the_record_gives():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.pml_suite.table"


def test_no_test_of_pml_fails_but_by_departure():
    assert {test for test, sides in recorded().items() if verdict(test, sides) == "failed"} == set()


def test_every_departure_happened():
    departed = {test for test, sides in recorded().items() if verdict(test, sides) == "departed"}
    assert departed == set(DEPARTURES)


@of_this_version
def test_every_class_that_replaces_one_of_pml_was_tried():
    replaced = {value.__name__ for value in replacements()}
    assert {"LiftedStructureLoss", "CrossBatchMemory", "DistributedMinerWrapper"} <= replaced
    assert replaced == {name for file in records()[1] for name in file["replaced"]}


TEST, DEPARTURE = next(iter(DEPARTURES.items()))
PASSED = {"outcome": "passed"}
AS_WRITTEN = {"outcome": "failed", "where": DEPARTURE.where, "raised": ""}
OTHERWISE = {"outcome": "failed", "where": "", "raised": "IndexError"}


@pytest.mark.parametrize(
    ("test", "sides", "expected"),
    [
        (TEST, {"ours": PASSED}, "passed"),
        (TEST, {"ours": AS_WRITTEN, "undone": PASSED}, "departed"),
        (TEST, {"ours": AS_WRITTEN, "undone": AS_WRITTEN}, "failed"),
        (TEST, {"ours": AS_WRITTEN}, "failed"),
        (TEST, {"ours": OTHERWISE, "undone": PASSED}, "failed"),
        ("another", {"ours": AS_WRITTEN, "undone": PASSED}, "failed"),
    ],
)
def test_a_failure_departs_only_for_the_reason_written_and_for_no_other(test, sides, expected):
    assert verdict(test, sides) == expected


@of_this_version
def test_tests_of_a_folder_import_ours_instead_of_pml(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "losses").mkdir(parents=True)
    for package in (folder, folder / "losses"):
        (package / "__init__.py").touch()
    (folder / "losses" / "test_places.py").write_text(IS_OURS, encoding="utf-8")
    assert names_in(folder / "losses" / "test_places.py") == ["SmoothAPLoss"]
    name = "losses/test_places.py"
    outcomes = [session(folder, side, [name]) for side in ("pml", "ours")]
    assert [found[f"{name}::TestPlaces::test_ours"]["outcome"] for found in outcomes] == [
        "failed",
        "passed",
    ]
    assert losses.SmoothAPLoss.__module__.startswith("pytorch_metric_learning")  # not here
