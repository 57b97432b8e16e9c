"""Around a loss: a memory of past batches, two views of one batch, several processes."""

from pml_extras.wrappers.cross_batch_memory import CrossBatchMemory
from pml_extras.wrappers.distributed import DistributedLossWrapper, DistributedMinerWrapper
from pml_extras.wrappers.self_supervised import SelfSupervisedLoss

__all__ = [
    "CrossBatchMemory",
    "DistributedLossWrapper",
    "DistributedMinerWrapper",
    "SelfSupervisedLoss",
]
