"""Which losses of pml 2.9.0 break a promise, and how: facts that the checker has to find.

``BROKEN_BY`` is complete for its promises: a loss that is missing would be a defect that went
unseen, one too many a false alarm.
"""

from tests.conformance.pml_catalogue import CATALOGUE

INDEXED = {name for name, entry in CATALOGUE.items() if "num_classes" in entry.check}
PAIRS = CATALOGUE.keys() - INDEXED

# LpDistance where torch has no `cdist` in bfloat16.
WITHOUT_BFLOAT16 = {
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "NCALoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "TripletMarginLoss",
}
CUBIC = {
    "LiftedStructureLoss",
    "MarginLoss",
    "NTXentLoss",
    "PNPLoss",
    "SmoothAPLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
}
# LpDistance in float16: (B, B, D). ProxyNCALoss has as few proxies as classes.
LISTS_HALF_ROWS = WITHOUT_BFLOAT16 - {"ProxyNCALoss"}
LISTS_ROWS = {"SignalToNoiseRatioContrastiveLoss", "ThresholdConsistentMarginLoss"}

BROKEN_BY = {
    "plain": set(),
    "order": {"InstanceLoss", "NPairsLoss", "SmoothAPLoss"},
    "class_names": {"InstanceLoss", "SmoothAPLoss"},
    "repeatable": {"DynamicSoftMarginLoss"},
    "gradient": {"CircleLoss", "P2SGradLoss", "SmoothAPLoss"},
    "nothing_to_compare": (INDEXED - {"ProxyAnchorLoss"}) | {"InstanceLoss", "RankedListLoss"},
    "degenerate": {
        "DynamicSoftMarginLoss",
        "HistogramLoss",
        "NCALoss",
        "P2SGradLoss",
        "SignalToNoiseRatioContrastiveLoss",
        "TupletMarginLoss",
    },
    "overflow": {
        "ContrastiveLoss",
        "DynamicSoftMarginLoss",
        "HistogramLoss",
        "RankedListLoss",
        "SignalToNoiseRatioContrastiveLoss",
        "TripletMarginLoss",
    },
    "infinite_rows": PAIRS,
    "ref_emb": {"ThresholdConsistentMarginLoss"},
    "indices_tuple": set(),
    "label_types": (INDEXED - {"ProxyNCALoss"}) | {"SmoothAPLoss"},
    "label_range": INDEXED,
    "half_precision": WITHOUT_BFLOAT16 | {"P2SGradLoss", "PNPLoss"},
    # pml's distances divide by at least 1e-12, which is 0 in float16.
    "half_degenerate": CATALOGUE.keys()
    - {
        "CircleLoss",
        "FastAPLoss",
        "P2SGradLoss",
        "PNPLoss",
        "SignalToNoiseRatioContrastiveLoss",
        "SmoothAPLoss",
        "SupConLoss",
    },
    "parameter_dtype": INDEXED,
    "inputs_untouched": set(),
    "global_state": set(),
    "copies": {"DynamicSoftMarginLoss"},
    "records": {
        "AngularLoss",
        "ArcFaceLoss",
        "NormalizedSoftmaxLoss",
        "ProxyNCALoss",
        "SoftTripleLoss",
        "SubCenterArcFaceLoss",
        "TupletMarginLoss",
    },
    "sub_loss_names": {"SmoothAPLoss"},
    "memory": CUBIC | LISTS_HALF_ROWS | LISTS_ROWS,
    "chunks": set(),
}

# Loss, promise, what the case is called, what came.
FINDINGS = [
    ("SmoothAPLoss", "order", "balanced classes", "value"),
    ("SmoothAPLoss", "gradient", "balanced classes", "Jacobian mismatch"),
    ("SmoothAPLoss", "sub_loss_names", "balanced classes", "keys ['ap_loss']"),
    *(
        (name, "half_precision", "uneven classes, bfloat16", '"cdist" not implemented')
        for name in sorted(WITHOUT_BFLOAT16)
    ),
    ("PNPLoss", "half_precision", "uneven classes, float16", "gradient of embeddings not finite"),
    ("ProxyAnchorLoss", "parameter_dtype", "uneven classes, float16", "proxies float16"),
    ("ArcFaceLoss", "parameter_dtype", "uneven classes, bfloat16", "W bfloat16"),
    ("ProxyNCALoss", "label_range", "uneven classes, one label 5", "value"),
    ("ArcFaceLoss", "label_range", "uneven classes, one label 5", "Error"),
    *((name, "memory", "twice as many rows", " times: ") for name in sorted(CUBIC)),
    *(
        (name, "memory", "rows 4 times as long, float16", " copies: ")
        for name in sorted(LISTS_HALF_ROWS)
    ),
    *(
        (name, "memory", "rows 4 times as long, float32", " copies: ")
        for name in sorted(LISTS_ROWS)
    ),
    ("NCALoss", "degenerate", "all labels unique", "value nan"),
    ("HistogramLoss", "degenerate", "duplicate rows", "out of bounds"),
    ("TupletMarginLoss", "degenerate", "cosines exactly 1", "gradient of embeddings not finite"),
    ("P2SGradLoss", "degenerate", "one row zero", "value nan"),
    ("ContrastiveLoss", "overflow", "one entry nan", "over gradients that are not finite"),
    ("HistogramLoss", "overflow", "one entry inf", "out of bounds"),
    ("DynamicSoftMarginLoss", "copies", "deep copy of a used loss", "deepcopy protocol"),
    ("DynamicSoftMarginLoss", "repeatable", "called again", "backward through the graph a second"),
    ("ThresholdConsistentMarginLoss", "ref_emb", "more references than rows", "IndexError"),
    ("ThresholdConsistentMarginLoss", "ref_emb", "fewer references than rows", "the same value"),
    ("ArcFaceLoss", "nothing_to_compare", "no rows", "value nan"),
    ("ContrastiveLoss", "infinite_rows", "one row", "value nan"),
    ("ArcFaceLoss", "label_types", "int32", "RuntimeError"),
    ("ProxyAnchorLoss", "label_types", "uint8", "RuntimeError"),
    ("ArcFaceLoss", "label_types", "float32", "IndexError"),
]
