"""One loss over the batches of several processes, with the gradient that one process would have."""

import inspect
from typing import Any

from pytorch_metric_learning.losses import (
    BaseMetricLossFunction,
    CrossBatchMemory,
    MultipleLosses,
    SelfSupervisedLoss,
)
from pytorch_metric_learning.miners import BaseMiner
from pytorch_metric_learning.utils import distributed as pml
from torch import Tensor, nn

from pml_extras._checks import check_flag, check_rows, refuse
from pml_extras.wrappers._joined import from_first_rank, join
from pml_extras.wrappers._rank_order import refuse_joining, world_size
from pml_extras.wrappers._split import all_pairs, refuse_what_cannot_be_split, weigh
from pml_extras.wrappers.cross_batch_memory import CrossBatchMemory as OurCrossBatchMemory

_HOLDS_A_LOSS = (BaseMetricLossFunction, CrossBatchMemory, MultipleLosses, SelfSupervisedLoss)


class DistributedLossWrapper(pml.DistributedLossWrapper):
    r"""A loss of the joined batch of all processes, under ``DistributedDataParallel`` (DDP).

    Rank r of W has rows :math:`z_r`. The joined batch Z is the rows of rank 0, then those of
    rank 1, and so on: the same on every rank. Batches may differ in size; one may be empty.

    Every rank computes the same number :math:`L(Z, \theta)`, whose rows of other ranks have no
    graph. With w the weights of the trunk, DDP averages what the ranks find:

    .. math::
        \frac{1}{W} \sum_r \Bigl(\frac{\partial z_r}{\partial w}\Bigr)^{\!T}
        \frac{\partial L}{\partial z_r} = \frac{1}{W} \frac{dL}{dw}, \qquad
        \frac{1}{W} \sum_r \frac{\partial L}{\partial \theta} = \frac{\partial L}{\partial \theta}

    A row has a graph on one rank, the loss's own parameters (proxies, heads) on all. The trunk
    lacks a factor W; the parameters lack nothing. pml multiplies L by W, which mends the first and
    makes the second W times too large. Here :math:`\partial L / \partial z_r` alone is multiplied
    by W, on its way from the loss to the trunk, and both averages are the gradients of one process
    on Z. The value is L itself. The own gradients are those of one process on each rank already:
    the loss may be inside DDP, ``DDP(DistributedLossWrapper(loss))``, or, begun equal on all ranks,
    outside with an optimizer of its own, averaged or not.

    ``gather_gradient`` adds :math:`\partial L_s / \partial z_r` over ranks s in the backward pass
    instead, at the price of one ``all_reduce`` of (N, D). That is the same where all ranks compute
    the same L; where a loss draws random numbers, it is the gradient of the mean of their values.
    Every rank must then call ``backward``.

    ``efficient`` compares the own rows with all: (:math:`n_r`, N) scores instead of (N, N), and a
    list of their pairs, 16 bytes each, which leaves out self comparisons. Rank r gets
    :math:`L_r = (W c_r / C) \cdot \mathrm{reduced}(z_r \text{ against } Z)`, where
    :math:`c_r` counts the terms that the reducer averages over and :math:`C = \sum_r c_r`, so that
    L is the mean of the :math:`L_r`. With the gradient gathered, which is the default then,

    .. math::
        \frac{1}{W} \sum_r \sum_s \Bigl(\frac{\partial z_r}{\partial w}\Bigr)^{\!T}
        \frac{\partial L_s}{\partial z_r} = \frac{dL}{dw}, \qquad
        \frac{1}{W} \sum_r \frac{\partial L_r}{\partial \theta} = \frac{\partial L}{\partial \theta}

    for losses that are a mean of terms of one anchor each, which is compared with references; own
    gradients must be averaged. The first call tries whether the terms of 8 rows are those of 5 and
    of 3 of them against all, and refuses a loss of which they are not: LiftedStructureLoss, say,
    whose terms use the negatives of both ends of a pair, or one that draws triplets. The try leaves
    the loss and the generators of random numbers alone. docs/distributed.md lists both kinds.
    Without the gradient gathered, rows do not learn from being other ranks' references.

    Args:
        loss: a BaseMetricLossFunction, CrossBatchMemory, SelfSupervisedLoss or MultipleLosses, with
            nothing distributed inside. Our :class:`CrossBatchMemory` inside is told that its rows
            are joined: from then on it is for use inside.
        efficient: local rows against all rows. Takes a BaseMetricLossFunction that honours
            references and index tuples, under MeanReducer, AvgNonZeroReducer, DivisorReducer or
            BatchSizeReducer.
        gather_gradient: None is the value of ``efficient``.

    Other arguments are those of the loss, each of this rank: references are joined as rows are.
    ``indices_tuple`` holds positions in the joined batch and is the same on every rank, as
    DistributedMinerWrapper returns it; with ``efficient``, anchors are local rows and differ.

    Every rank calls it as often as the others, in evaluation too. Arguments that do not fit those
    of other ranks are refused by all; where one rank alone raises, the others wait until the group
    gives up (torchrun ends them).

    Once differentiable: ``create_graph=True`` at the embeddings raises a RuntimeError, as ranks do
    not know how their gradients depend on rows of others. A trunk whose rows see each other sees
    those of its rank alone: convert batch norm to SyncBatchNorm.

    Departures from ``pytorch_metric_learning.utils.distributed`` 2.9.0: rows in rank order, where
    local rows come first, so memories agree and sorted batches stay sorted; uneven batches; the
    factor; self comparisons go by position also on ranks other than 0; terms of ``efficient``
    weigh by their number; one process gets the loss itself, without a warning. Keys of the state
    dict begin with ``loss.`` as pml's do.

    Raises:
        ValueError: another loss, or one that joins ranks itself; ranks give arguments of other
            types, or other index tuples; ``efficient`` with a loss or reducer that cannot be split.
    """

    def __init__(
        self, loss: nn.Module, efficient: bool = False, gather_gradient: bool | None = None
    ) -> None:
        nn.Module.__init__(self)  # pml's refuses two of these
        kinds = (BaseMetricLossFunction,) if efficient else _HOLDS_A_LOSS
        if not isinstance(loss, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            way_out = "Put DistributedDataParallel around this wrapper, not inside."
            if isinstance(loss, type):
                way_out = "Give an instance."
            raise refuse("loss", f"a {names}", type(loss).__name__, way_out)
        refuse_joining(loss=loss)
        gather_gradient = efficient if gather_gradient is None else gather_gradient
        check_flag(efficient=efficient, gather_gradient=gather_gradient)
        self.loss = loss
        self.efficient = efficient
        self.gather_gradient = gather_gradient
        self._can_be_split = False  # not known yet
        for module in loss.modules():
            if isinstance(module, OurCrossBatchMemory):
                module.rows_are_joined = True

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """Compute the loss of the joined batch, or with ``efficient`` this rank's part."""
        parts = {
            "labels": labels,
            "ref_emb": ref_emb,
            "ref_labels": ref_labels,
            "enqueue_mask": enqueue_mask,
        }
        given: dict[str, Any] = {name: x for name, x in parts.items() if x is not None}
        if indices_tuple is not None:
            given["indices_tuple"] = indices_tuple
        try:
            inspect.signature(self.loss.forward).bind(embeddings, **given)
        except TypeError as error:
            came = str(error).removeprefix("got ")
            raise refuse("arguments", f"those of {type(self.loss).__name__}", came) from None
        if world_size() == 1:
            return self.loss(embeddings, **given)
        if labels is not None and ref_emb is embeddings and ref_labels is labels:
            given = {name: x for name, x in given.items() if not name.startswith("ref_")}
        if self.efficient and not self._can_be_split:
            check_rows(embeddings=embeddings)
            refuse_what_cannot_be_split(self.loss, embeddings.shape[1])
            self._can_be_split = True
        factor = None if self.gather_gradient else (1 if self.efficient else world_size())
        tuples_agree = not self.efficient
        own, joined = join({"embeddings": embeddings, **given}, factor, tuples_agree)
        if self.efficient:
            return self._share(own, joined)
        return self.loss(joined.pop("embeddings"), **joined)

    def _share(self, own: dict[str, Any], joined: dict[str, Any]) -> Tensor:
        """This rank's part of the loss, times the number of ranks."""
        x, labels, listed = own["embeddings"], own.get("labels"), own.get("indices_tuple")
        if "ref_emb" in joined:
            references, ref_labels = joined["ref_emb"], joined.get("ref_labels")
        else:
            references, ref_labels = joined["embeddings"], joined.get("labels")
            if listed is None and labels is not None:
                listed = all_pairs(labels, joined["labels"], own["start"])
        hook = self.loss.reducer.register_forward_pre_hook(weigh)
        try:
            if len(x) == 0:  # some losses divide by the number of rows
                value = self.loss.reducer(self.loss.zero_losses(), x, labels)
            else:
                value = self.loss(x, labels, listed, references, ref_labels)
        finally:
            hook.remove()
        # A rank without a term takes part in the backward pass of the others, and in that of DDP.
        used = [x, references, *(p for p in self.loss.parameters() if p.requires_grad)]
        part: Tensor = value + sum(leaf.flatten()[:0].sum().to(value.dtype) for leaf in used)
        return part


class DistributedMinerWrapper(pml.DistributedMinerWrapper):
    """A miner over the joined batch, in the row order of :class:`DistributedLossWrapper`.

    Each rank gives its own rows and references and gets positions in the joined ones: what rank 0
    chose, so that a miner that draws random numbers agrees with itself. With ``efficient`` a rank
    gets what has its own rows as anchors, by their position in its own batch. One process gets the
    miner's own tuple.

    Departures from pml 2.9.0: the order of rows, uneven batches, and ``efficient`` tuples are a
    part of those of one process; pml mines local rows against all rows, each its own easiest
    positive, and drops these pairs afterwards.

    Raises:
        ValueError: ``miner`` is no BaseMiner; ranks give arguments of other types.
    """

    def __init__(self, miner: nn.Module, efficient: bool = False) -> None:
        nn.Module.__init__(self)
        if not isinstance(miner, BaseMiner):
            raise refuse("miner", "a BaseMiner", type(miner).__name__)
        refuse_joining(miner=miner)
        check_flag(efficient=efficient)
        self.miner = miner
        self.efficient = efficient

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Mine."""
        if world_size() == 1:
            return tuple(self.miner(embeddings, labels, ref_emb, ref_labels))
        given: dict[str, Any] = {"embeddings": embeddings.detach(), "labels": labels}
        if ref_emb is not None and not (ref_emb is embeddings and ref_labels is labels):
            given |= {"ref_emb": ref_emb.detach(), "ref_labels": ref_labels}
        own, joined = join(given, 1, True)
        found = from_first_rank(self.miner(**joined), embeddings.device)
        if not self.efficient:
            return found
        kept: list[Tensor] = []
        for anchors, *others in [found] if len(found) == 3 else [found[:2], found[2:]]:
            local = anchors - own["start"]
            mine = (local >= 0) & (local < len(embeddings))
            kept += [local[mine], *(x[mine] for x in others)]
        return tuple(kept)
