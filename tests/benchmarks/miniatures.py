"""The four data sets of image files in miniature: official layout, real JPEG files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.datasets import cars196, cub, in_shop, sop
from benchmarks.datasets.official import Official

CLASSES, IMAGES = 3, 4  # of each half, of each class
SIZE = (40, 48)


def colour(number: int) -> tuple[int, int, int]:
    return (40 * number % 256, 100, 255 - 23 * number % 256)


def photograph(path: Path, number: int) -> Path:
    """Its mean colour tells the class; green rises to the right and downwards, for crops to
    differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    pixels = np.full((height, width, 3), colour(number), dtype=np.uint8)
    rising = np.linspace(-40, 40, width) + np.linspace(-40, 40, height)[:, None]
    pixels[:, :, 1] = (100 + rising).round()
    Image.fromarray(pixels).save(path, quality=95)
    return path


def lines(path: Path, entries: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{entry}\n" for entry in entries))


def make_cub(root: Path) -> None:
    """Classes 1-3 train, 101-103 test."""
    folder = root / "CUB_200_2011"
    classes = [*range(1, 1 + CLASSES), *range(101, 101 + CLASSES)]
    paths = [
        (number, f"{number:03d}.Bird_{number}/Bird_{number}_{k:04d}.jpg")
        for number in classes
        for k in range(IMAGES)
    ]
    for number, path in paths:
        photograph(folder / "images" / path, number)
    lines(folder / "images.txt", (f"{k} {path}" for k, (_, path) in enumerate(paths, 1)))
    lines(folder / "image_class_labels.txt", (f"{k} {c}" for k, (c, _) in enumerate(paths, 1)))


def make_cars196(root: Path) -> None:
    """Classes 1-3 train, 194-196 test; of each half of the pictures in each official part."""
    folder = root / "cars196"
    names = [f"Car {number} C/V 2012" for number in range(1, 197)]
    lines(folder / "names.csv", names)
    for part in ("train", "test"):
        rows = []
        for number in (*range(1, 1 + CLASSES), *range(197 - CLASSES, 197)):
            for _ in range(IMAGES // 2):
                name = f"{len(rows) + 1:05d}.jpg"
                of_class = names[number - 1].replace("/", "-")
                photograph(folder / "car_data" / "car_data" / part / of_class / name, number)
                rows.append(f"{name},30,52,246,147,{number}")
        lines(folder / f"anno_{part}.csv", rows)


def make_sop(root: Path) -> None:
    """Products 9-11 train, 11319-11321 test."""
    folder = root / "Stanford_Online_Products"
    image = 0
    for part, first in (("train", 9), ("test", 11319)):
        rows = ["image_id class_id super_class_id path"]
        for number in range(first, first + CLASSES):
            for k in range(IMAGES):
                image += 1
                path = f"bicycle_final/{number:012d}_{k}.JPG"
                photograph(folder / path, number)
                rows.append(f"{image} {number} 1 {path}")
        lines(folder / f"Ebay_{part}.txt", rows)


def make_in_shop(root: Path) -> None:
    """Garments 1, 3, 5 train, 2, 4, 6 test, as queries and in the gallery."""
    folder = root / "in_shop"
    rows = []
    for number in range(1, 1 + 2 * CLASSES):
        for k in range(IMAGES if number % 2 else 2 * IMAGES):
            path = f"img/WOMEN/Dresses/id_{number:08d}/{k:02d}_1_front.jpg"
            photograph(folder / "Img" / path, number)
            test = "query" if k % 2 else "gallery"
            rows.append(f"{path}   id_{number:08d}   {'train' if number % 2 else test}")
    head = [str(len(rows)), "image_name item_id evaluation_status"]
    lines(folder / "Eval" / "list_eval_partition.txt", head + rows)


@dataclass(frozen=True)
class Miniature:
    """How to make one, and the data set with its counts; ``broken`` is one of its pictures."""

    make: Callable[[Path], None]
    official: Official
    numbers: Mapping[str, tuple[int, ...]]
    broken: str


WHOLE = (CLASSES, CLASSES * IMAGES)


def small(official: Official) -> Official:
    return replace(official, counts=dict.fromkeys(official.counts, WHOLE))


MINIATURES = {
    "cub": Miniature(
        make_cub,
        small(cub.OFFICIAL),
        {"train": (1, 2, 3), "test": (101, 102, 103)},
        "CUB_200_2011/images/102.Bird_102/Bird_102_0003.jpg",
    ),
    "cars196": Miniature(
        make_cars196,
        small(cars196.OFFICIAL),
        {"train": (1, 2, 3), "test": (194, 195, 196)},
        "cars196/car_data/car_data/test/Car 195 C-V 2012/00009.jpg",
    ),
    "sop": Miniature(
        make_sop,
        small(sop.OFFICIAL),
        {"train": (9, 10, 11), "test": (11319, 11320, 11321)},
        "Stanford_Online_Products/bicycle_final/000000011320_2.JPG",
    ),
    "in_shop": Miniature(
        make_in_shop,
        small(in_shop.OFFICIAL),
        {"train": (1, 3, 5), "test": (2, 4, 6), "gallery": (2, 4, 6)},
        "in_shop/Img/img/WOMEN/Dresses/id_00000004/02_1_front.jpg",
    ),
}
