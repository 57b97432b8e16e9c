"""Embeddings of a few test classes in two dimensions, small enough to travel in a record."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.datasets.split import Part

CLASSES, PER_CLASS = 10, 20


def plane(split: Part, embeddings: Tensor) -> dict[str, Any]:
    """Principal components of the first rows of classes that are spread over the list of classes:
    the same rows for each recipe and seed.

    Args:
        split: labels and names of the classes.
        embeddings: (N, D) rows in the order of the split.

    Returns:
        ``classes`` (names), ``class_idx`` (one a point, into them), ``points`` (x and y, the one
        farthest out in each on its positive side), and ``variance``, the share that both components
        have of that of these rows.
    """
    count = min(CLASSES, len(split.classes))
    chosen = [len(split.classes) * place // count for place in range(count)]
    row_idx = [(split.labels == label).nonzero()[:PER_CLASS, 0] for label in chosen]
    rows = embeddings[torch.cat(row_idx)].double().nan_to_num(0, 0, 0)
    _, spreads, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    points = (rows - rows.mean(0)) @ axes[:2].T  # (P, 2)
    points = points * points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
    whole = float(spreads.square().sum())
    return {
        "classes": [split.classes[label] for label in chosen],
        "class_idx": [place for place, found in enumerate(row_idx) for _ in found],
        "points": [[float(f"{value:.3g}") for value in point] for point in points.tolist()],
        "variance": round(float(spreads[:2].square().sum()) / whole, 4) if whole else 1.0,
    }
