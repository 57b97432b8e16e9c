import pytest
import torch
from pytorch_metric_learning import losses, miners, regularizers
from pytorch_metric_learning.distances import CosineSimilarity
from torch.nn.functional import cosine_similarity

from pml_extras.losses import ClassificationLoss
from pml_extras.reducers import BatchSizeReducer

INDICES = {
    "element": torch.arange(4),
    "pos_pair": (torch.arange(4), torch.arange(4) + 1),
    "neg_pair": (torch.arange(4), torch.arange(4) + 2),
    "triplet": (torch.arange(4),) * 3,
}


def reduced(values, reduction_type, indices, num=7):
    entry = {"losses": values, "indices": indices, "reduction_type": reduction_type}
    return BatchSizeReducer()({"loss": entry}, torch.randn(num, 3), torch.arange(num))


@pytest.mark.parametrize("kind", INDICES)
def test_losses_of_every_kind_are_summed_and_divided_by_the_rows_of_the_batch(kind):
    values = torch.tensor([0.0, 3.0, -1.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(reduced(values, kind, INDICES[kind]).item(), 3.5 / 7)


def test_what_comes_reduced_stays_as_it_is():
    assert reduced(torch.tensor(3.0), "already_reduced", None).item() == 3.0


def test_a_loss_of_nothing_is_zero_and_attached():
    for num in (0, 5):
        x = torch.randn(num, 3, requires_grad=True)
        for values, indices, kind in (
            (0, None, "already_reduced"),
            (x.sum(1)[:0], torch.arange(0), "element"),
        ):
            entry = {"losses": values, "indices": indices, "reduction_type": kind}
            loss = BatchSizeReducer()({"loss": entry}, x, None)
            assert loss.item() == 0
            x.grad = None
            loss.backward()
            assert torch.equal(x.grad, torch.zeros_like(x))


def test_the_sum_of_half_losses_does_not_overflow():
    values = torch.full((4,), 6e4, dtype=torch.float16)
    assert reduced(values, "element", INDICES["element"], num=6).item() == pytest.approx(
        4e4, rel=1e-3
    )


def contrastive(**options):
    return losses.ContrastiveLoss(
        1 - 1e-5, 0.5, distance=CosineSimilarity(), reducer=BatchSizeReducer(), **options
    )


def over_pairs(x, y, ref, ref_y, *, same):
    """By the formula, a pair at a time."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(ref)):
            if same and i == j:
                continue
            s = cosine_similarity(x[i], ref[j], dim=0).item()
            total += max(1 - 1e-5 - s, 0) if y[i] == ref_y[j] else max(s - 0.5, 0)
    return total / len(x)


def test_contrastive_loss_is_that_of_the_formula_within_a_batch_and_with_references():
    torch.manual_seed(0)
    x, ref = torch.randn(8, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    y, ref_y = torch.tensor([0, 1, 2, 0, 1, 0, 4, 0]), torch.tensor([0, 0, 1, 5, 2])
    loss = contrastive()
    expected = over_pairs(x, y, x, y, same=True)
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-12)
    expected = over_pairs(x, y, ref, ref_y, same=False)
    assert loss(x, y, None, ref, ref_y).item() == pytest.approx(expected, rel=1e-12)


def test_rows_without_a_pair_count_as_rows():
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    pairs = (torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([2, 0]))
    y = torch.tensor([0, 0, 1, 2])
    value, more = contrastive()(x, y, pairs), contrastive()(x.repeat(2, 1), y.repeat(2), pairs)
    torch.testing.assert_close(more, value / 2)


def test_an_embedding_regularizer_is_not_divided():
    torch.manual_seed(0)
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    with_it = contrastive(
        embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=2
    )
    penalty = 2 * x.norm(dim=1).mean()
    torch.testing.assert_close(with_it(x, y), contrastive()(x, y) + penalty)


def test_triplets_and_losses_of_rows_reduce_with_it():
    torch.manual_seed(0)
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    triplets = miners.TripletMarginMiner(type_of_triplets="all", margin=9.0)(x, y)
    own = losses.TripletMarginLoss(margin=9.0, reducer=BatchSizeReducer())(x, y, triplets)
    mean = losses.TripletMarginLoss(margin=9.0)(x, y, triplets)  # every triplet is above 0
    torch.testing.assert_close(own, mean * len(triplets[0]) / 6)
    classify = ClassificationLoss(2, 3)
    value = classify(x, y)
    classify.reducer = BatchSizeReducer()
    torch.testing.assert_close(classify(x, y), value)
