"""What a loss can be put into: a memory of past batches, two views of one batch."""

from pml_extras.wrappers.cross_batch_memory import CrossBatchMemory
from pml_extras.wrappers.self_supervised import SelfSupervisedLoss

__all__ = ["CrossBatchMemory", "SelfSupervisedLoss"]
