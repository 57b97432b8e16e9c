"""Everything public, of pml and of ours, that can be put into a wrapper or is refused by it."""

import warnings

import torch

from tests.conformance.catalogue import LOSSES
from tests.conformance.entry import EMBEDDING_SIZE
from tests.conformance.pml_catalogue import CATALOGUE

ENTRIES = {
    **{f"pml {name}": entry for name, entry in CATALOGUE.items()},
    **{f"ours {name}": entry for name, entry in LOSSES.items()},
}
SIZE = EMBEDDING_SIZE

_PML = (
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SupConLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
)

_OURS = (
    "BinomialDevianceLoss",
    "GeneralizedLiftedStructureLoss",
    "LiftedStructureLoss",
    "NTXentLoss",
    "PotentialFieldLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "TupletMarginLoss",
)

IN_MEMORY = [
    *(f"pml {name}" for name in _PML),
    *(f"ours {name}" for name in LOSSES if name.split()[0] in _OURS),
]
REFUSED = [name for name in ENTRIES if name not in IN_MEMORY]


def made(name, seed=0):
    """In float64, with the same parameters each time."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, to two losses of pml
        return ENTRIES[name].make().double()
