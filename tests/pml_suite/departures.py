"""What ours does not pass of pml's tests on purpose: why, and how to take the reason away.

A failure is a departure only if it says what is written here, and if the test passes once that
alone is taken away: by then no other difference is left to hide behind the first.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PROCESSES = "utils/test_distributed.py::TestDistributedLossWrapper::"
MEMORY = "losses/test_cross_batch_memory.py::TestCrossBatchMemory::"


@dataclass(frozen=True)
class Departure:
    """A test that fails on purpose.

    Attributes:
        where: part of the line of the test, or of the message, that fails.
        reason: what ours does instead, and where that is written.
        undo: takes pytest's monkeypatch and the module of the test; afterwards it passes.
    """

    where: str
    reason: str
    undo: Callable[[Any, Any], None]


def _lone_rows_as_in_pml(monkeypatch, _):
    def with_zero_for_nothing(log_positives, log_negatives):
        sides = (x.masked_fill(x == -torch.inf, 0) for x in (log_positives, log_negatives))
        return sum(sides).clamp(min=0)

    home = "pml_extras.losses.lifted_structure.generalized_lifted_structure"
    monkeypatch.setattr(home, with_zero_for_nothing)


def _labels_of_the_blocks(monkeypatch, module):
    """Those that the reference ranks within, and the reference's float32."""

    class OfBlocks(module.SmoothAPLoss):
        def forward(self, rows, labels, *_):
            per_class = len(rows) // module.HYPERPARAMETERS["num_id"]
            return super().forward(rows, torch.arange(len(labels)) // per_class).float()

    monkeypatch.setattr(module, "SmoothAPLoss", OfBlocks)


def _some_loss(monkeypatch, module):
    class WithoutLoss(module.CrossBatchMemory):
        def __init__(self, loss, **kwargs):
            super().__init__(module.ContrastiveLoss() if loss is None else loss, **kwargs)

    monkeypatch.setattr(module, "CrossBatchMemory", WithoutLoss)


def _memory_in_the_dtype_of_rows(monkeypatch, module):
    class Cast(module.CrossBatchMemory):
        def forward(self, embeddings, *args, **kwargs):
            self.embedding_memory = self.embedding_memory.to(embeddings.dtype)
            return super().forward(embeddings, *args, **kwargs)

    monkeypatch.setattr(module, "CrossBatchMemory", Cast)


def _given_tuple_at_slots(monkeypatch, module):
    """Position p is that of slot p: the batch's own row only in the first batch."""

    class AtSlots(module.CrossBatchMemory):
        def _value(self, rows, labels, given, ref=None, *others):
            if given is not None and len(ref) > len(rows):  # the copies of the batch come first
                anchors, positives, more_anchors, negatives = given
                positives, negatives = positives + len(rows), negatives + len(rows)
                given = anchors, positives, more_anchors, negatives
            return super()._value(rows, labels, given, ref, *others)

    monkeypatch.setattr(module, "CrossBatchMemory", AtSlots)
    # Positives among rows of other classes are negatives too, which pml's own refuses of 2.9.0 on.
    monkeypatch.setattr(module, "MultiSimilarityLoss", module.ContrastiveLoss)


def _against_one_process(monkeypatch, module):
    """What the processes find with ``efficient`` beside one process with the joined batch."""
    tester = module.TestDistributedLossWrapper.loss_and_miner_tester
    spawn = module.mp.spawn
    place = [*inspect.signature(module.single_process_function).parameters].index("efficient") - 1

    def joined(self, loss_class, miner_class, efficient, *args, **kwargs):
        tester(self, loss_class, miner_class, False, *args, **kwargs)

    def efficiently(function, args, **kwargs):
        spawn(function, (*args[:place], True, *args[place + 1 :]), **kwargs)

    monkeypatch.setattr(module.TestDistributedLossWrapper, "loss_and_miner_tester", joined)
    monkeypatch.setattr(module.mp, "spawn", efficiently)


SUM_OF_PARTS = Departure(
    "parameters_are_equal(original_model",
    "With `efficient` pml and its test add up the ranks' own values, of rows against all rows "
    "without gradient: another loss than that of one process. Ours gives the gradient of one "
    "process with the joined batch. `DistributedLossWrapper`, `efficient`; docs/distributed.md.",
    _against_one_process,
)

DEPARTURES = {
    f"{PROCESSES}test_distributed_tuple_loss_efficient": SUM_OF_PARTS,
    f"{PROCESSES}test_distributed_tuple_loss_and_miner_efficient": SUM_OF_PARTS,
    "losses/test_lifted_structure_loss.py::TestGeneralizedLiftedStructureLoss"
    "::test_generalized_lifted_structure_loss": Departure(
        "isclose(loss, correct_total",
        "The fifth row is alone in its class. The sum over its positives is empty, its logarithm "
        "-inf and the hinge closed: it costs 0, as the paper has it. pml and its test take 0 for "
        "the logarithm. `GeneralizedLiftedStructureLoss`, departures.",
        _lone_rows_as_in_pml,
    ),
    "losses/test_smooth_ap_loss.py::TestSmoothAPLoss::test_smooth_ap_loss": Departure(
        "isclose(output, output2)",
        "The reference of the test ranks within 6 blocks of 10 rows, whatever the labels; the "
        "labels are 10 classes of 6 rows, and ours goes by these. pml's loss swaps the two "
        "numbers and so agrees with the reference. In float64 ours stays float64, where pml's and "
        "the reference are float32. docs/smooth_ap.md.",
        _labels_of_the_blocks,
    ),
    f"{MEMORY}test_remove_self_comparisons": Departure(
        "got NoneType",
        "The test makes a memory around no loss, to reach its queue. Ours asks the loss at "
        "construction whether it can be compared with a memory. `CrossBatchMemory`, raises.",
        _some_loss,
    ),
    f"{MEMORY}test_ref_mining": Departure(
        "same dtype",
        "In float64. A memory keeps its dtype, float32 unless `.double()` is called, and the test "
        "compares its rows with those of the batch by itself; pml casts the memory to what comes, "
        'in half precision for good. `CrossBatchMemory`, "A memory keeps its dtype".',
        _memory_in_the_dtype_of_rows,
    ),
    f"{MEMORY}test_loss": Departure(
        "isclose( loss_with_miner_and_input_indices",
        "A tuple that is given is of positions in the batch, and counts for its rows; pml takes "
        "the rows that stand at these positions in memory, of other classes from the second batch "
        "on, and so does the test. `CrossBatchMemory`, departures.",
        _given_tuple_at_slots,
    ),
}
