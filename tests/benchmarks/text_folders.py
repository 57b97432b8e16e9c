"""Small data sets of texts in the official layout, whose classes share words."""

import csv
import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.datasets import banking77, clinc150
from benchmarks.datasets.texts import ENCODER, File, Source

CLASSES = 52  # 26 train: a batch of 25 classes can be drawn
PARTS = {"train": 10, "val": 2, "test": 4}  # texts of each class
EACH = sum(PARTS.values())
HALF = (CLASSES // 2, CLASSES // 2 * EACH)


def utterances(seed: int) -> list[tuple[str, str, str]]:
    """(part, text, class), of no order in the classes."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))

    common = [word() for _ in range(30)]
    found = []
    for _ in range(CLASSES):
        name, topic = f"{word()}_{word()}", [word() for _ in range(4)]
        for part, count in PARTS.items():
            for _ in range(count):
                words = [*draw.sample(topic, 3), *draw.sample(common, 3), word()]
                draw.shuffle(words)
                found.append((part, " ".join(words) + ', "ü"?', name))
    draw.shuffle(found)
    return found


def described(source: Source, *paths: Path) -> Source:
    """The source with the checksums of these files, and the counts of this page."""
    files = tuple(
        File(f"https://example.invalid/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    )
    return replace(source, files=files, train=HALF, test=HALF)


def clinc_folder(root: Path) -> Source:
    """``root/clinc150/data_full.json``."""
    parts: dict[str, list[tuple[str, str]]] = {name: [] for name in PARTS}
    for part, text, name in utterances(0):
        parts[part].append((text, name))
    out_of_scope = {f"oos_{part}": [("what is a cow", "oos")] for part in PARTS}
    path = root / "clinc150" / "data_full.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**out_of_scope, **parts}), encoding="utf-8")
    return described(clinc150.SOURCE, path)


def banking_folder(root: Path) -> Source:
    """``root/banking77/train.csv`` and ``test.csv``."""
    folder = root / "banking77"
    folder.mkdir(parents=True)
    for file, wanted in (("train", ("train", "val")), ("test", ("test",))):
        with (folder / f"{file}.csv").open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["text", "category"])
            writer.writerows((text, name) for part, text, name in utterances(1) if part in wanted)
    return described(banking77.SOURCE, folder / "train.csv", folder / "test.csv")


def with_features(folder: Path, labels: list[int], names: tuple[str, ...]) -> Path:
    """``all-MiniLM-L6-v2.npz``: a direction a class, and noise."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(len(names), 384))
    rows = centres[labels] + generator.normal(size=(len(labels), 384))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = folder / f"{ENCODER}.npz"
    np.savez(path, features=rows.astype(np.float16), labels=np.int16(labels), names=np.array(names))
    return path
