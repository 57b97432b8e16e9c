"""Losses in several processes beside one process with the joined batch."""

import datetime

import torch
from pytorch_metric_learning.losses import CrossBatchMemory, MultipleLosses, TripletMarginLoss
from pytorch_metric_learning.losses import ContrastiveLoss as PmlContrastiveLoss
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pml_extras.wrappers import DistributedLossWrapper
from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES
from tests.conformance.pml_catalogue import CATALOGUE

PER_CLASS, FEATURES = 6, 5
ROWS = NUM_CLASSES * PER_CLASS
SIZES = ((15, 15), (19, 11), (10, 10, 10), (17, 0, 13))
MODES = {
    "plain": {},
    "gathered": {"gather_gradient": True},
    "efficient": {"efficient": True},
}


ONE_STEP = ("pml DynamicSoftMarginLoss",)  # its second goes back through the graph of the first
OTHERS = {"IntraBatchConnectionsLoss": {"dropout": 0.0}, "DelayedMemoryLoss": {"memory_size": 53}}


def of_ours(name, entry):
    return entry.make(**OTHERS.get(name.split(" ")[0].rstrip(","), {}))


def factories():
    """By name, how every loss is made."""
    made = {name: lambda n=name, e=entry: of_ours(n, e) for name, entry in LOSSES.items()}
    made |= {f"pml {name}": entry.make for name, entry in CATALOGUE.items()}
    made["pml CrossBatchMemory"] = lambda: CrossBatchMemory(
        PmlContrastiveLoss(), EMBEDDING_SIZE, memory_size=2 * ROWS - 7
    )
    made["pml MultipleLosses"] = lambda: MultipleLosses([PmlContrastiveLoss(), TripletMarginLoss()])
    return made


def setting(name):
    """Trunk and loss, the same on every rank."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, EMBEDDING_SIZE))
    return trunk.double(), factories()[name]().double()


def batch(step):
    """(30, 5) rows and labels, sorted: pml's SmoothAPLoss asks for it, and ranks differ most."""
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


def every_loss(rank, sizes, refused):
    """Results by mode and loss, or the text of a refusal."""
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank])
    found = {}
    for mode in MODES:
        for name in factories():
            if (mode, name) in refused:
                continue
            try:
                found[mode, name] = together(name, mode, part, by_hand=mode == "gathered")
            except Exception as error:
                if mode != "efficient":
                    raise
                found[mode, name] = f"{type(error).__name__}: {error}"
                refused.add((mode, name))
    return found


def work(rank, world, folder, task):
    """Start a rank, save what ``task(rank, world)`` finds."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=120),
    )
    torch.save(task(rank, world), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def spawn(task, world, folder):
    """What every rank found."""
    multiprocessing.spawn(work, args=(world, str(folder), task), nprocs=world)
    return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(world)]


def by_sizes(rank, world):
    """Results of every loss, mode and distribution of rows; what was refused is not tried again,
    as a rank without rows would wait for the others."""
    refused = set()
    return {s: every_loss(rank, s, refused) for s in SIZES if len(s) == world}


def apart(found, expected):
    """The largest difference over the largest entry."""
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
