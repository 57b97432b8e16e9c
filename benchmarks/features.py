"""Features of a frozen trunk, computed once and stored as a memory-mapped file.

``NAME.npy`` holds (N, width) float16: half the precision that a trunk computes in, a quarter of the
bytes of float64, and three digits of each number. Beside it ``NAME.json`` says which encoder made
them (library, version, checksum of the weights), the checksum of what was encoded, and how many
rows are done: an interrupted build goes on where it was.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.datasets.split import Data

CHUNK = 1024  # rows that a killed build loses at most
Rows = Sequence[str] | Tensor


@dataclass(frozen=True)
class Encoder:
    """A frozen trunk.

    Args:
        about: what its features depend on, as plain JSON.
        width: of its features.
        encode: texts, names of files, or (B, channels, H, W) images -> (B, width) floats.
    """

    about: dict[str, str]
    width: int
    encode: Callable[[Any], NDArray[np.floating[Any]]]


def build(
    path: Path, rows: Rows, encoder: Encoder, *, on_rows: Callable[[int], None] = lambda done: None
) -> None:
    """Encode all rows into ``path``, or those that an interrupted build left.

    Args:
        path: ends in .npy.
        rows: texts, names of files, or (N, channels, H, W) images.
        encoder: what makes features of them.
        on_rows: called with the number of rows done, at the start and after each chunk.

    Raises:
        ValueError: the files are there and damaged, or of other rows or another encoder, the folder
            cannot be written to, or a feature is not finite as float16.
    """
    wanted = {
        "encoder": encoder.about,
        "inputs_sha256": checksum(rows),
        "shape": [len(rows), encoder.width],
    }
    try:
        done = _done(path, wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not done:  # it would vouch for rows that are not there yet
            _sidecar(path).unlink(missing_ok=True)
        file = open_memmap(
            path,
            mode="r+" if done else "w+",
            dtype=np.float16,
            shape=(len(rows), encoder.width),
        )
        on_rows(done)
        while done < len(rows):
            chunk = np.asarray(encoder.encode(rows[done : done + CHUNK]), dtype=np.float16)
            if not np.isfinite(chunk).all():
                raise ValueError(
                    f"{path}: expected features that are finite as float16; got others in rows "
                    f"{done} to {done + len(chunk) - 1}. Check the weights."
                )
            file[done : done + len(chunk)] = chunk
            file.flush()
            done += len(chunk)
            _write(_sidecar(path), {**wanted, "done": done})
            on_rows(done)
    except OSError as error:
        raise ValueError(
            f"{path}: expected a folder to write features to; got {error}. Copy the data set to a "
            "folder of yours and name its root in --data-root."
        ) from error


def read(path: Path, rows: Rows) -> NDArray[np.float16]:
    """(N, width), memory-mapped and read-only.

    Raises:
        ValueError: the file is missing, damaged, not finished, or of other rows.
    """
    try:
        about = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        found: NDArray[np.float16] = open_memmap(path, mode="r")
        done, total = about["done"], about["shape"][0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected features and {_sidecar(path).name} beside them; got {error!r}. "
            "Delete both and build them again."
        ) from error
    if done < total:
        raise ValueError(
            f"{path}: expected {total} rows of features; got {done}, an interrupted build. The "
            "same `python -m benchmarks data build` goes on with the rest."
        )
    if list(found.shape) != about["shape"] or about["inputs_sha256"] != checksum(rows):
        raise ValueError(
            f"{path}: expected features of these {len(rows)} rows; got those of others. Delete it "
            f"and {_sidecar(path).name}, and build them again."
        )
    return found


def encoder_of(path: Path) -> dict[str, str]:
    """What made features that :func:`read` has read."""
    made: dict[str, str] = json.loads(_sidecar(path).read_text(encoding="utf-8"))["encoder"]
    return made


def images_of(data: Data) -> Tensor:
    """(N, channels, H, W) that train, then those that validate, then those that test."""
    parts = (data.train, data.validation, data.test)
    return torch.cat([part.images for part in parts if part is not None])


def in_place_of_images(data: Data, path: Path) -> Data:
    """The data with features of its images, under a name of its own, ``NAME_FILE``.

    Args:
        data: of images.
        path: features of :func:`images_of` this data; read as float32 into memory.

    Raises:
        ValueError: see :func:`read`.
    """
    rows = torch.from_numpy(read(path, images_of(data)).astype(np.float32))
    sizes = [len(part.labels) for part in (data.train, data.validation, data.test) if part]
    train, *validation, test = rows.split(sizes)
    return replace(
        data,
        name=f"{data.name}_{path.stem}",
        train=replace(data.train, images=train),
        test=replace(data.test, images=test),
        validation=data.validation and replace(data.validation, images=validation[0]),
    )


def checksum(rows: Rows) -> str:
    """SHA-256 of the texts or names, or of the images and their shape."""
    if isinstance(rows, Tensor):
        found = hashlib.sha256(str((rows.dtype, tuple(rows.shape))).encode())
        found.update(rows.contiguous().numpy().data)
        return found.hexdigest()
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.json")


def _done(path: Path, wanted: dict[str, Any]) -> int:
    """Rows that are finished."""
    sidecar = _sidecar(path)
    if not (path.is_file() and sidecar.is_file()):
        return 0
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
        done: int = found.pop("done")
    except (ValueError, KeyError, AttributeError):
        found, done = None, 0
    if found != wanted:
        raise ValueError(
            f"{path}: expected features of the same inputs by the same encoder, to go on with; got "
            f"{sidecar.name} of others. Delete both files to build them anew."
        )
    if not _is_whole(path, wanted["shape"]):
        raise ValueError(
            f"{path}: expected all of {wanted['shape']} float16 numbers; got a damaged file. "
            "Delete both files to build them anew."
        )
    return done


def _is_whole(path: Path, shape: list[int]) -> bool:
    """Whether the array has its size; to write to a file that was cut would fill it with zeros."""
    try:
        rows = open_memmap(path, mode="r")
    except ValueError:
        return False
    return rows.dtype == np.float16 and list(rows.shape) == shape


def _write(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
