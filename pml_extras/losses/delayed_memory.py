"""A contrastive loss of the batch, and later of a memory of batches too."""

from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory
from torch import Tensor, nn

from pml_extras._checks import check_count, refuse
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    already_reduced_parts,
    check_columns,
    refuse_references,
)
from pml_extras.functional.rows import without_gradient_at_zero
from pml_extras.losses._members import check_member, member_value
from pml_extras.reducers.batch_size import BatchSizeReducer


def single_margin_contrastive() -> ContrastiveLoss:
    r"""The contrastive loss of the recipe: cosines, one margin, over the batch size.

    .. math::
        L = \frac{1}{B} \Big( \sum_{(i, j): y_i = y_j} [1 - 10^{-5} - s_{ij}]_+
          + \sum_{(i, j): y_i \ne y_j} [s_{ij} - 0.5]_+ \Big)

    over ordered pairs of two rows.
    """
    return ContrastiveLoss(
        pos_margin=1 - 1e-5,
        neg_margin=0.5,
        distance=CosineSimilarity(),
        reducer=BatchSizeReducer(),
    )


class DelayedMemoryLoss(FullPrecisionLoss):
    r"""A loss within the batch, plus the same loss against a memory of past batches.

    .. math::
        L = \ell(X, X) + [t > t_0]\, \ell(X, M_t)

    in batch t = 1, 2, ... with the memory :math:`M_t` of the last rows, the batch among them.
    Rows are stored as they come, without gradient, from the first batch on; they are compared once
    the trunk has slowed down, and not before. Each pair of the batch so counts twice, the second
    time pulling its anchor alone. No row is compared with itself: the authors keep those pairs,
    which cost 0 within the slack of 1e-5; pml leaves them out, which is the same number, and right
    for other losses.

    Args:
        embedding_size: D.
        memory_size: rows in memory, at least as many as in a batch. Authors: 25 (CUB, Cars196), 400
            (In-Shop) or 1400 (SOP) batches of 32.
        start_after: :math:`t_0` >= 0 batches. Authors: 1000, plus the batches in memory.
        loss: one that pml's ``CrossBatchMemory`` supports; None is the authors',
            ``ContrastiveLoss(pos_margin=1 - 1e-5, neg_margin=0.5, distance=CosineSimilarity(),
            reducer=BatchSizeReducer())``. Both terms share it.
        **kwargs: ``reducer`` (of no effect on values: the sub-losses ``batch_loss`` and
            ``memory_loss`` come reduced), ``embedding_regularizer``, ``collect_stats``. No
            ``distance``: the loss has its own.

    Attributes:
        memory: pml's ``CrossBatchMemory``, whose ``loss`` is the one above.
        num_batches: int, t, of batches that were stored; in the state dict, as is where the queue
            stands.

    In evaluation mode the loss is that of the batch alone: held-out rows are not stored, and labels
    of another split are not compared with those in memory. References are refused. A miner's tuple
    chooses pairs of the batch; the memory term takes all pairs (``loss.memory.miner`` may be set).

    Departures from pml 2.9.0: its memory replaces the term of the batch, starts at once, and
    applies a miner's tuple of the batch to rows of the memory at these positions; where the queue
    stands is not in its state dict, so a reloaded memory is taken for an empty one. Here it is. A
    memory keeps its dtype; pml casts it to that of the rows. On several processes each has its own.

    Source: Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023, the
    configuration of the authors' released code,
    https://github.com/yetigurbuz/generalized-sum-pooling; the memory is that of Wang et al.,
    "Cross-Batch Memory for Embedding Learning", CVPR 2020, https://arxiv.org/abs/1912.06798.

    Raises:
        ValueError: an argument out of its range; a distance; references; no labels; rows of another
            size or more than the memory holds; what the loss refuses, with its name.
    """

    def __init__(
        self,
        embedding_size: int,
        memory_size: int,
        start_after: int,
        loss: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "Give it to the loss.")
        super().__init__(**kwargs)
        check_count(1, embedding_size=embedding_size, memory_size=memory_size)
        check_count(0, start_after=start_after)
        loss = single_margin_contrastive() if loss is None else loss
        check_member("loss", loss)
        if type(loss).__name__ not in CrossBatchMemory.supported_losses():
            expected = "one of pml's " + ", ".join(CrossBatchMemory.supported_losses())
            raise refuse("loss", expected, type(loss).__name__)
        self.embedding_size = embedding_size
        self.memory_size = memory_size
        self.start_after = start_after
        self.memory = CrossBatchMemory(loss, embedding_size, memory_size)
        self.num_batches = 0
        names = ["embedding_size", "memory_size", "start_after"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        refuse_references(embeddings, ref_emb, "The memory holds the references.")
        check_columns(self.embedding_size, embeddings=embeddings)
        if labels is None or labels.is_floating_point():
            came = "None" if labels is None else str(labels.dtype)
            raise refuse("labels", "(B,) integers", came, "The memory stores them.")
        if len(embeddings) > self.memory_size:
            expected = f"at most memory_size = {self.memory_size} rows"
            raise refuse("embeddings", expected, f"{len(embeddings)} rows")
        normalises = self.memory.loss.distance.normalize_embeddings
        rows = without_gradient_at_zero(embeddings) if normalises else embeddings
        given = [rows, labels.long()]
        parts = {"batch_loss": member_value("loss", self.memory.loss, given, indices_tuple, [])}
        parts["memory_loss"] = torch.zeros_like(parts["batch_loss"])
        if self.training:
            self.num_batches += 1
            if self.num_batches > self.start_after:
                parts["memory_loss"] = member_value("memory", self.memory, given, None, [])
            else:
                self._store(*given)
        return already_reduced_parts(parts)

    def _store(self, rows: Tensor, labels: Tensor) -> None:
        """What ``memory`` does with a batch before it compares, without casting what it holds."""
        memory = self.memory
        memory.embedding_memory = memory.embedding_memory.to(rows.device)
        memory.label_memory = memory.label_memory.to(rows.device)
        memory.add_to_memory(rows.to(memory.embedding_memory), labels, len(rows))

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "num_batches": self.num_batches,
            "queue_idx": self.memory.queue_idx,
            "has_been_filled": self.memory.has_been_filled,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_batches = state["num_batches"]
        self.memory.queue_idx = state["queue_idx"]
        self.memory.has_been_filled = state["has_been_filled"]

    def _sub_loss_names(self) -> list[str]:
        return ["batch_loss", "memory_loss"]
