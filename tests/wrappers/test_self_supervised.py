"""Two views of each image, in any loss that compares rows by equality of labels."""

import pytest
import torch
from pytorch_metric_learning import losses

from pml_extras.losses import (
    BinomialDevianceLoss,
    NTXentLoss,
    PotentialFieldLoss,
    WeightedLossEnsemble,
)
from pml_extras.wrappers import CrossBatchMemory, DistributedLossWrapper, SelfSupervisedLoss
from tests.wrappers.public_losses import ENTRIES, IN_MEMORY, SIZE, made
from tests.wrappers.test_cross_batch_memory import assert_same

BY_REFERENCES = [name for name in IN_MEMORY if name != "ours PotentialFieldLoss"]  # has proxies
AMONG_ROWS = [
    *BY_REFERENCES,
    *(f"pml {name}Loss" for name in ("FastAP", "Histogram", "Instance", "NPairs", "PNP")),
    *(f"pml {name}Loss" for name in ("RankedList", "ThresholdConsistentMargin")),
    *(name for name in ENTRIES if name.startswith(("ours SmoothAP", "ours PNP"))),
]


def views(num=6, size=SIZE):
    x, other = torch.randn(2, num, size, dtype=torch.float64)
    return x.requires_grad_(), other.requires_grad_()


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # HistogramLoss
@pytest.mark.parametrize("name", AMONG_ROWS)
def test_the_rows_of_both_views_are_one_batch(name):
    x, other = views()
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    expected = made(name)(torch.cat([x, other]), labels)
    assert_same(SelfSupervisedLoss(made(name))(x, other), expected, x, other)


@pytest.mark.parametrize("name", BY_REFERENCES)
def test_the_first_view_is_compared_with_the_second(name):
    x, other = views()
    labels = torch.arange(6)
    expected = made(name)(x, labels, None, other, labels.clone())
    assert_same(SelfSupervisedLoss(made(name), symmetric=False)(x, other), expected, x, other)


def test_the_value_is_the_cross_entropy_of_each_row_and_its_other_view():
    x, other = views()
    scores = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(other).T
    expected = torch.nn.functional.cross_entropy(scores / 0.1, torch.arange(6))
    loss = SelfSupervisedLoss(NTXentLoss(temperature=0.1), symmetric=False)
    assert_same(loss(x, other), expected, x, other)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in AMONG_ROWS])
def test_every_other_public_loss_is_refused_by_name(name, symmetric):
    loss = made(name)
    came = type(loss).__name__
    with pytest.raises(ValueError, match=rf"^loss: expected .* by equality of labels; got {came},"):
        SelfSupervisedLoss(loss, symmetric=symmetric)


@pytest.mark.parametrize("name", [name for name in AMONG_ROWS if name not in BY_REFERENCES])
def test_without_symmetry_those_without_references_are_refused(name):
    with pytest.raises(ValueError, match=r"^loss: expected one that compares rows with references"):
        SelfSupervisedLoss(made(name), symmetric=False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: losses.MarginLoss(num_classes=5, learn_beta=True), "raises IndexError"),
        (lambda: losses.ProxyNCALoss(9, SIZE), "whose parameters labels index"),
        pytest.param(
            lambda: losses.SmoothAPLoss(),
            "it is all one which views belong together",
            marks=pytest.mark.skipif(not hasattr(losses, "SmoothAPLoss"), reason="pml 2.9 has it"),
        ),
    ],
)
def test_the_reason_is_given(make, said):
    loss = make()
    with pytest.raises(ValueError, match=said):
        SelfSupervisedLoss(loss)


def test_references_that_are_not_looked_at_are_found():
    with pytest.raises(ValueError, match="which does not look at the second view"):
        SelfSupervisedLoss(losses.ThresholdConsistentMarginLoss(), symmetric=False)


@pytest.mark.parametrize("size", [3, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_loss_is_asked_in_its_own_size(symmetric, size):
    loss = PotentialFieldLoss(5, size, proxies_per_class=0)
    SelfSupervisedLoss(loss, symmetric)(*views(size=size))


def test_parts_of_a_loss_are_asked_in_their_own_size():
    parts = [PotentialFieldLoss(5, 3, proxies_per_class=0), losses.NTXentLoss()]
    x, other = views(size=3)
    expected = sum(SelfSupervisedLoss(part)(x, other) for part in parts)
    assert_same(SelfSupervisedLoss(losses.MultipleLosses(parts))(x, other), expected, x, other)
    SelfSupervisedLoss(WeightedLossEnsemble(parts, scale=None))(x, other)


@pytest.mark.parametrize("kind", [CrossBatchMemory, losses.CrossBatchMemory])
def test_a_memory_inside_is_refused_as_its_rows_have_the_positions_of_others(kind):
    memory = kind(losses.ContrastiveLoss(), SIZE)
    for loss in (memory, losses.MultipleLosses([memory])):
        with pytest.raises(ValueError, match="whose memory takes rows i of all batches for one"):
            SelfSupervisedLoss(loss)


def test_what_joins_processes_belongs_outside():
    loss = DistributedLossWrapper(losses.ContrastiveLoss())
    with pytest.raises(ValueError, match=r"^loss: .*; got DistributedLossWrapper. Put Distrib"):
        SelfSupervisedLoss(loss)
    DistributedLossWrapper(SelfSupervisedLoss(losses.ContrastiveLoss()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_and_autocast_are_computed_in_float32(symmetric, dtype):
    x, other = (view.to(dtype) for view in views())
    loss = SelfSupervisedLoss(losses.NTXentLoss(), symmetric)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, other)
    assert torch.equal(value, loss(x.float(), other.float()))


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_image_is_an_attached_zero(symmetric):
    x, other = views(num=0)
    value = SelfSupervisedLoss(BinomialDevianceLoss(), symmetric)(x, other)
    value.backward()
    assert value == 0


def test_views_of_unlike_shapes_are_refused():
    loss = SelfSupervisedLoss(BinomialDevianceLoss())
    with pytest.raises(ValueError, match=r"^ref_emb: expected \(6, 8\), the shape of `embeddings`"):
        loss(views()[0], views(num=5)[1])
    with pytest.raises(ValueError, match=r"^symmetric: expected True or False"):
        SelfSupervisedLoss(BinomialDevianceLoss(), symmetric="no")


def test_a_loss_that_draws_triplets_is_taken():
    loss = SelfSupervisedLoss(losses.TripletMarginLoss(margin=2.0, triplets_per_anchor=2))
    assert loss(*views()) > 0
