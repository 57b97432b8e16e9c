"""Losses in several processes beside one process with the joined batch."""

import datetime
import warnings

import torch
from pytorch_metric_learning.losses import (
    ContrastiveLoss,
    CrossBatchMemory,
    MarginLoss,
    MultipleLosses,
    TripletMarginLoss,
)
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.reducers import BatchSizeReducer
from pml_extras.wrappers import CrossBatchMemory as OurCrossBatchMemory
from pml_extras.wrappers import DistributedLossWrapper
from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES
from tests.conformance.pml_catalogue import CATALOGUE

PER_CLASS, FEATURES = 4, 5
ROWS = NUM_CLASSES * PER_CLASS
MODES = {
    "plain": {},
    "gathered": {"gather_gradient": True},
    "efficient": {"efficient": True},
}
CASES = [((10, 10), "plain"), ((5, 5, 10), "plain")]
CASES += [((13, 7), "plain"), ((13, 7), "efficient")]
CASES += [((9, 0, 11), mode) for mode in MODES]


ONE_STEP = ("pml DynamicSoftMarginLoss",)  # its second goes back through the graph of the first
OTHERS = {"IntraBatchConnectionsLoss": {"dropout": 0.0}, "DelayedMemoryLoss": {"memory_size": 33}}


def of_ours(name, entry):
    return entry.make(**OTHERS.get(name.split(" ")[0].rstrip(","), {}))


def factories():
    """By name, how every loss is made."""
    made = {name: lambda n=name, e=entry: of_ours(n, e) for name, entry in LOSSES.items()}
    made["CrossBatchMemory"] = lambda: OurCrossBatchMemory(ContrastiveLoss(), EMBEDDING_SIZE, 33)
    made |= {f"pml {name}": entry.make for name, entry in CATALOGUE.items()}
    made |= {
        "pml CrossBatchMemory": lambda: CrossBatchMemory(ContrastiveLoss(), EMBEDDING_SIZE, 33),
        "pml MultipleLosses": lambda: MultipleLosses([ContrastiveLoss(), TripletMarginLoss()]),
        "pml ContrastiveLoss, BatchSizeReducer": lambda: ContrastiveLoss(
            reducer=BatchSizeReducer()
        ),
        "pml TripletMarginLoss, regularizer": lambda: TripletMarginLoss(
            embedding_regularizer=LpRegularizer()
        ),
        "pml MarginLoss, learned": lambda: MarginLoss(learn_beta=True, num_classes=NUM_CLASSES),
    }
    return made


def setting(name):
    """Trunk and loss, the same on every rank."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, EMBEDDING_SIZE))
    return trunk.double(), factories()[name]().double()


def batch(step):
    """(20, 5) rows and labels, sorted: pml's SmoothAPLoss asks for it, and ranks differ most."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(PER_CLASS)
    x = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    return x + torch.eye(NUM_CLASSES, FEATURES)[labels], labels


def flat(module):
    """Its gradients in one row."""
    grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(grads) if grads else torch.zeros(0)


def steps(name, trunk, loss, call, part):
    """Values, and gradients of ``trunk`` and ``loss``, which add up over the steps."""
    values = []
    for step in range(1 if name in ONE_STEP else 2):
        x, labels = batch(step)
        value = call(x[part], labels[part])
        value.backward()
        values.append(value.detach().double())
    return {"value": torch.stack(values), "trunk": flat(trunk), "own": flat(loss)}


def alone(name):
    trunk, loss = setting(name)
    return steps(name, trunk, loss, lambda x, labels: loss(trunk(x), labels), slice(None))


def together(name, mode, part, by_hand):
    """As one rank of several; gradients averaged by DistributedDataParallel or by hand."""
    trunk, loss = setting(name)
    wrapped = DistributedLossWrapper(loss, **MODES[mode])
    call, net = wrapped, trunk
    if not by_hand:
        net = DistributedDataParallel(trunk)
        if any(p.requires_grad for p in loss.parameters()):
            call = DistributedDataParallel(wrapped)
    found = steps(name, trunk, loss, lambda x, labels: call(net(x), labels), part)
    if by_hand:
        for key in ("trunk", "own"):
            distributed.all_reduce(found[key])
            found[key] /= distributed.get_world_size()
    if mode == "efficient":
        distributed.all_reduce(found["value"])
        found["value"] /= distributed.get_world_size()
    return found


def every_loss(rank, sizes, mode):
    """Results by loss, or the text of a refusal."""
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank])
    found = {}
    for name in factories():
        try:
            found[name] = together(name, mode, part, by_hand=mode == "gathered")
        except ValueError as error:
            found[name] = str(error)
    return found


def work(rank, folder, task, worlds):
    """Be a rank of each world in turn, and save what ``task(rank, world)`` finds."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of pml, of torch's own modules
    found = {}
    for world in worlds:
        if rank < world:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/meeting of {world}",
                rank=rank,
                world_size=world,
                timeout=datetime.timedelta(seconds=300),
            )
            found[world] = task(rank, world)
            distributed.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


def spawn(task, folder, worlds=(2, 3)):
    """By world, what every rank found."""
    multiprocessing.spawn(work, args=(str(folder), task, worlds), nprocs=max(worlds))
    saved = [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(max(worlds))]
    return {world: [found[world] for found in saved[:world]] for world in worlds}


def by_case(rank, world):
    """Results by distribution of rows, mode and loss."""
    cases = [(sizes, mode) for sizes, mode in CASES if len(sizes) == world]
    return {(sizes, mode): every_loss(rank, sizes, mode) for sizes, mode in cases}


def apart(found, expected):
    """The largest difference over the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def worst(found, expected):
    """By loss and case, the worst difference of each number over ranks; None if refused.

    ``found`` is by world and rank, ``expected`` by loss.
    """
    results = {}
    for ranks in found.values():
        for case in ranks[0]:
            for name, alone_found in expected.items():
                of_ranks = [rank[case][name] for rank in ranks]
                results[name, case] = None
                if not any(isinstance(x, str) for x in of_ranks):
                    results[name, case] = {
                        key: max(apart(x[key], value) for x in of_ranks)
                        for key, value in alone_found.items()
                        if value.numel() > 0
                    }
    return results
