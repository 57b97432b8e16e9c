"""Features of photographs in place of them, for training in minutes without a GPU.

A data set of image files, split as it is there, with 2,048 features a photograph: those of
torchvision's ResNet-50 with its first weights of ImageNet (``ResNet50_Weights.IMAGENET1K_V1``,
checked by the part of their SHA-256 that torchvision publishes), of the central crop, before its
classifier. Computed once by ``python -m benchmarks data build NAME --trunk resnet50 --weights
FILE`` into FOLDER/NAME/resnet50.npy. What is trained is one linear layer that starts as the
identity, :mod:`benchmarks.linear_trunk`: no recipe changes the network, and results are none of the
papers'. The files themselves have to stay in place.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.models import ResNet50_Weights

from benchmarks import features
from benchmarks.datasets.official import Official
from benchmarks.datasets.photographs import root_of
from benchmarks.datasets.split import Data, Split
from pml_extras._checks import refuse

TRUNK = "resnet50"
WEIGHTS = ResNet50_Weights.IMAGENET1K_V1.url.rpartition("-")[2].partition(".")[0]


def path_of(official: Official, root: Path | None) -> Path | None:
    """Where the features are built; None where no folder is named."""
    folder = root_of(root)
    return None if folder is None else folder / official.name / f"{TRUNK}.npy"


def place(official: Official, root: Path | None = None) -> str | None:
    """The file of features, or None."""
    path = path_of(official, root)
    return str(path) if path is not None and path.is_file() else None


def load(official: Official, root: Path | None = None) -> Data:
    """Both halves.

    Raises:
        ValueError: the files or their features are missing or others, or of other weights.
    """
    files = official.load(root)
    path = path_of(official, root)
    assert path is not None  # the files have been found there
    if not path.is_file():
        build = f"python -m benchmarks data build {official.name} --trunk {TRUNK} --weights FILE"
        way_out = f"`{build}` computes them once."
        raise refuse(f"{official.name}_features", f"features in {path}", "none", way_out)
    names = files.names(path.parents[1])
    rows = torch.from_numpy(features.read(path, names).astype(np.float32))
    found = features.encoder_of(path).get("weights_sha256", "nothing")[: len(WEIGHTS)]
    if found != WEIGHTS:
        way_out = f"Delete it, and build it with {ResNet50_Weights.IMAGENET1K_V1.url}."
        raise refuse(str(path), f"weights whose SHA-256 begins with {WEIGHTS}", found, way_out)
    train, test = rows.split([len(files.train.paths), len(files.test.paths)])
    return Data(
        f"{official.name}_features",
        Split(train, files.train.labels, files.train.classes),
        Split(test, files.test.labels, files.test.classes),
    )
