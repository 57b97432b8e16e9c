"""Which images form a batch: samplers for torch's DataLoader and pml's trainers."""

from pml_extras.samplers.epoch_m_per_class import EpochMPerClassSampler

__all__ = ["EpochMPerClassSampler"]
