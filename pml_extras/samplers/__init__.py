"""Which images form a batch: samplers for torch's DataLoader and pml's trainers."""

from pml_extras.samplers.epoch_m_per_class import EpochMPerClassSampler
from pml_extras.samplers.hard_neighbour import HardNeighbourBatchSampler
from pml_extras.samplers.m_per_class_batch import MPerClassBatchSampler
from pml_extras.samplers.pair_batch import PairBatchSampler

__all__ = [
    "EpochMPerClassSampler",
    "HardNeighbourBatchSampler",
    "MPerClassBatchSampler",
    "PairBatchSampler",
]
