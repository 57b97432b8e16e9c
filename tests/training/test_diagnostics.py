"""What is recorded on a loss, and that all else is left as it was."""

import copy
import math
import pickle

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers, regularizers
from pytorch_metric_learning.distances import CosineSimilarity
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pml_extras.losses import BinomialDevianceLoss
from pml_extras.training import Diagnostics
from pml_extras.wrappers import CrossBatchMemory
from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE
from tests.conformance.pml_catalogue import CATALOGUE
from tests.oracles import diagnostics as oracle

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 3, 0])
NAMES = ("share_without_positive", "share_of_zero_losses", "mean_cosine", "effective_rank")


def rows(seed=0, num=8, size=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator, dtype=torch.float64, requires_grad=True)


def recorded(loss):
    return {name: float(getattr(loss, name)) for name in NAMES}


def contrastive(**arguments):
    """Similarities, some of them beyond their margin."""
    return losses.ContrastiveLoss(0.3, 0.1, distance=CosineSimilarity(), **arguments)


def expected_of_contrastive(x, labels, ref, ref_labels, same):
    """Share of zeros: positives short of 0.3 and negatives beyond 0.1 cost something."""
    unit, ref_unit = oracle.directions(x.tolist()), oracle.directions(ref.tolist())
    costs = []
    for i, row in enumerate(unit):
        for j, other in enumerate(ref_unit):
            cosine = sum(a * b for a, b in zip(row, other, strict=True))
            if labels[i] != ref_labels[j]:
                costs.append(max(cosine - 0.1, 0.0))
            elif not (same and i == j):
                costs.append(max(0.3 - cosine, 0.0))
    return oracle.share_of_zeros([costs])


def test_statistics_of_a_batch_are_recorded_where_pml_keeps_its_own():
    loss, x = contrastive(), rows()
    Diagnostics(loss)
    loss(x, LABELS)
    assert set(loss._record_these_stats) >= set(NAMES)
    seen, y = recorded(loss), LABELS.tolist()
    assert seen["share_without_positive"] == pytest.approx(2 / 8)
    expected = expected_of_contrastive(x, y, x, y, same=True)
    assert 0.2 < expected < 0.8
    assert seen["share_of_zero_losses"] == pytest.approx(expected)
    assert seen["mean_cosine"] == pytest.approx(oracle.mean_cosine(x.tolist()), rel=1e-10)
    assert seen["effective_rank"] == pytest.approx(oracle.effective_rank(x.tolist()), rel=1e-10)


def test_references_are_what_rows_are_compared_with():
    loss, x, ref = contrastive(), rows(), rows(seed=1, num=3)
    ref_labels = torch.tensor([1, 1, 4], dtype=torch.int32)
    Diagnostics(loss)
    loss(x, LABELS, ref_emb=ref, ref_labels=ref_labels)
    expected = expected_of_contrastive(x, LABELS.tolist(), ref, ref_labels.tolist(), same=False)
    assert recorded(loss)["share_without_positive"] == pytest.approx(6 / 8)
    assert recorded(loss)["share_of_zero_losses"] == pytest.approx(expected)


def test_the_batch_given_as_its_own_reference_is_the_batch():
    loss, x = contrastive(), rows()
    Diagnostics(loss)
    loss(x, LABELS, None, x, LABELS)
    assert recorded(loss)["share_without_positive"] == pytest.approx(2 / 8)


def test_with_a_tuple_anchors_without_a_mined_positive_are_counted():
    loss = losses.TripletMarginLoss()
    Diagnostics(loss)
    triplets = (torch.tensor([0, 3, 3]), torch.tensor([3, 0, 5]), torch.tensor([1, 2, 2]))
    loss(rows(), LABELS, triplets)
    assert recorded(loss)["share_without_positive"] == pytest.approx(6 / 8)


def test_a_batch_with_nothing_to_compare_counts_as_zero_beside_a_regularizer():
    loss = losses.TripletMarginLoss(embedding_regularizer=regularizers.LpRegularizer())
    Diagnostics(loss)
    assert loss(rows(), torch.arange(8)) > 0
    assert recorded(loss)["share_of_zero_losses"] == 1


def test_a_regularizer_of_weights_is_no_term_of_the_loss():
    shares = []
    for regularizer in (None, regularizers.LpRegularizer()):
        torch.manual_seed(0)
        loss = losses.ProxyAnchorLoss(4, 5, weight_regularizer=regularizer)
        Diagnostics(loss)
        loss(rows().float(), LABELS.clamp(max=2))
        shares.append(recorded(loss)["share_of_zero_losses"])
    assert 0 < shares[0] < 1
    assert shares[1] == shares[0]


def test_without_labels_nothing_is_said_of_positives():
    loss = losses.VICRegLoss()
    Diagnostics(loss)
    loss(rows(), ref_emb=rows(seed=1))
    assert math.isnan(recorded(loss)["share_without_positive"])
    assert recorded(loss)["mean_cosine"] == pytest.approx(oracle.mean_cosine(rows().tolist()))


def test_losses_that_do_not_reduce_are_seen_too():
    loss = contrastive(reducer=reducers.DoNothingReducer())
    Diagnostics(loss)
    terms = [entry["losses"].tolist() for entry in loss(rows(), LABELS).values()]
    expected = oracle.share_of_zeros(terms)
    assert recorded(loss)["share_of_zero_losses"] == pytest.approx(expected)


def test_each_of_multiple_losses_is_seen_with_its_own_miner():
    plain, mined = losses.TripletMarginLoss(), losses.TripletMarginLoss()
    miner = miners.TripletMarginMiner(margin=0.3, type_of_triplets="hard")
    both = losses.MultipleLosses([plain, mined], miners=[None, miner])
    Diagnostics(both)
    both(rows(), LABELS)
    anchors = miner(rows(), LABELS)[0].tolist()
    assert recorded(plain)["share_without_positive"] == pytest.approx(2 / 8)
    assert recorded(mined)["share_without_positive"] == pytest.approx(
        oracle.share_never_anchor(anchors, 8)
    )
    assert 0 < len(set(anchors)) < 6


def test_what_a_memory_gives_its_loss_is_seen():
    inner = losses.ContrastiveLoss()
    memory = CrossBatchMemory(inner, embedding_size=5, memory_size=8)
    Diagnostics(memory)
    memory(rows()[:4], LABELS[:4])
    assert recorded(inner)["share_without_positive"] == pytest.approx(2 / 4)
    memory(rows()[4:], LABELS[4:])  # only the row of class 3 has none in the batch before
    assert recorded(inner)["share_without_positive"] == pytest.approx(1 / 4)


def test_evaluation_and_calls_without_gradient_are_not_seen():
    loss = contrastive()
    Diagnostics(loss)
    loss(rows(), LABELS)
    seen = recorded(loss)
    loss.eval()
    loss(rows(seed=1), LABELS)
    loss.train()
    with torch.no_grad():
        loss(rows(seed=2), LABELS)
    assert recorded(loss) == dict.fromkeys(NAMES, 0.0)  # as pml resets them
    loss(rows(), LABELS)
    assert recorded(loss) == seen


def test_the_rank_is_measured_once_a_window():
    loss = contrastive()
    diagnostics = Diagnostics(loss, window=2)
    ranks = []
    for step in range(4):
        loss(rows(seed=step), LABELS)
        ranks.append(recorded(loss)["effective_rank"])
        diagnostics.after_step()
    measured = [oracle.effective_rank(rows(seed=step).tolist()) for step in (0, 0, 2, 2)]
    assert ranks == pytest.approx(measured, rel=1e-10)


EVERY = {**{f"pml {k}": v for k, v in CATALOGUE.items()}, **LOSSES}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # both from pml
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
@pytest.mark.parametrize("name", EVERY)
def test_every_loss_has_its_value_gradient_and_state_and_statistics_in_bounds(name):
    torch.manual_seed(1)
    plain = EVERY[name].make()
    watched = copy.deepcopy(plain)
    Diagnostics(watched)
    x = torch.randn(10, EMBEDDING_SIZE, requires_grad=True)
    labels = torch.arange(10) // 2
    found = []
    for loss in (plain, watched):
        torch.manual_seed(2)
        arguments = {"ref_emb": rows(num=10).float()} if name == "DistancePreservingLoss" else {}
        value = loss(x, labels, **arguments)
        found.append((value, *torch.autograd.grad(value, [x, *loss.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert plain.state_dict().keys() == watched.state_dict().keys()
    seen = [m for m in watched.modules() if hasattr(m, "mean_cosine")]
    assert seen
    for loss in seen:
        values = recorded(loss)
        assert 0 <= values["share_without_positive"] <= 1
        assert 0 <= values["share_of_zero_losses"] <= 1
        assert -1 <= values["mean_cosine"] <= 1
        assert 1 <= values["effective_rank"] <= 10


def test_a_watched_loss_can_be_copied_and_pickled_and_copies_record_too():
    loss = contrastive()
    Diagnostics(loss)
    loss(rows(), LABELS)
    seen = recorded(loss)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        other(rows(seed=1), LABELS)
        expected = oracle.mean_cosine(rows(seed=1).tolist())
        assert recorded(other)["mean_cosine"] == pytest.approx(expected, rel=1e-10)
    assert recorded(loss) == seen


def dictionaries(loss):
    return {name: [*held] for name, held in vars(loss).items() if isinstance(held, dict)}


def test_pml_s_record_keeper_walks_through_what_it_did_before():
    plain, watched = (losses.MultipleLosses([contrastive()]) for _ in range(2))
    Diagnostics(watched)
    assert dictionaries(watched) == dictionaries(plain)
    assert dictionaries(watched.losses[0]) == dictionaries(plain.losses[0])


def test_two_may_watch_one_loss():
    loss = contrastive()
    first, second = Diagnostics(loss, window=2), Diagnostics(loss, window=2)
    for step in range(2):
        loss(rows(), torch.arange(8))
        for diagnostics in (first, second) if step == 0 else ():
            diagnostics.after_step()
    for diagnostics in (first, second):
        with pytest.warns(UserWarning, match="none of their class"):
            diagnostics.after_step()


def test_a_compiled_graph_has_the_same_value_and_records_nothing():
    loss = BinomialDevianceLoss()
    Diagnostics(loss)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    value = compiled(rows(), LABELS)
    assert recorded(loss) == dict.fromkeys(NAMES, 0.0)
    torch.testing.assert_close(value, loss(rows(), LABELS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_measured_in_float32(dtype):
    loss, x = contrastive(), rows().detach().to(dtype).requires_grad_()
    Diagnostics(loss)
    loss(x, LABELS)
    assert recorded(loss)["mean_cosine"] == pytest.approx(oracle.mean_cosine(x.tolist()), abs=1e-6)


class _Reads(TorchDispatchMode):
    """Counts values that the host waits for."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal")
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_between_the_first_call_and_the_end_of_a_window():
    loss = losses.ProxyAnchorLoss(4, 5)
    reads = []
    for watched in (False, True):
        diagnostics = Diagnostics(loss, window=5) if watched else None
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        for step in range(4):
            with _Reads() as mode:
                loss(rows().float(), LABELS).backward()
                optimizer.step()
                if diagnostics is not None:
                    diagnostics.after_step(optimizer)
            if step > 0:
                reads.append(mode.num)
    assert reads[3:] == reads[:3]


@pytest.mark.parametrize("wrong", [(), (nn.Linear(2, 2),), (torch.nn.CosineEmbeddingLoss(),)])
def test_modules_without_a_loss_of_pml_are_refused(wrong):
    with pytest.raises(ValueError, match="loss_funcs: expected"):
        Diagnostics(*wrong)


@pytest.mark.parametrize("window", [1, 0, 2.5, True])
def test_windows_of_less_than_two_iterations_are_refused(window):
    with pytest.raises(ValueError, match="window: expected an integer >= 2"):
        Diagnostics(contrastive(), window=window)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizers: expected optimizers of torch; got Linear"):
        Diagnostics(contrastive()).after_step(nn.Linear(2, 2))
