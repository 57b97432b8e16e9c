"""Embeddings -> metrics, through pml's tester and AccuracyCalculator with faiss."""

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester
from pytorch_metric_learning.utils.accuracy_calculator import (
    AccuracyCalculator,
    maybe_get_avg_of_avgs,
    nan_accuracy,
    try_getting_not_lone_labels,
)
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.datasets.split import Split
from benchmarks.quadrants import weight_on_target
from benchmarks.quiet import quiet_pml

RECALLS = ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8")
METRICS = (*RECALLS, "mean_average_precision_at_r", "r_precision")
LARGEST_K = 8


class RetrievalCalculator(AccuracyCalculator):
    """pml's metrics and Recall@1, 2, 4, 8.

    Recall@K: share of queries with at least one of their class among the K nearest references,
    over queries whose class has another reference. Pass ``include`` and a ``k`` of at least 8.
    """

    def requires_knn(self) -> list[str]:
        return [*super().requires_knn(), *RECALLS]

    def calculate_recall_at_1(self, **found: Any) -> Any:
        return self._recall(1, **found)

    def calculate_recall_at_2(self, **found: Any) -> Any:
        return self._recall(2, **found)

    def calculate_recall_at_4(self, **found: Any) -> Any:
        return self._recall(4, **found)

    def calculate_recall_at_8(self, **found: Any) -> Any:
        return self._recall(8, **found)

    def _recall(
        self,
        k: int,
        *,
        knn_labels: Tensor,
        query_labels: Tensor,
        not_lone_query_mask: Tensor,
        label_counts: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Any:
        knn_labels, query_labels = try_getting_not_lone_labels(
            knn_labels, query_labels, not_lone_query_mask
        )
        if knn_labels is None:
            return nan_accuracy(label_counts[0], self.return_per_class)
        query_labels = query_labels[:, None]  # (B, 1)
        hit = self.label_comparison_fn(query_labels, knn_labels[:, :k]).any(dim=1)
        return maybe_get_avg_of_avgs(
            hit.double(), query_labels, self.avg_of_avgs, self.return_per_class
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, with the embeddings that they came from.

    Args:
        metrics: name -> value in [0, 1].
        embeddings: (N, D) rows on the CPU, as they were compared.
    """

    metrics: dict[str, float]
    embeddings: Tensor


def evaluate(
    trunk: nn.Module,
    split: Split,
    *,
    device: torch.device,
    nmi: bool = False,
    unit_rows: bool = True,
) -> Evaluation:
    """Every image of the split is a query against all others, by Euclidean distance; of collages
    the weight on the target too, where the trunk has a pooling with weights."""
    largest_class = int(torch.bincount(split.labels).max())
    calculator = RetrievalCalculator(
        include=(*METRICS, "NMI") if nmi else METRICS,
        k=max(LARGEST_K, largest_class),
        device=torch.device("cpu"),
    )
    kept: list[Tensor] = []
    tester = GlobalEmbeddingSpaceTester(
        batch_size=256,
        dataloader_num_workers=0,
        data_device=device,
        normalize_embeddings=unit_rows,
        accuracy_calculator=calculator,
        end_of_testing_hook=lambda done: kept.append(done.embeddings_and_labels["test"][0]),
    )
    with quiet_pml():
        found = tester.test({"test": TensorDataset(split.images, split.labels)}, 0, trunk)["test"]
    metrics = {name: float(found[f"{name}_level0"]) for name in calculator.get_curr_metrics()}
    metrics |= weight_on_target(trunk, split, device)
    return Evaluation(metrics, kept[0].cpu())
