"""What the checker says of pml's own losses: known defects are found, sound losses are not accused.

The facts are those of pml 2.9.0; another version may have mended or broken something.
"""

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from pytorch_metric_learning import losses

from pml_extras.testing import Status
from tests.conformance.pml_catalogue import CATALOGUE, LEFT_OUT
from tests.conformance.pml_table import page, reports, versions

PAGE = Path(__file__).parents[2] / "docs" / "checker.md"

of_this_version = pytest.mark.skipif(
    version("pytorch-metric-learning") != "2.9.0", reason="the facts are those of pml 2.9.0"
)

DISTANCES_WITHOUT_BFLOAT16 = (
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "NCALoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "TripletMarginLoss",
)

DEFECTS = [
    ("SmoothAPLoss", "order", "balanced classes", "value"),
    ("SmoothAPLoss", "sub_loss_names", "balanced classes", "keys ['ap_loss']"),
    *(
        (name, "half_precision", "uneven classes, bfloat16", '"cdist" not implemented')
        for name in DISTANCES_WITHOUT_BFLOAT16
    ),
    ("PNPLoss", "half_precision", "uneven classes, float16", "gradient of embeddings not finite"),
    ("ProxyAnchorLoss", "parameter_dtype", "uneven classes, float16", "proxies float16"),
    ("ProxyNCALoss", "label_range", "uneven classes, one label 5", "value"),
    ("NCALoss", "degenerate", "all labels unique", "value nan"),
    ("HistogramLoss", "degenerate", "duplicate rows", "out of bounds"),
    ("TupletMarginLoss", "degenerate", "cosines exactly 1", "gradient of embeddings not finite"),
    ("P2SGradLoss", "degenerate", "one row zero", "value nan"),
    ("DynamicSoftMarginLoss", "copies", "deep copy of a used loss", "deepcopy protocol"),
    ("DynamicSoftMarginLoss", "repeatable", "called again", "backward through the graph a second"),
    ("ThresholdConsistentMarginLoss", "ref_emb", "more references than rows", "IndexError"),
    ("ThresholdConsistentMarginLoss", "ref_emb", "fewer references than rows", "the same value"),
    ("ArcFaceLoss", "nothing_to_compare", "no rows", "value nan"),
    ("ArcFaceLoss", "label_types", "int32", "RuntimeError"),
]


@of_this_version
@pytest.mark.parametrize(("loss", "promise", "case", "came"), DEFECTS)
def test_a_known_defect_is_found(loss, promise, case, came):
    found = [o for o in reports()[loss].broken if o.promise == promise and case in o.case]
    assert any(came in outcome.came for outcome in found)


@of_this_version
@pytest.mark.parametrize(
    "loss", ["IntraPairVarianceLoss", "MultiSimilarityLoss", "NTXentLoss", "SupConLoss"]
)
def test_a_sound_loss_is_not_accused(loss):
    reports()[loss].raise_if_broken()


def test_every_loss_of_pml_accepts_a_plain_batch():
    assert {report.status("plain") for report in reports().values()} <= {
        Status.KEPT,
        Status.REFUSED,  # SmoothAPLoss wants as many rows of each class
    }


def test_every_class_of_pml_is_checked_or_left_out_for_a_reason():
    public = {name for name, value in vars(losses).items() if inspect.isclass(value)}
    assert CATALOGUE.keys() | LEFT_OUT.keys() == public


def test_the_page_is_what_the_writer_writes():
    if versions() not in PAGE.read_text(encoding="utf-8"):
        pytest.skip(f"the page was not made with {versions()}")
    assert PAGE.read_text(encoding="utf-8") == page()
