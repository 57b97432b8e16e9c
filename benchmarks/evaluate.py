"""Embeddings -> metrics, through pml's tester with faiss."""

from dataclasses import dataclass

import torch
from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.datasets.split import Split
from benchmarks.quadrants import weight_on_target
from benchmarks.quiet import quiet_pml
from pml_extras.evaluation import RetrievalAccuracyCalculator

RECALL_AT = (1, 2, 4, 8)
RECALLS = tuple(f"recall_at_{at}" for at in RECALL_AT)
METRICS = (*RECALLS, "mean_average_precision_at_r", "r_precision")


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
    calculator = RetrievalAccuracyCalculator(
        include=(*METRICS, "NMI") if nmi else METRICS,
        recall_at=RECALL_AT,
        k="max_bin_count",
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
