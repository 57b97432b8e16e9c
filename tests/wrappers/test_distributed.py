"""Two and three gloo processes against one process with the joined batch."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.reducers import DoNothingReducer
from pytorch_metric_learning.utils import distributed as pml
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from pml_extras.losses import NTXentLoss, SmoothedProxyNCALoss
from pml_extras.wrappers import (
    CrossBatchMemory,
    DistributedLossWrapper,
    DistributedMinerWrapper,
)
from tests.wrappers.distributed_ranks import CASES, alone, by_case, factories, spawn, worst
from tests.wrappers.distributed_scenes import COLUMNS, SIZES, rows, scenes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "distributed.md"
EFFICIENT = (
    "BinomialDevianceLoss",
    "BinomialDevianceLoss by pairs",
    "GeneralizedLiftedStructureLoss",
    "NTXentLoss",
    "NTXentLoss by tiles of distances",
    "SignalToNoiseRatioContrastiveLoss",
    "TupletMarginLoss",
    "TupletMarginLoss by tiles",
)


def everything(rank, world):
    return by_case(rank, world), scenes(rank, world)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return spawn(everything, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def differences(found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pml's HistogramLoss
        expected = {name: alone(name) for name in factories()}
    return worst({w: [rank[0] for rank in ranks] for w, ranks in found.items()}, expected)


@pytest.fixture(params=SIZES)
def world(request):
    return request.param


@pytest.fixture
def scene(found, world):
    """What every rank found, by name."""
    return {name: [rank[1][name] for rank in found[world]] for name in found[world][0][1]}


def split(x, world):
    return x.split(SIZES[world])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", factories())
def test_value_and_gradients_are_those_of_one_process(differences, name):
    for sizes, mode in CASES:
        result = differences[name, (sizes, mode)]
        if mode != "efficient" or result is not None:
            assert max(result.values()) <= 1e-10, (sizes, mode, result)


def test_losses_of_one_anchor_a_term_are_split_and_others_are_refused(differences):
    for sizes, mode in CASES:
        if mode == "efficient":
            ours = {n for n in factories() if not n.startswith("pml ")}
            assert {n for n in ours if differences[n, (sizes, mode)]} == set(EFFICIENT)
            for name in ("pml LiftedStructureLoss", "pml NCALoss", "pml IntraPairVarianceLoss"):
                assert differences[name, (sizes, mode)] is None
            for name in ("pml TripletMarginLoss", "pml MarginLoss, learned", "pml ContrastiveLoss"):
                assert differences[name, (sizes, mode)] is not None


def test_arguments_are_joined_in_rank_order_to_the_bit(scene, world):
    for found in scene["arguments_in_rank_order"]:
        for dtype, came in found.items():
            (x, labels), (y, ref_labels) = rows(world, 0, dtype), rows(world, 1, dtype)
            given = {"labels": labels.to(torch.int16), "ref_emb": y, "ref_labels": ref_labels}
            assert [int(v) for v in came.pop("indices_tuple")] == [0, 1, 2]
            embeddings = came.pop("embeddings")
            assert torch.equal(embeddings.detach(), x)
            assert embeddings.dtype == dtype
            assert came.keys() == given.keys()
            for name, value in given.items():
                assert came[name].dtype == value.dtype
                assert torch.equal(came[name].detach(), value)


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", [miners.MultiSimilarityMiner, miners.TripletMarginMiner, None])
def test_miners_and_references_are_those_of_one_process(scene, world, efficient, references, kind):
    if kind is None and not references:
        pytest.skip("every loss above is that")
    x, labels = rows(world)
    y, ref_labels = rows(world, 1) if references else (None, None)
    x.requires_grad_()
    if references:
        y.requires_grad_()
    listed = kind()(x, labels, y, ref_labels) if kind else None
    loss = losses.TripletMarginLoss() if kind else losses.ContrastiveLoss()
    loss(x, labels, listed, y, ref_labels).backward()
    assert x.grad.abs().max() > 0.01
    start, tuples = 0, []
    for rank, size in enumerate(SIZES[world]):
        name = kind and kind.__name__
        came = scene["miners_and_references"][rank][efficient, name, references]
        close(came["x"], split(x.grad, world)[rank])
        if references:
            close(came["y"], split(y.grad, world)[rank])
        if kind:
            anchors = (0,) if len(listed) == 3 else (0, 2)
            shift = start if efficient else 0
            tuples.append([v + shift * (k in anchors) for k, v in enumerate(came["tuple"])])
        start += size
    if kind:
        joined = (
            [torch.cat(parts) for parts in zip(*tuples, strict=True)] if efficient else tuples[0]
        )
        assert sorted(zip(*joined[:2], strict=True)) == sorted(zip(*listed[:2], strict=True))
        assert sorted(zip(*joined[-2:], strict=True)) == sorted(zip(*listed[-2:], strict=True))


def test_a_miner_that_draws_agrees_with_itself(scene):
    first, *others = scene["random_miner"]
    assert len(first) == 3
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_without_gathered_gradient_rows_do_not_learn_as_references_of_others(scene, world):
    x, labels = rows(world)
    matches = labels[:, None] == labels
    total = int(matches.fill_diagonal_(False).sum())  # one term a positive pair
    start = 0
    for rank, size in enumerate(SIZES[world]):
        own = x[start : start + size].clone().requires_grad_()
        refs = torch.cat([x[:start], own, x[start + size :]])
        pairs = lmu.get_all_pairs_indices(labels[start : start + size], labels)
        keep = pairs[0] + start != pairs[1]
        pairs = (pairs[0][keep], pairs[1][keep], *pairs[2:])
        gradient = torch.zeros(size, COLUMNS, dtype=torch.float64)
        if len(pairs[0]) > 0:
            loss = losses.NTXentLoss()(own, labels[start : start + size], pairs, refs, labels)
            (loss * len(pairs[0]) / total).backward()
            gradient = own.grad
        close(scene["efficient_without_gradient_of_others"][rank]["x"], gradient)
        start += size


def test_gathered_gradient_is_that_of_the_mean_of_random_losses(scene, world):
    parts = split(2 * rows(world)[0], world)  # of the squares, without their factor
    draws = [found["draw"] for found in scene["random_losses"]]
    assert len({float(draw) for draw in draws}) == world
    for found, part, draw in zip(scene["random_losses"], parts, draws, strict=True):
        close(found[False], draw.double() * part)
        close(found[True], torch.stack(draws).double().mean() * part)


def test_two_views_are_those_of_one_process(scene, world):
    x, y = (rows(world, seed)[0].requires_grad_() for seed in range(2))
    value = losses.SelfSupervisedLoss(losses.NTXentLoss())(x, y)
    value.backward()
    for rank, found in enumerate(scene["two_views"]):
        close(found, (value.detach(), split(x.grad, world)[rank], split(y.grad, world)[rank]))


def test_memories_are_equal_and_those_of_one_process(scene, world):
    loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), COLUMNS, memory_size=10)
    for step in range(3):
        x, labels = rows(world, step)
        loss(x, labels, enqueue_mask=torch.arange(len(x)) % 2 == 0)
    for memory, labels in scene["memory"]:
        assert torch.equal(memory, loss.embedding_memory)
        assert torch.equal(labels, loss.label_memory)


def test_a_memory_of_ours_inside_joins_no_rows_twice(scene, world):
    memory = CrossBatchMemory(losses.ContrastiveLoss(), COLUMNS, memory_size=10).double()
    values = [memory(*rows(world, step)).detach() for step in range(3)]
    for found in scene["memory_of_ours"]:
        close(found[0], values)
        assert torch.equal(found[1], memory.embedding_memory)
        assert torch.equal(found[2], memory.label_memory)
        assert found[3] == memory.queue_idx


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of two classes", "^$"),
        ("draws", "for TripletMarginLoss, whose value is another with a tuple of all pairs; got"),
        ("all hinges closed", "for LiftedStructureLoss, whose terms are 0 whatever the rows"),
        ("dictionary", "^reducer: expected one of MeanReducer, .*; got DoNothingReducer"),
    ],
)
def test_asking_whether_a_loss_can_be_split_disturbs_nothing(scene, name, message):
    for found in scene["what_can_be_split"]:
        said, changed = found[name]
        assert re.search(message, said)
        assert changed == []


def test_a_rank_whose_rows_have_no_graph_keeps_no_other_waiting(scene, world):
    x, labels = rows(world)
    x.requires_grad_()
    losses.NTXentLoss()(x, labels).backward()
    for rank, found in enumerate(scene["rows_without_graph_on_one_rank"]):
        expected = split(x.grad, world)[rank]
        for gradient in found:
            close(gradient, torch.zeros_like(expected) if rank == 1 else expected)


def test_half_rows_under_autocast_are_those_of_one_process(scene, world):
    for dtype, gathered in scene["half"][0]:
        torch.manual_seed(0)
        loss = SmoothedProxyNCALoss(3, COLUMNS)
        x, labels = rows(world, 0, dtype)
        x.requires_grad_()
        value = loss(x, labels)
        value.backward()
        for rank, found in enumerate(scene["half"]):
            came, gradient, own = found[dtype, gathered]
            assert (gradient.dtype, own.dtype) == (dtype, torch.float32)
            torch.testing.assert_close(came, value.detach())
            torch.testing.assert_close(own, loss.proxies.grad)
            expected = split(x.grad, world)[rank] * world
            torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-5)


def test_a_reducer_that_returns_a_dictionary_is_obeyed(scene, world):
    expected = losses.ContrastiveLoss(reducer=DoNothingReducer())(*rows(world))
    for found in scene["dictionaries"]:
        close(found, {name: entry["losses"] for name, entry in expected.items()})


def test_own_gradients_lack_the_factor_that_pml_gives_them(scene, world):
    for of_pml, ours in scene["factor_of_pml"]:
        close(of_pml, world * ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("types", r"labels: expected one type on every rank; got \[torch.int32, torch.int64"),
        ("labels of one", r"labels: expected one type on every rank; got \[None, torch.int64"),
        ("columns", r"embeddings: expected as many columns on every rank; got \[6, 3"),
        ("tuples", "indices_tuple: expected positions in the joined batch, the same on every rank"),
        ("order of tuples", "indices_tuple: expected positions in the joined batch, the same on"),
        ("tuple of one", "indices_tuple: expected positions in the joined batch"),
        ("references", "ref_emb: expected None; got a tensor"),
        ("reducer", "reducer: expected one of MeanReducer, .* with `efficient`; got SumReducer"),
        ("terms", "efficient: expected False for NCALoss, whose terms are not of one anchor each"),
        ("failing", "efficient: expected False for ThresholdConsistentMarginLoss, which"),
    ],
)
def test_every_rank_refuses_what_cannot_be_joined(scene, name, message):
    for found in scene["refusals"]:
        assert re.search(message, found[name])


@pytest.mark.parametrize("arguments", [{}, {"gather_gradient": True}, {"efficient": True}])
def test_one_process_gets_the_loss_itself(arguments):
    x, labels = rows(2)
    loss = losses.LiftedStructureLoss()
    assert torch.equal(DistributedLossWrapper(loss, **arguments)(x, labels), loss(x, labels))
    miner = miners.MultiSimilarityMiner()
    expected = miner(x, labels)
    actual = DistributedMinerWrapper(miner)(x, labels)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_it_is_a_wrapper_of_pml_with_its_keys():
    loss = SmoothedProxyNCALoss(3, COLUMNS)
    wrapped = DistributedLossWrapper(loss)
    assert isinstance(wrapped, pml.DistributedLossWrapper)
    assert isinstance(DistributedMinerWrapper(miners.BatchHardMiner()), pml.DistributedMinerWrapper)
    assert wrapped.state_dict().keys() == {f"loss.{name}" for name in loss.state_dict()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DistributedLossWrapper(torch.nn.CrossEntropyLoss()),
            "loss: expected a BaseMetric",
        ),
        (
            lambda: DistributedLossWrapper(DistributedLossWrapper(NTXentLoss())),
            "loss: expected a BaseMetricLossFunction or .*; got DistributedLossWrapper",
        ),
        (
            lambda: DistributedLossWrapper(
                losses.CrossBatchMemory(losses.ContrastiveLoss(), 3), efficient=True
            ),
            "loss: expected a BaseMetricLossFunction; got CrossBatchMemory",
        ),
        (
            lambda: DistributedLossWrapper(
                losses.MultipleLosses(
                    [losses.ContrastiveLoss()], [DistributedMinerWrapper(miners.BatchHardMiner())]
                )
            ),
            "loss: expected one that leaves .*; got DistributedMinerWrapper. Put",
        ),
        (lambda: DistributedLossWrapper(NTXentLoss), "loss: expected .* Give an instance"),
        (lambda: DistributedLossWrapper(NTXentLoss(), efficient=1), "efficient: expected True or"),
        (lambda: DistributedLossWrapper(NTXentLoss(), gather_gradient=0), "gather_gradient: expec"),
        (lambda: DistributedMinerWrapper(torch.nn.Identity()), "miner: expected a BaseMiner"),
        (lambda: DistributedMinerWrapper(miners.BatchHardMiner(), 1), "efficient: expected True"),
        (
            lambda: DistributedLossWrapper(NTXentLoss())(*rows(2), enqueue_mask=torch.ones(9)),
            "arguments: expected those of NTXentLoss; got an unexpected keyword argument 'enqueue",
        ),
        (
            lambda: DistributedLossWrapper(losses.SelfSupervisedLoss(losses.NTXentLoss()))(
                rows(2)[0]
            ),
            "arguments: expected those of SelfSupervisedLoss; got missing a required",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(
    not hasattr(losses, "SmoothAPLoss"), reason="the page lists a loss that came with pml 2.9"
)
def test_the_page_lists_every_loss_with_differences_of_rounding():
    page = PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|(.*)$", page, flags=re.MULTILINE)
    assert [name for name, _ in listed] == list(factories())
    for _, cells in listed:
        numbers = [float(v) for v in re.findall(r"\de[-+]\d\d", cells)]
        assert len(numbers) >= 2
        assert max(numbers) <= 1e-10


def test_the_example_learns_in_two_processes_what_it_learns_in_one():
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = []
    for start in (torchrun, []):
        run = subprocess.run(
            [sys.executable, *start, str(ROOT / "examples" / "distributed.py")],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr
        printed.append([float(v) for v in re.findall(r"loss ([\d.]+)", run.stdout)])
    assert len(printed[1]) == 3
    assert printed[0] == pytest.approx(printed[1], abs=2e-3)
