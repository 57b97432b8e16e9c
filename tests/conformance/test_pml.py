"""What the checker says of pml's own losses: known defects are found, sound losses are not accused.

The facts are those of pml 2.9.0; another version may have mended or broken something.
"""

import inspect
from importlib.metadata import version

import pytest
from pytorch_metric_learning import losses

from pml_extras.testing import Status, promises, table
from tests.conformance.pml_catalogue import CATALOGUE, LEFT_OUT
from tests.conformance.pml_table import (
    INTRODUCTION,
    NOTES,
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

CUBIC = (
    "LiftedStructureLoss",
    "MarginLoss",
    "NTXentLoss",
    "PNPLoss",
    "SmoothAPLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
)

LISTS_HALF_ROWS = (  # LpDistance in float16: (B, B, D)
    "ContrastiveLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "MarginLoss",
    "NCALoss",
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
    ("ArcFaceLoss", "label_range", "uneven classes, one label 5", "Error"),
    *((name, "memory", "twice as many rows", " times: ") for name in CUBIC),
    *((name, "memory", "rows 4 times as long, float16", " copies: ") for name in LISTS_HALF_ROWS),
    ("SignalToNoiseRatioContrastiveLoss", "memory", "rows 4 times as long, float32", " copies: "),
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
    ("ProxyAnchorLoss", "label_types", "uint8", "RuntimeError"),
    ("ArcFaceLoss", "label_types", "float32", "IndexError"),
]


@of_this_version
@pytest.mark.parametrize(("loss", "promise", "case", "came"), DEFECTS)
def test_a_known_defect_is_found(loss, promise, case, came):
    found = [o for o in reports()[loss].broken if o.promise == promise and case in o.case]
    assert any(came in outcome.came for outcome in found)


@of_this_version
def test_a_sound_loss_is_not_accused():
    reports()["SupConLoss"].raise_if_broken()


@of_this_version
@pytest.mark.parametrize("loss", ["IntraPairVarianceLoss", "MultiSimilarityLoss"])
def test_a_sound_loss_on_a_distance_that_is_not_is_accused_of_that_alone(loss):
    """pml's distances divide by 1e-12 at least, which is 0 in float16."""
    for outcome in reports()[loss].broken:
        assert outcome.promise == "half_degenerate"
        assert outcome.case in ("all rows zero, float16", "one row zero, float16")
        assert outcome.came == "value nan"


def test_every_loss_of_pml_accepts_a_plain_batch():
    assert {report.status("plain") for report in reports().values()} <= {
        Status.KEPT,
        Status.REFUSED,  # SmoothAPLoss wants as many rows of each class
    }


def test_every_class_of_pml_is_checked_or_left_out_for_a_reason():
    public = {name for name, value in vars(losses).items() if inspect.isclass(value)}
    assert CATALOGUE.keys() | LEFT_OUT.keys() == public


def test_infinity_times_zero_is_found_where_there_is_nothing_to_compare():
    report = CATALOGUE["ContrastiveLoss"].report(promises="infinite_rows")
    assert [outcome.came for outcome in report.broken] == ["value nan"]


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


def test_the_page_tells_what_every_promise_means_and_how_it_is_used():
    text = PAGE.read_text(encoding="utf-8")
    for part in (INTRODUCTION, promise_table(), NOTES, RESULTS):
        assert part in text


def test_the_page_is_current_but_for_what_takes_minutes():
    text = PAGE.read_text(encoding="utf-8")
    if versions() not in text:
        pytest.skip(f"the page was not made with {versions()}")
    shown, usual = cells(text), promises(without="out_of_range")
    for loss, line in cells(table(reports().values())).items():
        assert {name: shown[loss][name] for name in usual} == line
    listed = [
        line
        for line in text.partition("## What broke")[2].splitlines()
        if line.startswith("- ") and line.split("`")[1] in usual
    ]
    lines = [line for name, report in reports().items() for line in findings(name, report)]
    assert listed == [line for line in lines if line.startswith("- ")]


def cells(text):
    """Loss -> promise -> mark, of the table in a text."""
    lines = text[text.index("| Loss |") :].partition("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
