"""Cars of 196 models, photographed.

Source: J. Krause, M. Stark, J. Deng, L. Fei-Fei, "3D object representations for fine-grained
categorization", 3dRR 2013. The authors' page is gone; the copy that pml's data set class reads is
https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder, sorted by class.
Licence: research alone, by the authors' former page; see also that of the copy.
Split rule: classes 1-98 train (8,054 photographs), 99-196 test (8,131), as all papers do, over both
official parts, whose own split is not used. The lists are read by pml's class.
Checks: those counts, 196 names, labels that have one, and that each photograph can be read.
"""

from pathlib import Path
from typing import Any

from pytorch_metric_learning.datasets import Cars196

from benchmarks.datasets.image_files import Files, RgbFiles
from benchmarks.datasets.official import Official
from pml_extras._checks import refuse

CLASSES = 196


class RgbCars196(RgbFiles, Cars196):
    """pml's, in RGB; refuses labels without a name, of which pml leaves some out."""

    def _load_csv(self, path: str, names: list[str], split: str) -> Any:
        if len(names) != CLASSES:
            raise refuse("names.csv", f"{CLASSES} lines", len(names))
        for line in Path(path).read_text().splitlines():
            if not 1 <= int(line.split(",")[-1]) <= CLASSES:
                raise refuse(Path(path).name, f"classes 1 to {CLASSES}", repr(line))
        return super()._load_csv(path, names, split)


def _read(folder: Path) -> dict[str, Files]:
    halves = {part: RgbCars196(str(folder), part) for part in ("train", "test")}
    return {
        part: Files.of(half.paths, [Path(path).parent.name for path in half.paths])
        for part, half in halves.items()
    }


OFFICIAL = Official(
    "cars196",
    "cars196",
    "https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder",
    _read,
    counts={"train": (98, 8054), "test": (98, 8131)},
)
