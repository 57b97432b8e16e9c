"""Which losses a memory takes: each is asked, none is named."""

import copy

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers, regularizers
from pytorch_metric_learning.losses import BaseMetricLossFunction

from pml_extras._global_state import GlobalState
from pml_extras.testing import Status
from pml_extras.wrappers import (
    CrossBatchMemory,
    DistributedLossWrapper,
    DistributedMinerWrapper,
)
from tests.wrappers.public_losses import ENTRIES, IN_MEMORY, REFUSED, SIZE, made


@pytest.mark.parametrize("name", REFUSED)
def test_every_other_public_loss_is_refused_by_name_with_the_reason(name):
    loss = made(name)
    pattern = rf"^loss: expected one .* a tuple lists; got {type(loss).__name__}, wh.* two values"
    with pytest.raises(ValueError, match=pattern):
        CrossBatchMemory(loss, SIZE)


BY_COPIES = "pml LiftedStructureLoss"  # against copies of the rows, which is all a memory needs


@pytest.mark.parametrize("name", [name for name in IN_MEMORY if name != BY_COPIES])
def test_those_that_are_taken_keep_the_promises_on_references_and_tuples(name):
    report = ENTRIES[name].report(promises=["ref_emb", "indices_tuple"])
    assert report.status("ref_emb") is Status.KEPT
    assert report.status("indices_tuple") is Status.KEPT


@pytest.mark.parametrize("name", REFUSED)
def test_those_that_are_refused_break_or_refuse_one(name):
    report = ENTRIES[name].report(promises=["ref_emb", "indices_tuple"])
    assert {report.status("ref_emb"), report.status("indices_tuple")} != {Status.KEPT}


class Broken(BaseMetricLossFunction):
    """A contrastive loss with one thing wrong."""

    def __init__(self, wrong=None):
        super().__init__()
        self.wrong = wrong

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        mat = self.distance(embeddings, ref_emb)  # (B, R)
        if self.wrong == "references":
            mat = self.distance(embeddings, embeddings[:1]).expand(-1, len(ref_emb))
        if self.wrong == "tuple":
            return self.reduced(mat.mean())
        if self.wrong == "labels":
            return self.reduced(mat[labels[:, None] == ref_labels].mean())
        if self.wrong == "order":
            mat = mat * (1 + torch.arange(len(ref_emb)) / 10)
        a1, p, a2, n = indices_tuple
        return self.reduced(mat[a1, p].mean() - mat[a2, n].mean())

    def reduced(self, loss):
        return {
            "loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"},
        }


def test_a_loss_of_someone_else_is_taken_whatever_its_name():
    x = torch.randn(6, SIZE, requires_grad=True)
    CrossBatchMemory(Broken(), SIZE)(x, torch.arange(6) % 2).backward()
    assert (x.grad != 0).any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("references", "which gives the same value for other references"),
        ("tuple", "which gives the same value for another tuple"),
        ("labels", "in which rows count that the tuple does not list"),
        ("order", "in which the order of the references counts"),
    ],
)
def test_a_loss_with_one_thing_wrong_is_refused_for_it(wrong, said):
    with pytest.raises(ValueError, match=rf"got Broken, {said}"):
        CrossBatchMemory(Broken(wrong), SIZE)


def test_triplets_with_swap_take_a_reference_for_a_row():
    with pytest.raises(ValueError, match=r"got TripletMarginLoss, which raises IndexError: index"):
        CrossBatchMemory(losses.TripletMarginLoss(swap=True), SIZE)


@pytest.mark.parametrize("loss", [None, "ContrastiveLoss", losses.ContrastiveLoss])
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(ValueError, match=r"^loss: expected .* Give an instance"):
        CrossBatchMemory(loss, SIZE)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("loss", DistributedLossWrapper(losses.ContrastiveLoss())),
        ("miner", DistributedMinerWrapper(miners.BatchHardMiner())),
    ],
)
def test_what_joins_processes_belongs_outside(name, inside):
    arguments = {"loss": losses.ContrastiveLoss(), "embedding_size": SIZE, name: inside}
    expected = rf"^{name}: expected one that leaves .*; got {type(inside).__name__}. Put Distrib"
    with pytest.raises(ValueError, match=expected):
        CrossBatchMemory(**arguments)


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize(
    "loss",
    [
        losses.ContrastiveLoss(embedding_regularizer=regularizers.LpRegularizer()),
        losses.NTXentLoss(reducer=reducers.DoNothingReducer()),
        losses.MarginLoss(num_classes=2, learn_beta=True),
        losses.TripletMarginLoss(reducer=reducers.ThresholdReducer(low=0.01)),
        losses.SupConLoss(reducer=reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0]))),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_neither_size_nor_reducer_nor_regulariser_misleads(loss, size):
    CrossBatchMemory(loss, size)


@pytest.mark.parametrize("name", ["pml DynamicSoftMarginLoss", "ours PotentialFieldLoss"])
def test_asking_changes_neither_the_loss_nor_the_generators(name):
    loss = made(name)
    before, state = copy.deepcopy(loss.state_dict()), GlobalState.now()
    dictionary = {key: copy.copy(value) for key, value in vars(loss).items()}
    CrossBatchMemory(loss, SIZE)
    assert GlobalState.now().changed_from(state) == []
    for key, value in loss.state_dict().items():
        assert torch.equal(value, before[key])
    assert vars(loss).keys() == dictionary.keys()
    assert all(p.grad is None for p in loss.parameters())


def test_a_loss_that_holds_a_graph_from_use_is_asked_too():
    loss = losses.DynamicSoftMarginLoss()
    loss(torch.randn(6, SIZE, requires_grad=True), torch.arange(6) % 2)
    CrossBatchMemory(loss, SIZE)


def test_a_loss_in_half_precision_keeps_it():
    loss = made("ours PotentialFieldLoss").bfloat16()
    memory = CrossBatchMemory(loss, SIZE, miner=miners.MultiSimilarityMiner())
    memory(torch.randn(8, SIZE, dtype=torch.bfloat16), torch.arange(8) % 3)
    assert {p.dtype for p in loss.parameters()} == {torch.bfloat16}


def test_asking_may_be_done_without_gradients():
    with torch.no_grad():
        CrossBatchMemory(made("ours PotentialFieldLoss"), SIZE)
