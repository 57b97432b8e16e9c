"""Questions to a bank, of 77 intents that are close to one another.

Source: I. Casanueva et al., "Efficient intent detection with dual sentence encoders", workshop NLP
for ConvAI, ACL 2020; https://github.com/PolyAI-LDN/task-specific-datasets, folder ``banking_data``.
Licence: CC BY 4.0.
Files: train.csv and test.csv, checked by SHA-256, one set here.
Split rule: of the sorted intents the first 38 train (6,615 texts), the other 39 test (6,468).
Made of it: 384 features a text, see :mod:`benchmarks.datasets.texts`.
"""

import csv
import io
from pathlib import Path

from benchmarks.datasets import texts
from benchmarks.datasets.raw_texts import RawTexts
from benchmarks.datasets.split import Data
from benchmarks.datasets.texts import File, Pairs, Source

NEEDS = "banking77/{train,test}.csv with features beside them in --data-root or PML_EXTRAS_DATA"
NEEDS_TFIDF = "banking77/{train,test}.csv in --data-root or PML_EXTRAS_DATA"
_URL = "https://github.com/PolyAI-LDN/task-specific-datasets/raw/master/banking_data/"


def pairs(content: str) -> Pairs:
    """A line ``text,category``, then a question and its intent a line."""
    header, *rows = csv.reader(io.StringIO(content))
    if header != ["text", "category"]:
        raise ValueError(f"the header {header}")
    return [(text, category) for text, category in rows]


SOURCE = Source(
    "banking77",
    (
        File(
            f"{_URL}train.csv", "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b"
        ),
        File(f"{_URL}test.csv", "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d"),
    ),
    pairs,
    train=(38, 6615),
    test=(39, 6468),
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
