"""What the data sets of texts share: official files, the split by class, features of texts.

Class names are sorted as Python sorts strings; the first half of them trains, rounded down, the
others test. All published parts are one set, in the order of the files.

Features are 384 numbers a text, unit rows. Of the encoder: all-MiniLM-L6-v2 of
sentence-transformers, computed once (``python -m benchmarks data build NAME --weights FOLDER``, or
the .npz of the same name that somebody else computed) and stored beside the official files. Of
TF-IDF: :mod:`benchmarks.datasets.tfidf`, from the official files alone. Without any: texts for an
encoder that is trained itself, ``NAME_text``.
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import features
from benchmarks.datasets.omniglot import ENVIRONMENT
from benchmarks.datasets.photographs import root_of
from benchmarks.datasets.raw_texts import RawTexts, Utterances
from benchmarks.datasets.split import Data, Split, check_counts
from benchmarks.datasets.tfidf import tfidf

WIDTH = 384
ENCODER = "all-MiniLM-L6-v2"
Pairs = list[tuple[str, str]]  # text, class
AnyPart = TypeVar("AnyPart", Split, Utterances)


@dataclass(frozen=True)
class File:
    """One official file.

    Args:
        url: where it comes from; its last part is the file's name.
        sha256: of the file.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """What a data set of texts is made of.

    Args:
        name: of the data set and of its folder.
        files: in the order in which their texts count.
        pairs: content of one file -> its texts and their classes; may raise ValueError, KeyError or
            TypeError where the layout is another.
        train: classes and texts of the training half.
        test: the same of the test half.
    """

    name: str
    files: tuple[File, ...]
    pairs: Callable[[str], Pairs]
    train: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class Texts:
    """All texts of a data set.

    Args:
        folder: where the official files lie.
        texts: N of them.
        labels: (N,) int64 into ``names``.
        names: of the classes, sorted.
    """

    folder: Path
    texts: tuple[str, ...]
    labels: Tensor
    names: tuple[str, ...]


def folder_of(source: Source, root: Path | None) -> Path | None:
    """Where all official files are: ``root/NAME`` or ``root``; None where they are not."""
    root = root_of(root)
    for folder in () if root is None else (root / source.name, root):
        if all((folder / file.name).is_file() for file in source.files):
            return folder
    return None


def place(source: Source, root: Path | None = None) -> str | None:
    """Folder of the official files, or None."""
    folder = folder_of(source, root)
    return None if folder is None else str(folder)


def place_encoded(source: Source, root: Path | None = None) -> str | None:
    """Features of the encoder, or None where they or an official file are missing."""
    folder = folder_of(source, root)
    path = None if folder is None else encoded_file(folder)
    return None if path is None else str(path)


def read(source: Source, root: Path | None) -> Texts:
    """The texts of all official files.

    Raises:
        ValueError: no folder is named, a file is missing, damaged or another version.
    """
    folder = folder_of(source, root)
    if folder is None:
        named = root_of(root)
        where = "no folder" if named is None else f"not all of them in {named / source.name}"
        raise ValueError(
            f"{source.name}: expected {' and '.join(file.name for file in source.files)}; got "
            f"{where}. Fetch {' and '.join(file.url for file in source.files)} into "
            f"FOLDER/{source.name} and pass --data-root FOLDER (or set {ENVIRONMENT}=FOLDER); "
            "nothing is downloaded."
        )
    pairs = [pair for file in source.files for pair in _pairs(source, folder, file)]
    names = tuple(sorted({name for _, name in pairs}))
    number = {name: label for label, name in enumerate(names)}
    labels = torch.tensor([number[name] for _, name in pairs], dtype=torch.int64)
    return Texts(folder, tuple(text for text, _ in pairs), labels, names)


def _pairs(source: Source, folder: Path, file: File) -> Pairs:
    path = folder / file.name
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != file.sha256:
        raise ValueError(
            f"{path}: expected SHA-256 {file.sha256}; got {actual}. The file is damaged or is "
            f"another version: delete it and fetch {file.url} again."
        )
    try:
        return source.pairs(content.decode("utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected texts with their classes in the official layout; got {error!r}. "
            f"Fetch {file.url} again."
        ) from error


def load_encoded(source: Source, root: Path | None) -> Data:
    """Both halves with the features of the encoder.

    Raises:
        ValueError: see :func:`read`; or features are missing, damaged or of other texts.
    """
    found = read(source, root)
    rows = _encoded(source, found).astype(np.float32)
    return _split(source, source.name, found, torch.from_numpy(rows))


def load_tfidf(source: Source, root: Path | None) -> Data:
    """Both halves with TF-IDF features, fitted on the training half alone.

    Raises:
        ValueError: see :func:`read`.
    """
    found = read(source, root)
    trains = (found.labels < len(found.names) // 2).tolist()
    return _split(source, f"{source.name}_tfidf", found, _fitted(found.texts, trains))


def load_tfidf_refit(source: Source, root: Path | None) -> Data:
    """The same, whose features are fitted anew in each fold of a search, on its training classes.

    Raises:
        ValueError: see :func:`read`.
    """
    return replace(load_tfidf(source, root), name=f"{source.name}_tfidf_refit", refit=_fitted)


def _fitted(texts: Sequence[str], trains: Sequence[bool]) -> Tensor:
    return torch.from_numpy(tfidf(texts, trains, width=WIDTH))


def load_raw(source: Source, root: Path | None) -> RawTexts:
    """Both halves without features.

    Raises:
        ValueError: see :func:`read`.
    """
    found = read(source, root)
    name = f"{source.name}_text"
    return RawTexts(
        name, *_halves(source, name, Utterances(found.texts, found.labels, found.names))
    )


def _split(source: Source, name: str, found: Texts, features: Tensor) -> Data:
    whole = Split(features, found.labels, found.names, texts=found.texts)
    return Data(name, *_halves(source, name, whole))


def _halves(source: Source, name: str, whole: AnyPart) -> tuple[AnyPart, AnyPart]:
    trained = set(whole.classes[: len(whole.classes) // 2])
    train, test = whole.only(lambda n: n in trained), whole.only(lambda n: n not in trained)
    for part, split, (classes, texts) in (
        ("train", train, source.train),
        ("test", test, source.test),
    ):
        check_counts(f"{name} {part}", split, classes=classes, images=texts)
    return train, test


def encoded_file(folder: Path) -> Path | None:
    """The features of the encoder beside the official files, or None."""
    names = (f"{ENCODER}.npy", f"{ENCODER}.npz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _encoded(source: Source, found: Texts) -> NDArray[np.float16]:
    """(N, 384)."""
    path = encoded_file(found.folder)
    if path is None:
        raise ValueError(
            f"{source.name}: expected features, {ENCODER}.npy or .npz, in {found.folder}; got "
            f"neither. `python -m benchmarks data build {source.name} --weights FOLDER` computes "
            f"them once with the model in FOLDER; {source.name}_tfidf needs none."
        )
    rows = features.read(path, found.texts) if path.suffix == ".npy" else _npz(path, found)
    if rows.shape != (len(found.texts), WIDTH) or not np.isfinite(rows).all():
        raise ValueError(
            f"{path}: expected finite features ({len(found.texts)}, {WIDTH}); got {rows.shape}"
            f"{'' if np.isfinite(rows).all() else ', not all finite'}. Delete it and build them "
            "again."
        )
    return rows


def _npz(path: Path, found: Texts) -> NDArray[np.float16]:
    """``features``, whose ``labels`` into ``names`` have to be those of the official files."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            rows: NDArray[np.float16] = file["features"]
            labels, names = file["labels"].tolist(), tuple(file["names"].tolist())
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path}: expected arrays `features`, `labels` and `names`; got {error!r}. Delete it "
            "and build the features again."
        ) from error
    if (labels, names) != (found.labels.tolist(), found.names):
        raise ValueError(
            f"{path}: expected the labels of the official files beside it, in their order; got "
            "others. It was computed from another version: delete it and build the features again."
        )
    return rows
