"""In-Shop Clothes Retrieval of DeepFashion: garments of a shop, each from several sides.

Source: Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang, "DeepFashion: powering robust clothes recognition
and retrieval with rich annotations", CVPR 2016;
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html: Eval/list_eval_partition.txt
and Img/img.zip, unpacked where it lies.
Licence: non-commercial research and education, says its README.
Split rule: the official one: train (25,882 photographs of 3,997 garments), query (14,218 of 3,985)
and gallery (12,612 of the same). Each query is compared with the gallery alone.
Checks: those counts, the number of lines that the list itself names, the same garments in query and
gallery, none of them in train, and that each photograph can be read.
pml has no such class; this one is of its kind.
"""

from pathlib import Path

from pytorch_metric_learning.datasets.base_dataset import BaseDataset

from benchmarks.datasets.image_files import Files, RgbFiles
from benchmarks.datasets.official import Official
from pml_extras._checks import refuse

LIST = Path("Eval") / "list_eval_partition.txt"
COLUMNS = ["image_name", "item_id", "evaluation_status"]
SPLITS = ["train", "query", "gallery"]


class InShop(RgbFiles, BaseDataset):
    """Photographs of one split; ``items`` names the garment of each, ``labels`` numbers them by
    name within the split.

    Args:
        root: the folder with Eval/ and Img/.
        split: train, query or gallery.
        transform: of the RGB picture.
        target_transform: of the label.

    Raises:
        ValueError: the list is not as published.
    """

    def get_available_splits(self) -> list[str]:
        """As in the list."""
        return SPLITS

    def generate_split(self) -> None:
        """Paths, garments and labels of the split."""
        lines = (Path(self.root) / LIST).read_text().splitlines()
        if len(lines) < 2 or lines[1].split() != COLUMNS:
            raise refuse(LIST.name, f"{' '.join(COLUMNS)!r} in line 2", repr(lines[1:2]))
        rows = [line.split() for line in lines[2:] if line.strip()]
        if int(lines[0]) != len(rows):
            raise refuse(LIST.name, f"{lines[0]} pictures, as line 1 says", len(rows))
        if bad := [row for row in rows if len(row) != len(COLUMNS) or row[2] not in SPLITS]:
            raise refuse(LIST.name, f"three entries, the last of {SPLITS}", " ".join(bad[0]))
        chosen = [row for row in rows if row[2] == self.split]
        self.paths = [str(Path(self.root) / "Img" / name) for name, _, _ in chosen]
        self.items = [item for _, item, _ in chosen]
        number = {item: label for label, item in enumerate(sorted(set(self.items)))}
        self.labels = [number[item] for item in self.items]

    def download_and_remove(self) -> None:
        """Refused: the archive has to be asked for."""
        raise refuse("download", "False", True, "See the page that the module names.")


def _read(folder: Path) -> dict[str, Files]:
    parts = {part: InShop(str(folder), part) for part in SPLITS}
    files = {part: Files.of(found.paths, found.items) for part, found in parts.items()}
    return {"train": files["train"], "test": files["query"], "gallery": files["gallery"]}


OFFICIAL = Official(
    "in_shop",
    "in_shop",
    "Eval/ and Img/img.zip of "
    "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    _read,
    counts={"train": (3997, 25882), "test": (3985, 14218), "gallery": (3985, 12612)},
    recall_at=(1, 10, 20, 30),
)
