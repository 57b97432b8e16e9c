"""Which images of a batch are compared, or kept: miners for pml's trainers."""

from pml_extras.miners.hard_neighbour import HardNeighbourMiner
from pml_extras.miners.relation import RelationMiner

__all__ = ["HardNeighbourMiner", "RelationMiner"]
