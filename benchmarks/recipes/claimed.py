"""What papers report for a method on a data set: Recall@1 in %, and where it was read.

Networks, embedding sizes and budgets are the papers', and epochs were mostly chosen on the test
classes. Blank where no number was found: of generalized sum pooling none was.
"""

from collections.abc import Mapping

LIFTED = "as quoted in Table {} of RaMBO (CVPR 2020), GoogLeNet, 512 dimensions"
PFML = "potential field paper, Table 1, ResNet-50, 512 dimensions, 5 runs"
DINO = "potential field paper, Table 1, DINO, 384 dimensions, 5 runs"
VIT = "potential field paper, Table 1, ViT-S, 384 dimensions, 5 runs"
QUOTED = "as quoted in Table 1 of the potential field paper, ResNet-50, 512 dimensions"
INCEPTION = "as quoted in Table 1 of the potential field paper, BN-Inception, 512 dimensions"
IBC = "README of the released code of intra-batch connections, ResNet-50, 512 dimensions"
ENSEMBLE = "result files in the released code of the ensemble, BN-Inception, best test epoch"
CLAIMED: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "cub": {
        "pfml": ("73.4 ± 0.3", PFML),
        "lifted_structure_raw": ("47.2", LIFTED.format(3)),
        "ibc": ("70.3", IBC),
        "multi_similarity": ("65.7", INCEPTION),
        "proxy_anchor": ("69.7", QUOTED),
        "normalized_softmax": ("61.3", QUOTED),
    },
    "cars196": {
        "pfml": ("92.7 ± 0.3", PFML),
        "ibc": ("88.1", IBC),
        "multi_similarity": ("84.1", INCEPTION),
        "proxy_anchor": ("87.7", QUOTED),
        "normalized_softmax": ("84.2", QUOTED),
    },
    "sop": {
        "pfml_2": ("82.9 ± 0.2", PFML),
        "lifted_structure_raw": ("62.1", LIFTED.format(2)),
        "ibc": ("81.4", IBC),
        "multi_similarity": ("78.2", INCEPTION),
        "proxy_anchor": ("79.1", INCEPTION),
        "normalized_softmax": ("78.2", QUOTED),
    },
    "in_shop": {"ibc": ("92.8", IBC)},
    "cub_dino": {"pfml": ("83.1 ± 0.3", DINO)},
    "cars196_dino": {"pfml": ("94.7 ± 0.1", DINO)},
    "sop_dino": {"pfml_2": ("86.5 ± 0.3", DINO)},
    "cub_vit": {"pfml": ("87.8 ± 0.2", VIT)},
    "cars196_vit": {"pfml": ("91.5 ± 0.3", VIT)},
    "sop_vit": {"pfml_2": ("88.2 ± 0.1", VIT)},
    "flowers": {
        "ensemble_heads": ("94.7", f"{ENSEMBLE}, 256 dimensions"),
        "ensemble_compressed": ("93.6", f"{ENSEMBLE}, 128 dimensions"),
    },
}
"""Data set -> recipe -> number and source."""
