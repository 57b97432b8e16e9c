"""Handwritten characters of eight alphabets, twenty people each.

Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 2015; https://github.com/brendenlake/omniglot, folder ``python``.
Licence: MIT.
Files: images_background_small1.zip and images_background_small2.zip, checked by SHA-256.
Split rule: the five alphabets of small1 train (136 classes, 2,720 images); the three alphabets of
small2 that small1 has not, test (106 classes, 2,120 images); Greek and Latin of small2 are left
out.
Made of it: 105 x 105 one-bit drawings to 28 x 28, or another size, by area averaging, ink = 1.
"""

import hashlib
import io
import os
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from benchmarks.datasets.split import IMAGE_SIZE, Data, Split, check_counts

ENVIRONMENT = "PML_EXTRAS_DATA"
CACHE = Path(__file__).parents[2] / "data" / "omniglot"
NEEDS = f"two zip files from --data-root, {ENVIRONMENT}, or a download of 3 MB"


@dataclass(frozen=True)
class Archive:
    """One official file, and what this benchmark takes from it.

    Args:
        url: where it comes from; its last part is the file's name.
        sha256: of the file.
        alphabets: the folders that are used, in this order.
        classes: characters in these alphabets.
        images: drawings of these characters.
    """

    url: str
    sha256: str
    alphabets: tuple[str, ...]
    classes: int
    images: int

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


TRAIN = Archive(
    "https://github.com/brendenlake/omniglot/raw/master/python/images_background_small1.zip",
    "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"),
    classes=136,
    images=2720,
)
TEST = Archive(
    "https://github.com/brendenlake/omniglot/raw/master/python/images_background_small2.zip",
    "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ("Japanese_(katakana)", "Sanskrit", "Tagalog"),
    classes=106,
    images=2120,
)


def load(
    root: Path | None = None,
    *,
    train: Archive = TRAIN,
    test: Archive = TEST,
    size: int = IMAGE_SIZE,
) -> Data:
    """Both halves, from ``root``, from the folder in PML_EXTRAS_DATA, or downloaded once; images of
    ``size`` x ``size`` pixels.

    Raises:
        ValueError: a file is missing, damaged or has other counts, or the download failed.
    """
    halves = [
        decode(_find(archive, root) or download(archive), archive, size)
        for archive in (train, test)
    ]
    return Data("omniglot", train=halves[0], test=halves[1])


def place(root: Path | None = None) -> str | None:
    """Folder that holds both files, or None where they would be downloaded or are missing."""
    try:
        paths = [_find(archive, root) for archive in (TRAIN, TEST)]
    except ValueError:
        return None
    return None if None in paths else str(paths[0].parent)  # type: ignore[union-attr]


def _find(archive: Archive, root: Path | None) -> Path | None:
    """Path of the file, or None when it has to be downloaded.

    A folder that somebody named and that lacks the file is an error: no silent download.
    """
    named = root or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    folders = [CACHE] if named is None else [named / "omniglot", named]
    for folder in folders:
        if (folder / archive.name).is_file():
            return folder / archive.name
    if named is None:
        return None
    origin = "--data-root" if root else ENVIRONMENT
    raise ValueError(
        f"{origin}: expected {archive.name} in {named / 'omniglot'} or {named}; got neither. "
        f"Fetch it from {archive.url}, or leave {origin} out to have it downloaded."
    )


def download(archive: Archive, folder: Path | None = None) -> Path:
    """Fetch, check, and only then give the file its name; a broken download leaves nothing."""
    folder = folder or CACHE
    target = folder / archive.name
    partial = target.with_suffix(".part")
    try:
        with urllib.request.urlopen(archive.url, timeout=30) as reply:
            folder.mkdir(parents=True, exist_ok=True)
            size = int(reply.headers.get("Content-Length") or 0) or None
            with (
                partial.open("wb") as file,
                tqdm(total=size, unit="B", unit_scale=True, desc=archive.name) as bar,
            ):
                while block := reply.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
        _check_sum(partial, archive)
        partial.replace(target)
    except OSError as error:
        raise ValueError(
            f"omniglot: could not download {archive.url} ({error}). Offline? Fetch {TRAIN.name} "
            f"and {TEST.name} elsewhere, put them in FOLDER/omniglot and pass --data-root FOLDER "
            f"(or set {ENVIRONMENT}=FOLDER); `--dataset digits` needs no download."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _check_sum(path: Path, archive: Archive) -> None:
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != archive.sha256:
        raise ValueError(
            f"{path}: expected SHA-256 {archive.sha256}; got {actual}. The file is damaged or is "
            f"another version: delete it and fetch {archive.url} again."
        )


def decode(path: Path, archive: Archive, size: int = IMAGE_SIZE) -> Split:
    """Every drawing of the archive's alphabets, in the order of alphabet, character, file name."""
    _check_sum(path, archive)
    try:
        with zipfile.ZipFile(path) as file:
            drawings = sorted(
                (entry for entry in map(PurePosixPath, file.namelist()) if entry.suffix == ".png"),
                key=lambda entry: entry.parts,
            )
            names = [_character(entry) for entry in drawings]
            chosen = [
                (_pixels(file.read(str(entry)), size), name)
                for entry, name in zip(drawings, names, strict=True)
                if name.split("/")[0] in archive.alphabets
            ]
    except (zipfile.BadZipFile, OSError) as error:  # PIL's UnidentifiedImageError is an OSError
        raise ValueError(
            f"{path}: expected a zip file of PNG drawings; got {error}. Fetch {archive.url} again."
        ) from error
    split = _split([pixels for pixels, _ in chosen], [name for _, name in chosen], size)
    check_counts(str(path), split, classes=archive.classes, images=archive.images)
    return split


def _character(entry: PurePosixPath) -> str:
    """``images_background_small1/Greek/character01/0394_01.png`` -> ``Greek/character01``."""
    return "/".join(entry.parts[-3:-1])


def _pixels(png: bytes, size: int = IMAGE_SIZE) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(png)) as image:
        ink = ImageOps.invert(image.convert("L"))
        small = ink.resize((size, size), Image.Resampling.BOX)
    pixels: NDArray[np.float32] = np.asarray(small, dtype=np.float32) / np.float32(255)
    return pixels


def _split(pixels: Sequence[NDArray[np.float32]], names: Sequence[str], size: int) -> Split:
    classes = tuple(dict.fromkeys(names))
    number = {name: label for label, name in enumerate(classes)}
    images = np.stack(pixels) if pixels else np.zeros((0, size, size), np.float32)
    return Split(
        torch.from_numpy(images).unsqueeze(1),  # (N, 1, size, size)
        torch.tensor([number[name] for name in names], dtype=torch.int64),
        classes,
    )
