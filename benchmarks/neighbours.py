"""A few fixed queries with their nearest neighbours, small enough to travel in a record."""

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.datasets.split import Shown, Split

QUERIES = 6
NEIGHBOURS = 7
GREY_LEVELS = 16


def nearest(
    split: Shown, embeddings: Tensor, gallery: Shown | None = None, others: Tensor | None = None
) -> dict[str, Any]:
    """Tiles or texts (query first, then its neighbours), who is right, and their classes.

    Args:
        split: the images or texts, and labels.
        embeddings: (N, D) rows to compare by Euclidean distance, in the order of the split.
        gallery: where neighbours come from, with the same classes; None: from the split.
        others: (R, D) rows of the gallery.

    Returns:
        ``correct`` (queries x neighbours), ``classes`` (queries x tiles); of images ``png``, a
        mosaic in base64; of texts ``texts`` (queries x tiles).
    """
    by_class = torch.argsort(split.labels, stable=True)
    spread = ((torch.arange(QUERIES) + 0.5) / QUERIES * len(by_class)).long()
    query_idx = by_class[spread]  # (Q,)
    dist = torch.cdist(embeddings[query_idx], embeddings if others is None else others)  # (Q, R)
    if gallery is None:
        gallery = split
        dist[torch.arange(QUERIES), query_idx] = torch.inf
    near_idx = dist.topk(NEIGHBOURS, dim=1, largest=False).indices  # (Q, K)
    labels = torch.cat([split.labels[query_idx, None], gallery.labels[near_idx]], dim=1)  # (Q, 1+K)
    shown: dict[str, Any] = {}
    if not isinstance(split, Split) or split.images.ndim == 4:
        images = [split.shown(query_idx[:, None]), gallery.shown(near_idx)]
        shown["png"] = _mosaic(torch.cat(images, dim=1).mean(2))
    if isinstance(split, Split) and split.texts is not None:
        tile_idx = torch.cat([query_idx[:, None], near_idx], dim=1)  # (Q, 1 + K)
        shown["texts"] = [[split.texts[i] for i in row] for row in tile_idx.tolist()]
    return {
        **shown,
        "correct": (labels[:, 1:] == labels[:, :1]).tolist(),
        "classes": [[split.classes[label] for label in row] for row in labels.tolist()],
    }


def tiles(png: str, rows: int, columns: int) -> NDArray[np.uint8]:
    """The mosaic taken apart: (rows, columns, height, width), ink is 255."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))), dtype=np.uint8)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    apart: NDArray[np.uint8] = pixels.reshape(rows, height, columns, width).swapaxes(1, 2)
    return apart


def _mosaic(images: Tensor) -> str:
    """(rows, columns, H, W) in [0, 1] -> one PNG with few grey levels, as base64."""
    rows, columns, height, width = images.shape
    levels = (images * (GREY_LEVELS - 1)).round() * (255 / (GREY_LEVELS - 1))
    pixels = levels.byte().swapaxes(1, 2).reshape(rows * height, columns * width).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
