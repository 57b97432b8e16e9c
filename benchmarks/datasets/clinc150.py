"""Requests to an assistant, of 150 intents in ten domains.

Source: S. Larson et al., "An evaluation dataset for intent classification and out-of-scope
prediction", EMNLP 2019; https://github.com/clinc/oos-eval, folder ``data``.
Licence: CC BY 3.0.
File: data_full.json, checked by SHA-256; its parts train, val and test are one set here, those out
of scope are not used.
Split rule: of the sorted intents the first 75 train (11,250 texts), the other 75 test (11,250).
Made of it: 384 features a text, see :mod:`benchmarks.datasets.texts`.
"""

import json
from pathlib import Path

from benchmarks.datasets import texts
from benchmarks.datasets.raw_texts import RawTexts
from benchmarks.datasets.split import Data
from benchmarks.datasets.texts import File, Pairs, Source

NEEDS = "clinc150/data_full.json with features beside it in --data-root or PML_EXTRAS_DATA"
NEEDS_TFIDF = "clinc150/data_full.json in --data-root or PML_EXTRAS_DATA"
PARTS = ("train", "val", "test")


def pairs(content: str) -> Pairs:
    """``{"train": [[text, intent], ...], ...}``."""
    parts = json.loads(content)
    return [(str(text), str(intent)) for part in PARTS for text, intent in parts[part]]


SOURCE = Source(
    "clinc150",
    (
        File(
            "https://github.com/clinc/oos-eval/raw/master/data/data_full.json",
            "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        ),
    ),
    pairs,
    train=(75, 11250),
    test=(75, 11250),
)


def load(root: Path | None = None, *, source: Source = SOURCE) -> Data:
    """Both halves, features of the encoder; see :func:`benchmarks.datasets.texts.load_encoded`."""
    return texts.load_encoded(source, root)


def load_tfidf(root: Path | None = None, *, source: Source = SOURCE) -> Data:
    """Both halves, TF-IDF features; see :func:`benchmarks.datasets.texts.load_tfidf`."""
    return texts.load_tfidf(source, root)


def load_raw(root: Path | None = None, *, source: Source = SOURCE) -> RawTexts:
    """Both halves, texts alone; see :func:`benchmarks.datasets.texts.load_raw`."""
    return texts.load_raw(source, root)
