"""What a rank of several does and finds, beside the gradients of every loss."""

import warnings

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import distributed as pml
from torch import distributed

from pml_extras._global_state import GlobalState
from pml_extras.losses import SmoothedProxyNCALoss
from pml_extras.wrappers import (
    CrossBatchMemory,
    DistributedLossWrapper,
    DistributedMinerWrapper,
)

SIZES = {2: (5, 4), 3: (2, 0, 7)}
EVEN = {2: (4, 4), 3: (3, 3, 3)}
COLUMNS = 3


class Recording(BaseMetricLossFunction):
    """Keeps what it is called with."""

    def forward(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        return super().forward(*args, **kwargs)

    def compute_loss(self, embeddings, *_):
        return {
            "loss": {
                "losses": embeddings.sum(),
                "indices": None,
                "reduction_type": "already_reduced",
            }
        }


class Noisy(Recording):
    """Another loss with each draw: the sum of squares times the draw."""

    def compute_loss(self, embeddings, *_):
        self.draw = torch.rand(())
        loss = embeddings.square().sum() * self.draw
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}


class RandomMiner(miners.BaseMiner):
    def mine(self, embeddings, labels, ref_emb, ref_labels):
        return tuple(torch.randint(len(labels), (5,)) for _ in range(3))


def rows(world, seed=0, dtype=torch.float64):
    """Rows and labels of the whole batch."""
    generator = torch.Generator().manual_seed(seed)
    num = sum(SIZES[world])
    x = torch.randn(num, COLUMNS, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(3, (num,), generator=generator)


class Scene:
    """One rank's part."""

    def __init__(self, rank, world, sizes=SIZES):
        start = sum(sizes[world][:rank])
        self.rank, self.world = rank, world
        self.part = slice(start, start + sizes[world][rank])

    def batch(self, seed=0, dtype=torch.float64):
        x, labels = rows(self.world, seed, dtype)
        return x[self.part].clone().requires_grad_(), labels[self.part]

    def arguments_in_rank_order(self):
        found = {}
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            loss = Recording()
            (x, labels), (y, ref_labels) = self.batch(0, dtype), self.batch(1, dtype)
            listed = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
            wrapped = DistributedLossWrapper(loss)
            wrapped(x, labels.to(torch.int16), listed, y, ref_labels)
            found[dtype] = {"embeddings": loss.args[0], **loss.kwargs}
        return found

    def _gradient(self, wrapped, miner=None, references=False):
        x, labels = self.batch()
        y, ref_labels = self.batch(1) if references else (None, None)
        listed = miner(x, labels, y, ref_labels) if miner else None
        wrapped(x, labels, listed, y, ref_labels).backward()
        grads = {"x": x.grad / self.world, "tuple": listed}
        return {**grads, "y": y.grad / self.world} if references else grads

    def miners_and_references(self):
        found = {}
        for efficient in (False, True):
            for kind in (miners.MultiSimilarityMiner, miners.TripletMarginMiner):
                for references in (False, True):
                    found[efficient, kind.__name__, references] = self._gradient(
                        DistributedLossWrapper(losses.TripletMarginLoss(), efficient=efficient),
                        DistributedMinerWrapper(kind(), efficient=efficient),
                        references,
                    )
            found[efficient, None, True] = self._gradient(
                DistributedLossWrapper(losses.ContrastiveLoss(), efficient=efficient), None, True
            )
        return found

    def random_miner(self):
        torch.manual_seed(self.rank)
        return DistributedMinerWrapper(RandomMiner())(*self.batch())

    def efficient_without_gradient_of_others(self):
        loss = losses.NTXentLoss()
        return self._gradient(DistributedLossWrapper(loss, True, gather_gradient=False))

    def random_losses(self):
        """Gradients of the rows, and the draw of this rank."""
        found = {}
        for gather in (False, True):
            torch.manual_seed(self.rank)
            loss = Noisy()
            found[gather] = self._gradient(DistributedLossWrapper(loss, gather_gradient=gather))[
                "x"
            ]
        return {**found, "draw": loss.draw}

    def two_views(self):
        x, y = self.batch()[0], self.batch(1)[0]
        loss = losses.SelfSupervisedLoss(losses.NTXentLoss())
        value = DistributedLossWrapper(loss)(x, ref_emb=y)
        value.backward()
        return value.detach(), x.grad / self.world, y.grad / self.world

    def memory(self):
        """After three batches, some rows of which are kept."""
        loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), COLUMNS, memory_size=10)
        wrapped = DistributedLossWrapper(loss)
        for step in range(3):
            x, labels = self.batch(step)
            mask = torch.arange(sum(SIZES[self.world]))[self.part] % 2 == 0
            wrapped(x, labels, enqueue_mask=mask)
        return loss.embedding_memory, loss.label_memory

    def memory_of_ours(self):
        """Inside an ensemble, too: values, and what is kept."""
        memory = CrossBatchMemory(losses.ContrastiveLoss(), COLUMNS, memory_size=10).double()
        wrapped = DistributedLossWrapper(losses.MultipleLosses([memory]))
        values = [wrapped(*self.batch(step)).detach() for step in range(3)]
        return values, memory.embedding_memory, memory.label_memory, memory.queue_idx

    def what_can_be_split(self):
        """What is said of each loss, and whether the generators are as they were."""
        tried = {
            "of two classes": losses.MarginLoss(learn_beta=True, num_classes=2),
            "draws": losses.TripletMarginLoss(triplets_per_anchor=2, margin=1.0),
            "all hinges closed": losses.LiftedStructureLoss(neg_margin=-50, pos_margin=0),
            "dictionary": losses.ContrastiveLoss(reducer=reducers.DoNothingReducer()),
        }
        found = {}
        for name, loss in tried.items():
            x, labels = self.batch()
            before = GlobalState.now()
            try:
                DistributedLossWrapper(loss, efficient=True)(x, labels % 2)
                said = ""
            except ValueError as error:
                said = str(error)
            found[name] = said, GlobalState.now().changed_from(before)
        return found

    def rows_without_graph_on_one_rank(self):
        found = []
        for arguments in ({}, {"gather_gradient": True}, {"efficient": True}):
            x, labels = self.batch()
            if self.rank == 1:
                x = x.detach()
            wrapped = DistributedLossWrapper(losses.NTXentLoss(), **arguments)
            wrapped(x, labels).backward()
            found.append(torch.zeros_like(x) if x.grad is None else x.grad / self.world)
        return found

    def half(self):
        """Gradients of rows and proxies, and types."""
        found = {}
        for dtype in (torch.float16, torch.bfloat16):
            for arguments in ({}, {"gather_gradient": True}):
                torch.manual_seed(0)
                loss = SmoothedProxyNCALoss(3, COLUMNS)
                x, labels = self.batch(0, dtype)
                with torch.autocast("cpu", torch.bfloat16):
                    value = DistributedLossWrapper(loss, **arguments)(x, labels)
                value.backward()
                found[dtype, bool(arguments)] = (value.detach(), x.grad, loss.proxies.grad)
        return found

    def second_derivatives(self):
        for arguments in ({}, {"gather_gradient": True}):
            x, labels = self.batch()
            value = DistributedLossWrapper(losses.NTXentLoss(), **arguments)(x, labels)
            with pytest.raises(RuntimeError, match="create_graph: expected False"):
                torch.autograd.grad(value, x, create_graph=True)
            value.backward()
            assert x.grad.isfinite().all()

    def dictionaries(self):
        loss = losses.ContrastiveLoss(reducer=reducers.DoNothingReducer())
        entries = DistributedLossWrapper(loss)(*self.batch())
        return {name: entry["losses"].detach() for name, entry in entries.items()}

    def factor_of_pml(self):
        """Own gradients by pml's wrapper and by ours, of an even batch."""
        found = []
        for wrapper in (pml.DistributedLossWrapper, DistributedLossWrapper):
            torch.manual_seed(0)
            loss = SmoothedProxyNCALoss(3, COLUMNS).double()
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(9, COLUMNS, generator=generator, dtype=torch.float64)[self.part]
            wrapper(loss)(x, (torch.arange(9) % 3)[self.part]).backward()
            found.append(loss.proxies.grad)
        return found

    def refusals(self):
        """Each on every rank, after which the others can still be met."""
        (x, labels), first = self.batch(), self.rank == 0
        own = torch.tensor([self.rank])
        plain = losses.ContrastiveLoss()
        wide = torch.cat([x, x], dim=1) if first else x
        tries = {
            "types": (plain, {}, (x, labels.int() if first else labels)),
            "labels of one": (plain, {}, (x, None if first else labels)),
            "columns": (plain, {}, (wide, labels)),
            "tuples": (plain, {}, (x, labels, (own, own, own))),
            "order of tuples": (
                plain,
                {},
                (x, labels, (torch.tensor([first, not first]).long(),) * 3),
            ),
            "tuple of one": (
                plain,
                {"efficient": True},
                (x, labels, (own,) * 3 if first else None),
            ),
            "references": (SmoothedProxyNCALoss(3, COLUMNS), {"efficient": True}, (x, labels)),
            "reducer": (
                losses.NTXentLoss(reducer=reducers.SumReducer()),
                {"efficient": True},
                (x, labels),
            ),
            "terms": (losses.NCALoss(), {"efficient": True}, (x, labels)),
            "failing": (losses.ThresholdConsistentMarginLoss(), {"efficient": True}, (x, labels)),
        }
        found = {}
        for name, (loss, arguments, given) in tries.items():
            with pytest.raises(ValueError) as refusal:  # noqa: PT011, the test matches each text
                DistributedLossWrapper(loss, **arguments)(*given)
            found[name] = str(refusal.value)
            distributed.barrier()
        return found


def scenes(rank, world):
    """Everything that a rank finds, by name."""
    scene = Scene(rank, world)
    names = [name for name in vars(Scene) if not name.startswith("_") and name != "batch"]
    even = Scene(rank, world, EVEN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {n: getattr(even if n == "factor_of_pml" else scene, n)() for n in names}
