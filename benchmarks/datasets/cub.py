"""Birds of 200 species, photographed.

Source: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, "The Caltech-UCSD Birds-200-2011
dataset", CNS-TR-2011-001; https://www.vision.caltech.edu/datasets/cub_200_2011/, the archive
CUB_200_2011.tgz.
Licence: none in the archive, photographs are their owners'; see that page.
Split rule: classes 1-100 train (5,864 photographs), 101-200 test (5,924), as all papers do; the
official train_test_split.txt is not used. The lists are read by pml's data set class.
Checks: those counts, one line of the two lists for each photograph, and that each can be read.
"""

from pathlib import Path

from pytorch_metric_learning.datasets import CUB

from benchmarks.datasets.image_files import Files, RgbFiles
from benchmarks.datasets.official import Official
from pml_extras._checks import refuse

FOLDER, LABELS, CLASSES = "CUB_200_2011", "image_class_labels.txt", 200


class RgbCUB(RgbFiles, CUB):
    """pml's, in RGB; refuses lists that do not fit each other, of which pml leaves lines out."""

    def generate_split(self) -> None:
        """Paths and labels 1..200 of the split."""
        images, labels = (
            [line.split() for line in (Path(self.root) / FOLDER / name).read_text().splitlines()]
            for name in ("images.txt", LABELS)
        )
        if [line[0] for line in images] != [line[0] for line in labels]:
            expected = f"the {len(images)} images of images.txt in their order"
            raise refuse(LABELS, expected, f"{len(labels)}, or others")
        for (_, path), (_, label) in zip(images, labels, strict=True):
            if not 1 <= int(label) <= CLASSES or int(path.split(".")[0]) != int(label):
                expected = f"a class from 1 to {CLASSES}, the one that its folder names"
                raise refuse(LABELS, expected, f"{label} of {path}")
        super().generate_split()


def _read(folder: Path) -> dict[str, Files]:
    """pml looks for CUB_200_2011 below its root."""
    halves = {part: RgbCUB(str(folder.parent), part) for part in ("train", "test")}
    return {
        part: Files.of(half.paths, [Path(path).parent.name for path in half.paths])
        for part, half in halves.items()
    }


OFFICIAL = Official(
    "cub",
    FOLDER,
    "CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011/",
    _read,
    counts={"train": (100, 5864), "test": (100, 5924)},
)
