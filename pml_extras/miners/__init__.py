"""Which images of a batch are compared, or kept: miners for pml's trainers."""

from pml_extras.miners.hard_neighbour import HardNeighbourMiner

__all__ = ["HardNeighbourMiner"]
