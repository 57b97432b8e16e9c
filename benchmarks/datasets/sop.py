"""Stanford Online Products: things for sale, photographed by their sellers.

Source: H. Oh Song, Y. Xiang, S. Jegelka, S. Savarese, "Deep metric learning via lifted structured
feature embedding", CVPR 2016; the archive Stanford_Online_Products.zip of
https://cvgl.stanford.edu/projects/lifted_struct/.
Licence: photographs are their sellers'; see that page.
Split rule: the official one, Ebay_train.txt (59,551 photographs of 11,318 products) and
Ebay_test.txt (60,502 of 11,316). The lists are read by pml's data set class.
Checks: those counts, no product in both lists, and that each photograph can be read.
"""

from pathlib import Path

from pytorch_metric_learning.datasets import StanfordOnlineProducts

from benchmarks.datasets.image_files import Files, RgbFiles
from benchmarks.datasets.official import Official


class RgbStanfordOnlineProducts(RgbFiles, StanfordOnlineProducts):
    """pml's, in RGB."""


def _read(folder: Path) -> dict[str, Files]:
    """pml looks for Stanford_Online_Products below its root."""
    halves = {
        part: RgbStanfordOnlineProducts(str(folder.parent), part) for part in ("train", "test")
    }
    return {
        part: Files.of(half.paths, [f"product {label:05d}" for label in half.labels])
        for part, half in halves.items()
    }


OFFICIAL = Official(
    "sop",
    "Stanford_Online_Products",
    "Stanford_Online_Products.zip of https://cvgl.stanford.edu/projects/lifted_struct/",
    _read,
    counts={"train": (11318, 59551), "test": (11316, 60502)},
    recall_at=(1, 10, 100, 1000),
)
