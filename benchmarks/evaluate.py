"""Embeddings -> metrics, through pml's tester with faiss."""

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from benchmarks.crops import Crops
from benchmarks.datasets.image_files import Files, Pictures
from benchmarks.datasets.split import RECALL_AT, Split
from benchmarks.quadrants import weight_on_target
from benchmarks.quiet import quiet_pml
from pml_extras.evaluation import RetrievalAccuracyCalculator

RECALLS = tuple(f"recall_at_{at}" for at in RECALL_AT)
METRICS = (*RECALLS, "mean_average_precision_at_r", "r_precision")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, with the embeddings that they came from.

    Args:
        metrics: name -> value in [0, 1].
        embeddings: (N, D) rows on the CPU, as they were compared.
        gallery: (R, D) rows that they were compared with, where these are others.
    """

    metrics: dict[str, float]
    embeddings: Tensor
    gallery: Tensor | None = None


def evaluate(
    trunk: nn.Module,
    split: Split | Files,
    *,
    device: torch.device,
    nmi: bool = False,
    unit_rows: bool = True,
    gallery: Files | None = None,
    recall_at: tuple[int, ...] = RECALL_AT,
    crops: Crops | None = None,
    workers: int = 0,
) -> Evaluation:
    """Every image of the split is a query against all others, or against the gallery, by Euclidean
    distance; of collages the weight on the target too, where the trunk has a pooling with weights.

    Image files need ``crops`` and are read in ``workers`` processes. Recalls come at the K of
    ``recall_at`` and at those of every table.
    """
    at = tuple(sorted({*RECALL_AT, *recall_at}))
    wanted = (*(f"recall_at_{k}" for k in at), *METRICS[len(RECALL_AT) :])
    calculator = RetrievalAccuracyCalculator(
        include=(*wanted, "NMI") if nmi else wanted,
        recall_at=at,
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    kept: dict[str, Tensor] = {}
    parts = {"test": _opened(split, crops)}
    if gallery is not None:
        parts["gallery"] = _opened(gallery, crops)
    tester = GlobalEmbeddingSpaceTester(
        batch_size=256,
        dataloader_num_workers=workers,
        data_device=device,
        normalize_embeddings=unit_rows,
        accuracy_calculator=calculator,
        end_of_testing_hook=lambda done: kept.update(
            {part: rows.cpu() for part, (rows, _) in done.embeddings_and_labels.items()}
        ),
    )
    with quiet_pml():
        found = tester.test(parts, 0, trunk, splits_to_eval=[("test", [list(parts)[-1]])])["test"]
    metrics = {name: float(found[f"{name}_level0"]) for name in calculator.get_curr_metrics()}
    if isinstance(split, Split):
        metrics |= weight_on_target(trunk, split, device)
    return Evaluation(metrics, kept["test"], kept.get("gallery"))


def _opened(part: Split | Files, crops: Crops | None) -> Dataset[Any]:
    if isinstance(part, Split):
        return TensorDataset(part.images, part.labels)
    assert crops is not None
    return Pictures(part, crops.test())
