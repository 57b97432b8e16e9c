import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import distances, reducers, regularizers

from pml_extras.functional.distance_preserving import distance_preserving
from pml_extras.losses.distance_preserving import DistancePreservingLoss
from pml_extras.nn.compression import CompressionHead
from pml_extras.testing import check_loss
from tests.oracles import distance_preserving as oracle


def example(dtype=torch.float64):
    return torch.randn(6, 3, dtype=dtype), torch.randn(6, 8, dtype=dtype)


class TaughtByLabels(torch.nn.Module):
    """Row i of the teacher says which rows have the label of row i: a loss of rows and labels."""

    def __init__(self, **kwargs):
        super().__init__()
        self.loss = DistancePreservingLoss(**kwargs)

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        if ref_emb is None:
            ref_emb = (labels[:, None] == labels).to(embeddings.dtype)
        return self.loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_keeps_its_promises(seed):
    report = check_loss(TaughtByLabels, out_of_range={"normalize_by_batch": 2}, seed=seed)
    report.raise_if_broken()


@pytest.mark.parametrize("by_batch", [False, True])
def test_it_is_the_formula(by_batch):
    z, x = example()
    value = DistancePreservingLoss(normalize_by_batch=by_batch)(z, ref_emb=x)
    expected = complex(oracle.loss(z.tolist(), x.tolist())).real
    assert value.item() == pytest.approx(expected / (6 if by_batch else 1), rel=1e-10)


def test_no_gradient_reaches_the_teacher():
    z, x = example()
    z.requires_grad_()
    x.requires_grad_()
    DistancePreservingLoss()(z, ref_emb=x).backward()
    assert x.grad is None
    expected = torch.autograd.grad(distance_preserving(z, x.detach()), z)[0]
    torch.testing.assert_close(z.grad, expected)
    shared = torch.randn(6, 4, requires_grad=True)
    DistancePreservingLoss()(shared[:, :3], ref_emb=3 * shared).backward()
    alone = shared.detach().clone().requires_grad_()
    distance_preserving(alone[:, :3], alone.detach()).backward()
    torch.testing.assert_close(shared.grad, alone.grad)


def test_labels_have_no_effect():
    z, x = example()
    loss = DistancePreservingLoss()
    assert loss(z, torch.arange(6), None, x, torch.zeros(6).long()) == loss(z, ref_emb=x)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_half_rows_and_autocast_are_computed_in_float32(half, which):
    z, x = example(torch.float32)
    z = z.to(half) if which != "teacher" else z
    x = x.to(half) if which != "student" else x
    z.requires_grad_()
    expected = distance_preserving(z.double(), x.double()).item()
    with torch.autocast("cpu", torch.bfloat16):
        value = DistancePreservingLoss()(z, ref_emb=x)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert z.grad.dtype == z.dtype


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_with_a_regularizer_half_rows_give_a_float32_sum_too(half):
    z, x = (side.to(half) for side in example(torch.float32))
    loss = DistancePreservingLoss(embedding_regularizer=regularizers.LpRegularizer())
    value = loss(z, ref_emb=x)
    assert value.dtype == torch.float32
    expected = distance_preserving(z.double(), x.double()) + z.double().norm(dim=1).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_regularizer_sees_the_student_and_reducers_get_one_number():
    z, x = example()
    plain = DistancePreservingLoss()(z, ref_emb=x)
    loss = DistancePreservingLoss(
        embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=0.7
    )
    torch.testing.assert_close(loss(z, ref_emb=x), plain + 0.7 * z.norm(dim=1).mean())
    for reducer in (reducers.SumReducer(), reducers.AvgNonZeroReducer()):
        assert DistancePreservingLoss(reducer=reducer)(z, ref_emb=x) == plain
    (name, part), *rest = DistancePreservingLoss(reducer=reducers.DoNothingReducer())(
        z, ref_emb=x
    ).items()
    assert (name, part["reduction_type"], rest) == ("loss", "already_reduced", [])


def test_a_head_learns_the_distances_of_its_input():
    x = torch.nn.functional.normalize(torch.randn(64, 3)) @ torch.randn(3, 16)
    x = torch.nn.functional.normalize(x)  # on a surface of few dimensions
    head = CompressionHead(16, 4)
    loss_func = DistancePreservingLoss(normalize_by_batch=True)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_func(head(x), ref_emb=x)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.25 * values[0]


def test_it_pickles_and_copies():
    z, x = example()
    loss = DistancePreservingLoss(normalize_by_batch=True)
    for same in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert same(z, ref_emb=x) == loss(z, ref_emb=x)


def test_bad_calls_are_refused():
    z, x = example()
    loss = DistancePreservingLoss()
    expected = (
        r"^ref_emb: expected the teacher's \(B, X\) embeddings; got None. Call loss\(student,"
    )
    with pytest.raises(ValueError, match=expected):
        loss(z)
    with pytest.raises(ValueError, match=r"^ref_emb: expected 6 rows, as `embeddings`; got 5 rows"):
        loss(z, ref_emb=x[:5])
    with pytest.raises(ValueError, match=r"^indices_tuple: expected None; got tuple. All pairs"):
        loss(z, None, (torch.tensor([0]),) * 3, x)
    for bad in ((z[0], x), (z, x[0])):
        with pytest.raises(ValueError, match=r"expected a floating tensor of shape"):
            loss(bad[0], ref_emb=bad[1])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"^normalize_by_batch: expected True or False; got 'yes'"):
        DistancePreservingLoss(normalize_by_batch="yes")
    with pytest.raises(ValueError, match=r"^distance: expected None; got CosineSimilarity"):
        DistancePreservingLoss(distance=distances.CosineSimilarity())
    with pytest.raises(TypeError, match="normalise"):
        DistancePreservingLoss(normalise=True)
