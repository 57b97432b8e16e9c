"""A loss of the batch against the batch and a memory of past batches."""

from typing import Any

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn

from pml_extras._checks import check_count, check_indices_tuple, check_rows, check_vector, refuse
from pml_extras._pml import check_columns
from pml_extras.functional.precision import at_least_float32, call_in_widest, no_autocast
from pml_extras.wrappers._asking import require
from pml_extras.wrappers._questions import of_memory
from pml_extras.wrappers._rank_order import gathered, refuse_joining

_Tuple = tuple[Tensor, ...]


class CrossBatchMemory(losses.CrossBatchMemory):
    r"""Each row of a batch against the batch and a memory of the rows before it.

    .. math::
        L_t = \ell\big(X_t \mid R_t;\; T_t\big), \qquad
        R_t = [\bar X_t, M_t], \qquad
        T_t = \{(i, j): j \ne i\}

    In batch t the loss :math:`\ell` compares the B rows :math:`X_t`, which alone have a gradient,
    with references :math:`R_t`: their copies as stored, reference i being that of row i, and the
    :math:`M_t` newest rows before them, as many as ``memory_size`` leaves. :math:`T_t`, which says
    which pairs count, is all but those of a row and its copy: positives are those of equal labels,
    negatives the others. Then the batch is stored over the oldest rows.

    With a ``miner`` the pairs or triplets are those it finds in :math:`(X_t, R_t)`, but for those
    of which the positive is the row's copy; a miner that prefers easy positives finds nothing else,
    and needs an ``enqueue_mask``. A tuple that is given concerns the batch alone, and is added:
    what it lists counts once more, against the copies.

    Args:
        loss: any, of pml or not, that compares rows with references and honours a tuple. It is
            asked with small batches at construction: other references and another tuple must change
            its value; labels of rows that are not listed, and the order of the references after the
            copies, must not. Of pml 2.9.0 that are 15 losses, ``TripletMarginLoss(swap=True)`` not
            among them: it takes a reference for a row. ``NCALoss`` reads a tuple as weights of
            rows, so there each row has its copy for a positive.
        embedding_size: D.
        memory_size: rows in memory, at least as many as are stored at once.
        miner: one that takes references.
        start_after: >= 0 batches at first, in which nothing is stored and the loss is that of the
            batch alone; the paper starts after 1,000.
        **kwargs: ``collect_stats``.

    Attributes:
        num_batches: int, batches seen in training mode; in the state dict, as is where the queue
            stands, so that a run goes on from it as if unbroken.

    In the batch alone, at first and in evaluation mode, both rows of a pair have a gradient, the
    tuple is what the miner finds or what is given, and without either the loss chooses itself. In
    evaluation mode nothing is stored: held-out rows are not compared with those of training. Under
    ``no_grad`` training mode stores and compares as ever.

    Triplet losses: pml forms all triplets of the pairs, in a table of positive pairs by negative
    pairs, which for 64 rows against 1,024 has a hundred million entries and more; a miner of
    triplets is for them.

    On several processes each compares its own rows, and all rows are stored, in the order of the
    ranks, whatever their number on each, so all memories are equal; the mean that
    ``DistributedDataParallel`` takes of gradients is that of the processes' losses. All must call
    it, or the others wait. Inside :class:`DistributedLossWrapper`, which joins the rows already,
    the loss is that of one process with the joined batch. pml's own would join them twice.

    A memory keeps its dtype, and so does what the loss holds; all is computed in float32 at least,
    in autocast regions too.

    A state dict of pml's loads: what it lacks is read from its rows. If the last is not zero, the
    memory is full, and slot 0 next to be replaced, which may not be the oldest; otherwise the rows
    after the last that is not zero are free. For pml to load ours takes ``strict=False``.

    Departures from pml 2.9.0, besides: names of losses are not asked; a tuple that is given is
    applied to the batch's own rows, not to those that stand at its positions in memory; the copies
    come first, so that where a row stands in memory changes no value (of ``LiftedStructureLoss`` it
    did); a batch of one row is not compared with itself; a mask that stores nothing does not fill
    the memory with zeros; an empty batch gives an attached 0; rows in memory may be replaced before
    ``backward``; labels are int64.

    Source: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020, section 3.3,
    https://arxiv.org/abs/1912.06798, whose loss of the batch is added to this one: see
    :class:`pml_extras.losses.DelayedMemoryLoss`.

    Raises:
        ValueError: an argument out of its range; the loss cannot do that; rows of another size, or
            more to store than the memory holds; what the loss refuses.

    >>> from pml_extras.losses import BinomialDevianceLoss
    >>> loss_func = CrossBatchMemory(BinomialDevianceLoss(), embedding_size=3, memory_size=6)
    >>> values = [loss_func(torch.eye(3), torch.tensor([0, 0, 1])) for _ in range(2)]
    >>> loss_func.label_memory
    tensor([0, 0, 1, 0, 0, 1])
    """

    loss: nn.Module
    miner: nn.Module | None
    embedding_size: int
    memory_size: int
    embedding_memory: Tensor
    label_memory: Tensor
    queue_idx: int
    has_been_filled: bool
    curr_batch_idx: Tensor
    rows_are_joined = False  # True inside our DistributedLossWrapper

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int = 1024,
        miner: nn.Module | None = None,
        start_after: int = 0,
        **kwargs: Any,
    ) -> None:
        check_count(1, embedding_size=embedding_size, memory_size=memory_size)
        check_count(0, start_after=start_after)
        refuse_joining(loss=loss, miner=miner)
        require(
            loss,
            of_memory(embedding_size),
            "one that compares rows with references, those that a tuple lists",
            "Leave it beside the memory: add the two values.",
        )
        super().__init__(loss, embedding_size, memory_size, miner, **kwargs)
        self.start_after = start_after
        self.num_batches = 0
        self.add_to_recordable_attributes(list_of_names=["start_after"], is_stat=False)

    @classmethod
    def check_loss_support(cls, loss_name: str) -> None:
        """No name is refused: the loss was asked."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: _Tuple | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        self._check(embeddings, labels, indices_tuple, enqueue_mask)
        self.reset_stats()
        labels = labels.to(embeddings.device, torch.int64)
        if indices_tuple is not None:  # one without entries may be of any dtype
            indices_tuple = tuple(x.to(labels) for x in indices_tuple)
        compared, compared_labels, keys, key_labels = embeddings, labels, embeddings, labels
        if enqueue_mask is not None:
            mask = enqueue_mask.to(embeddings.device)
            compared, compared_labels = embeddings[~mask], labels[~mask]
            keys, key_labels = embeddings[mask], labels[mask]
        is_own = enqueue_mask is None
        keys = keys.detach().to(self.embedding_memory.dtype)
        with no_autocast(embeddings):
            if not self._with_memory():
                if is_own:
                    return self._value(compared, compared_labels, indices_tuple)
                return self._value(compared, compared_labels, None, keys, key_labels, False)
            references = self._enqueue(keys, key_labels)
            return self._value(compared, compared_labels, indices_tuple, *references, is_own)

    def _check(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, enqueue_mask: Any
    ) -> None:
        check_rows(embeddings=embeddings)
        check_columns(self.embedding_size, embeddings=embeddings)
        check_vector(len(embeddings), labels=labels)
        if labels.is_floating_point():
            raise refuse("labels", "integers", labels.dtype, "Call .long() on them.")
        if indices_tuple is not None:
            check_indices_tuple(indices_tuple, len(embeddings), len(embeddings))
        if enqueue_mask is not None:
            check_vector(len(embeddings), enqueue_mask=enqueue_mask)
            if enqueue_mask.dtype != torch.bool:
                raise refuse("enqueue_mask", "torch.bool", enqueue_mask.dtype)
            if indices_tuple is not None:
                raise refuse("indices_tuple", "None beside an `enqueue_mask`", "a tuple")

    def _with_memory(self) -> bool:
        if self.training:
            self.num_batches += 1
        return self.training and self.num_batches > self.start_after

    def _enqueue(self, keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Store the rows of all processes; return the memory, those of this process first."""
        self.embedding_memory = self.embedding_memory.to(keys.device)
        self.label_memory = self.label_memory.to(keys.device)
        joined = (keys, labels, 0) if self.rows_are_joined else gathered(keys, labels)
        new, new_labels, start = joined
        if len(new) > self.memory_size:
            expected = f"at most memory_size = {self.memory_size} rows, of all processes together"
            raise refuse("embeddings", expected, f"{len(new)} rows")
        older = self._newest(self.memory_size - len(new))
        stop = start + len(keys)
        others = [new[:start], new[stop:], self.embedding_memory[older]]
        other_labels = [new_labels[:start], new_labels[stop:], self.label_memory[older]]
        self.add_to_memory(new, new_labels, len(new))
        return torch.cat([keys, *others]), torch.cat([labels, *other_labels])

    def _newest(self, num: int) -> Tensor:
        """Where the last ``num`` rows stand, or all if there are less, oldest first."""
        num = min(num, self.memory_size if self.has_been_filled else self.queue_idx)
        first = self.queue_idx - num
        return torch.arange(first, first + num, device=self.label_memory.device) % self.memory_size

    def reset_queue(self) -> None:
        """Forget all rows; pml 2.9.0 forgets the dtype and the device of the memory too."""
        kept = self._buffers.get("embedding_memory")
        super().reset_queue()
        if kept is not None:
            self.embedding_memory = torch.zeros_like(kept)
            self.label_memory = self.label_memory.to(kept.device)

    def add_to_memory(self, embeddings: Tensor, labels: Tensor, batch_size: int) -> None:
        """Store rows over the oldest; pml 2.9.0 takes the memory for full if there are none."""
        if batch_size == 0:
            self.curr_batch_idx = self.label_memory.new_zeros(0)
            return
        super().add_to_memory(embeddings, labels, batch_size)

    def _value(
        self,
        rows: Tensor,
        labels: Tensor,
        given: _Tuple | None,
        ref: Tensor | None = None,
        ref_labels: Tensor | None = None,
        is_own: bool = False,
    ) -> Any:
        if len(rows) == 0 or (ref is not None and len(ref) == 0):
            parameters = sum(0.0 * parameter.sum() for parameter in self.loss.parameters())
            nothing: Tensor = at_least_float32(rows[:0]).sum() + parameters
            return nothing
        rows = at_least_float32(rows)
        if ref is None:
            listed = self.miner(rows, labels) if self.miner is not None else None
            return call_in_widest(self.loss, rows, labels, _joined(listed, given, labels))
        dtype = torch.promote_types(rows.dtype, ref.dtype)
        rows, ref = rows.to(dtype), ref.to(dtype)
        if self.miner is not None:
            listed = self.miner(rows, labels, ref, ref_labels)
        else:
            listed = lmu.get_all_pairs_indices(labels, ref_labels)
        if is_own:
            listed = _without_copies(listed)
        listed = _joined(listed, given, labels)
        return call_in_widest(self.loss, rows, labels, listed, ref, ref_labels)

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "num_batches": self.num_batches,
            "queue_idx": self.queue_idx,
            "has_been_filled": self.has_been_filled,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_batches = state["num_batches"]
        self.queue_idx = state["queue_idx"]
        self.has_been_filled = state["has_been_filled"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Of pml's, which does not say where the queue stands, take rows of zeros for unused."""
        stored = state_dict.get(f"{prefix}embedding_memory")
        if stored is not None and f"{prefix}_extra_state" not in state_dict:
            used = stored.any(dim=1).nonzero()
            num = 0 if len(used) == 0 else int(used[-1]) + 1
            state_dict[f"{prefix}_extra_state"] = {
                "num_batches": self.start_after if num > 0 else 0,
                "queue_idx": num % len(stored),
                "has_been_filled": num == len(stored),
            }
        super()._load_from_state_dict(state_dict, prefix, *args)


def _without_copies(listed: _Tuple) -> _Tuple:
    """Without what takes a row's own copy, the reference of its number, for a positive."""
    anchors, positives, *others = listed
    keep = anchors != positives
    if len(listed) == 3:
        return anchors[keep], positives[keep], others[0][keep]
    return anchors[keep], positives[keep], *others


def _joined(listed: _Tuple | None, given: _Tuple | None, labels: Tensor) -> _Tuple | None:
    """Both, in the form of the first."""
    if listed is None or given is None:
        return given if listed is None else listed
    if len(listed) == 4:
        given = lmu.convert_to_pairs(given, labels)
    else:
        given = lmu.convert_to_triplets(given, labels)
    both: _Tuple = c_f.concatenate_indices_tuples(listed, given)
    return both
