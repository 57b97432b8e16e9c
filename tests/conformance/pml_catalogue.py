"""Every loss of pytorch-metric-learning that takes labels, with no more than it must be given."""

from pytorch_metric_learning import losses

from tests.conformance.entry import EMBEDDING_SIZE, NUM_CLASSES, Entry, indexed_by_labels

ENTRIES = (
    Entry(losses.AngularLoss),
    indexed_by_labels(losses.ArcFaceLoss),
    Entry(losses.CircleLoss),
    Entry(losses.ContrastiveLoss),
    indexed_by_labels(losses.CosFaceLoss),
    Entry(losses.DynamicSoftMarginLoss, check={"stateful": True}),
    Entry(losses.FastAPLoss),
    Entry(losses.GeneralizedLiftedStructureLoss),
    Entry(losses.HistogramLoss),
    Entry(losses.InstanceLoss),
    Entry(losses.IntraPairVarianceLoss),
    indexed_by_labels(losses.LargeMarginSoftmaxLoss),
    Entry(losses.LiftedStructureLoss),
    Entry(losses.MarginLoss),
    Entry(losses.MultiSimilarityLoss),
    Entry(losses.NCALoss),
    Entry(losses.NPairsLoss),
    Entry(losses.NTXentLoss),
    indexed_by_labels(losses.NormalizedSoftmaxLoss),
    indexed_by_labels(
        losses.P2SGradLoss, {"descriptors_dim": EMBEDDING_SIZE, "num_classes": NUM_CLASSES}
    ),
    Entry(losses.PNPLoss),
    indexed_by_labels(losses.ProxyAnchorLoss),
    indexed_by_labels(losses.ProxyNCALoss),
    Entry(losses.RankedListLoss, {"margin": 0.4, "Tn": 1.0}),
    Entry(losses.SignalToNoiseRatioContrastiveLoss),
    *(Entry(getattr(losses, name)) for name in ("SmoothAPLoss",) if hasattr(losses, name)),  # 2.9
    indexed_by_labels(losses.SoftTripleLoss),
    indexed_by_labels(losses.SphereFaceLoss),
    indexed_by_labels(losses.SubCenterArcFaceLoss),
    Entry(losses.SupConLoss),
    Entry(losses.ThresholdConsistentMarginLoss),
    Entry(losses.TripletMarginLoss),
    Entry(losses.TupletMarginLoss),
)

CATALOGUE = {entry.cls.__name__: entry for entry in ENTRIES}

# Public classes that the checker does not call: bases, losses of losses, losses without labels.
LEFT_OUT = {
    "BaseLossWrapper": "a base class",
    "BaseMetricLossFunction": "a base class",
    "CrossBatchMemory": "wraps another loss",
    "EmbeddingRegularizerMixin": "a base class",
    "GenericPairLoss": "a base class",
    "ManifoldLoss": "takes no labels",
    "MultipleLosses": "wraps other losses",
    "SelfSupervisedLoss": "wraps another loss",
    "VICRegLoss": "takes no labels",
    "WeightRegularizerMixin": "a base class",
}
