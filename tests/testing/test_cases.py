"""Every case of a promise counts: a loss that fails in one alone is found, and by that case."""

import pytest
import torch

from pml_extras.testing import Status, check_loss
from pml_extras.testing.subject import Run
from pml_extras.testing.verdicts import differs_from
from tests.testing import broken_at_scale as scale
from tests.testing import broken_losses as losses

PROXIES = {"labels_index_classes": True, "num_classes": 5}


def autocast_to(dtype):
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is dtype


ALONE = [
    ("plain", "uneven classes, float64", lambda x, *_: len(x) == 10 and x.dtype is torch.float64),
    ("nothing_to_compare", "no rows", lambda x, *_: len(x) == 0),
    ("nothing_to_compare", "one row", lambda x, *_: len(x) == 1),
    ("overflow", "uneven classes, one entry inf", lambda x, *_: x.isinf().any()),
    ("overflow", "uneven classes, one entry nan", lambda x, *_: x.isnan().any()),
    ("indices_tuple", "pairs", lambda x, y, listed, ref: len(listed or ()) == 4),
    (
        "indices_tuple",
        "no pairs",
        lambda x, y, listed, ref: len(listed or ()) == 4 and len(listed[0]) == 0,
    ),
    (
        "indices_tuple",
        "no triplets",
        lambda x, y, listed, ref: len(listed or ()) == 3 and len(listed[0]) == 0,
    ),
    (
        "ref_emb",
        "more references than rows",
        lambda x, y, listed, ref: ref is not None and len(ref) > len(x),
    ),
    (
        "ref_emb",
        "fewer references than rows",
        lambda x, y, listed, ref: ref is not None and len(ref) < len(x),
    ),
    ("label_types", "uneven classes, int32", lambda x, y, *_: y.dtype is torch.int32),
    ("label_types", "uneven classes, uint8", lambda x, y, *_: y.dtype is torch.uint8),
    ("label_types", "uneven classes, float32", lambda x, y, *_: y.dtype is torch.float32),
    (
        "half_precision",
        "uneven classes, float32 in autocast to bfloat16",
        lambda x, *_: x.dtype is torch.float32 and autocast_to(torch.bfloat16),
    ),
    (
        "half_precision",
        "uneven classes, float16 in autocast to float16",
        lambda x, *_: x.dtype is torch.float16 and autocast_to(torch.float16),
    ),
    (
        "half_degenerate",
        "no rows, bfloat16",
        lambda x, *_: len(x) == 0 and x.dtype is torch.bfloat16 and not autocast_to(torch.bfloat16),
    ),
    (
        "half_degenerate",
        "one row, float32 in autocast to float16",
        lambda x, *_: len(x) == 1 and x.dtype is torch.float32 and autocast_to(torch.float16),
    ),
]


@pytest.mark.parametrize(("promise", "case", "fails"), ALONE, ids=[case for _, case, _ in ALONE])
def test_a_loss_that_fails_in_one_case_is_found_by_it(promise, case, fails):
    class FailsThere(losses.Honest):
        def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
            if fails(x, labels, indices_tuple, ref_emb):
                raise IndexError("there")
            return super().forward(x, labels, indices_tuple, ref_emb, ref_labels)

    report = check_loss(FailsThere, promises=promise)
    assert [(outcome.case, outcome.came) for outcome in report.broken] == [
        (case, "IndexError: there")
    ]


@pytest.mark.parametrize("outside", [5, -1])
def test_one_label_that_is_out_of_range_is_enough(outside):
    class Accepts(losses.HonestProxies):
        def targets(self, labels):
            return super().targets(torch.where(labels == outside, 0, labels))

    (outcome,) = check_loss(Accepts, promises="label_range", **PROXIES).broken
    assert outcome.case == f"uneven classes, one label {outside}"


def test_a_lonely_row_beside_parameters_must_be_finite():
    class Divides(losses.HonestProxies):
        def forward(self, x, labels, *others):
            return super().forward(x, labels, *others) / (len(x) != 1)

    (outcome,) = check_loss(Divides, promises="nothing_to_compare", **PROXIES).broken
    assert outcome.case == "one row, compared with parameters"


@pytest.mark.parametrize("argument", ["ref_emb", "indices_tuple"])
def test_what_else_is_given_must_be_left_as_it_was(argument):
    class Overwrites(losses.Honest):
        def forward(self, x, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
            value = super().forward(x, labels, indices_tuple, ref_emb, ref_labels)
            if argument == "ref_emb" and ref_emb is not None:
                ref_emb += 1
            if argument == "indices_tuple" and indices_tuple is not None:
                indices_tuple[0].zero_()
            return value

    (outcome,) = check_loss(Overwrites, promises="inputs_untouched").broken
    assert outcome.came == f"another {argument}"


def test_a_loss_that_can_be_copied_after_use_alone_is_found():
    class Lazy(losses.Honest):
        def spoilt(self, value, x, labels):
            self.used = True
            return value

        def __deepcopy__(self, memo):
            assert self.used
            return self

        def __reduce__(self):
            assert self.used
            return Lazy, ()

    broken = check_loss(Lazy, promises="copies").broken
    assert {"uneven classes, deep copy of a fresh loss"} <= {o.case for o in broken}
    assert "uneven classes, deep copy of a used loss" not in {o.case for o in broken}


def test_long_rows_are_tried_in_both_types():
    report = check_loss(scale.SubtractsEachRowFromEach, promises="memory")
    assert [o.case.rpartition(", ")[2] for o in report.broken] == ["float32", "float16"]


def test_a_gradient_of_parameters_alone_that_is_cut_is_found():
    class Detaches(losses.HonestProxies):
        def held_in(self, dtype):
            return self.proxies.detach().to(dtype)

    (outcome,) = check_loss(Detaches, promises="gradient", **PROXIES).broken
    assert "with respect to proxies" in outcome.came


@pytest.mark.parametrize("missing", ["first", "second"])
def test_a_gradient_that_is_missing_is_zero(missing):
    def complaint(present):
        gradients = [None, present] if missing == "first" else [present, None]
        batch, value = None, torch.ones(())
        first, second = (Run(batch, batch, value, gradients={"proxies": g}) for g in gradients)
        return differs_from(first)(second)

    assert complaint(None) is None
    assert complaint(torch.zeros(3)) is None
    assert complaint(torch.tensor([0.0, -2.0])) == "the value, another gradient of proxies (by 2)"


def test_processes_have_unequal_parts_of_a_batch_that_the_loss_accepts():
    outcomes = check_loss(scale.WantsEqualClasses, promises="two_processes").outcomes
    assert [o.case for o in outcomes] == ["6 of 10 rows, rank 0", "4 of 10 rows, rank 1"]
    assert {o.status for o in outcomes} == {Status.KEPT}


@pytest.mark.parametrize(
    ("given", "held", "status"),
    [
        (None, 4, Status.NOT_APPLICABLE),  # the loss was asked to choose
        (float("nan"), float("nan"), Status.KEPT),
        (4, 4.0, Status.KEPT),
        (4, 5, Status.BROKEN),
    ],
)
def test_what_is_recorded_is_compared_with_what_was_given(given, held, status):
    class Records(losses.Honest):
        def __init__(self, size=given):
            super().__init__()
            self.size = held
            self.add_to_recordable_attributes(name="size")
            self._record_these = ["size"]

    assert check_loss(Records, promises="records").status("records") is status


@pytest.mark.parametrize(("difference", "status"), [(1e-4, Status.BROKEN), (1e-9, Status.KEPT)])
def test_a_difference_is_told_from_rounding(difference, status):
    class Favours(losses.Honest):
        def spoilt(self, value, x, labels):
            return value * (1 + difference * x[0].sigmoid().sum()) if len(x) > 1 else value

    assert check_loss(Favours, promises="order").status("order") is status
