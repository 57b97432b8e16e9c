"""CUB, Cars196, Stanford Online Products and In-Shop from small folders in the official layout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.crops import POTENTIAL_FIELD
from benchmarks.datasets import DATASETS, ImageFiles, cars196, cub, in_shop, sop
from benchmarks.datasets.cub import RgbCUB
from benchmarks.datasets.image_files import (
    Files,
    Numbered,
    Pictures,
    RandomPictures,
    open_rgb,
)
from benchmarks.datasets.in_shop import InShop
from benchmarks.datasets.official import Official
from tests.benchmarks.miniatures import MINIATURES, colour, lines, photograph

NAMES = list(MINIATURES)
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    MINIATURES[name].make(tmp_path)
    return tmp_path


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@every
def test_each_part_has_its_classes_and_their_pictures(name: str, root: Path) -> None:
    data = MINIATURES[name].official.load(root)
    for part, numbers in MINIATURES[name].numbers.items():
        files: Files = getattr(data, part)
        assert len(files.classes) == len(numbers)
        pictures = files.shown(torch.arange(len(files.paths)))
        for picture, label in zip(pictures, files.labels.tolist(), strict=True):
            expected = torch.tensor(colour(numbers[label])) / 255
            assert (picture.mean(dim=(1, 2)) - expected).abs().max() < 0.03
    assert (data.gallery is not None) == (name == "in_shop")


@every
def test_a_copy_that_is_right_has_no_problems(name: str, root: Path) -> None:
    assert MINIATURES[name].official.verify(root) == []


@every
def test_other_counts_than_the_published_ones_are_a_problem_each(name: str, root: Path) -> None:
    official = DATASETS[name]
    assert official.verify is not None
    problems = official.verify(root)
    wanted = {"cub": 5864, "cars196": 8054, "sop": 59551, "in_shop": 25882}[name]
    assert len(problems) == len(MINIATURES[name].official.counts)
    assert f"{wanted} images; got 3 and 12" in problems[0]
    with pytest.raises(ValueError, match=f"{name} train: expected .* Use the official files"):
        official.load(root)


@pytest.mark.parametrize(
    ("official", "classes", "pictures"),
    [
        (cub.OFFICIAL, 200, 11_788),
        (cars196.OFFICIAL, 196, 16_185),
        (sop.OFFICIAL, 22_634, 120_053),
        (in_shop.OFFICIAL, 7_982, 52_712),
    ],
    ids=NAMES,
)
def test_parts_add_up_to_what_was_published(
    official: Official, classes: int, pictures: int
) -> None:
    counts = official.counts
    assert counts["train"][0] + counts["test"][0] == classes
    assert counts.get("gallery", counts["test"])[0] == counts["test"][0]
    assert sum(images for _, images in counts.values()) == pictures


@every
def test_a_missing_picture_is_named(name: str, root: Path) -> None:
    (root / MINIATURES[name].broken).unlink()
    message = rf"{name}: .*1 missing: .*{Path(MINIATURES[name].broken).name}"
    with pytest.raises(ValueError, match=message):
        MINIATURES[name].official.load(root)
    (problem,) = MINIATURES[name].official.verify(root)
    assert MINIATURES[name].broken in problem
    assert f"`python -m benchmarks data verify {name}`" in problem


def cut(picture: bytes) -> bytes:
    return picture[:400]


def boundless(picture: bytes) -> bytes:
    """Its header says 65,535 x 65,535 pixels."""
    place = picture.index(b"\xff\xc0") + 5
    return picture[:place] + b"\xff" * 4 + picture[place + 4 :]


@every
@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no picture", cut, boundless])
def test_a_picture_that_cannot_be_read_is_named(
    name: str, root: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = root / MINIATURES[name].broken
    path.write_bytes(damage(path.read_bytes()))
    (problem,) = MINIATURES[name].official.verify(root)
    assert "1 no picture that can be read" in problem
    assert str(path) in problem
    data = MINIATURES[name].official.load(root)
    files = data.test if data.gallery is None else data.gallery
    with pytest.raises(ValueError, match=rf"{path.name}: expected a picture .* official archive"):
        files.shown(torch.arange(len(files.paths)))


@every
def test_without_the_folder_the_message_says_where_it_goes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    official = DATASETS[name]
    assert official.verify is not None
    assert official.place(tmp_path) is None
    assert official.place(None) is None
    with pytest.raises(ValueError, match=rf"{name}: expected a folder .*; got none\. Unpack "):
        official.load(None)
    with pytest.raises(ValueError, match=rf"{name}: expected the folder .*--data-root FOLDER"):
        official.load(tmp_path)
    assert len(official.verify(tmp_path)) == 1
    MINIATURES[name].make(tmp_path)
    assert official.place(tmp_path) is not None
    monkeypatch.setenv("PML_EXTRAS_DATA", str(tmp_path))
    assert isinstance(MINIATURES[name].official.load(None), ImageFiles)


QUERY = "img/WOMEN/Dresses/id_00000002/01_1_front.jpg"
LISTS = [
    ("cub", "CUB_200_2011/images.txt", "Bird_1_0001", "Bird_1_0000", "each picture once"),
    ("cars196", "cars196/anno_train.csv", "00002.jpg", "00001.jpg", "each picture once"),
    (
        "sop",
        "Stanford_Online_Products/Ebay_train.txt",
        "000000000009_0",
        "000000011319_0",
        "each picture once, in one part; got 1 more often, e.g. ",
    ),
    (
        "in_shop",
        "in_shop/Eval/list_eval_partition.txt",
        "img/WOMEN/Dresses/id_00000002/00_1_front.jpg",
        QUERY,
        "each picture once",
    ),
    ("cub", "CUB_200_2011/image_class_labels.txt", "\n3 1\n", "\n3 201\n", "class from 1 to 200"),
    ("cub", "CUB_200_2011/image_class_labels.txt", "\n3 1\n", "\n3 2\n", "2 of 001.Bird_1/"),
    ("cub", "CUB_200_2011/image_class_labels.txt", "\n3 1\n", "\n", "the 24 images of images.txt"),
    ("cub", "CUB_200_2011/images.txt", "1 001", "001", "expected the official files"),
    ("cars196", "cars196/anno_train.csv", ",147,1\n", ",147,0\n", "classes 1 to 196"),
    ("cars196", "cars196/anno_test.csv", ",147,196\n", ",147,197\n", "classes 1 to 196"),
    ("cars196", "cars196/names.csv", "Car 7 C/V 2012\n", "", "expected 196 lines; got 195"),
    ("sop", "Stanford_Online_Products/Ebay_test.txt", " 11319 ", " 9 ", "disjoint train and test"),
    ("sop", "Stanford_Online_Products/Ebay_train.txt", " 9 1 b", " nine 1 b", "invalid literal"),
    ("sop", "Stanford_Online_Products/Ebay_train.txt", " 9 1 b", " 91 b", "index out of range"),
    ("in_shop", "in_shop/Eval/list_eval_partition.txt", "36\n", "37\n", "expected 37 pictures"),
    ("in_shop", "in_shop/Eval/list_eval_partition.txt", "  gallery", "  galery", "last of"),
    ("in_shop", "in_shop/Eval/list_eval_partition.txt", "item_id", "id", "in line 2"),
    (
        "in_shop",
        "in_shop/Eval/list_eval_partition.txt",
        "id_00000001   train",
        "id_00000002   train",
        "disjoint train and test classes",
    ),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "message"), LISTS)
def test_lists_that_do_not_hold_are_explained(
    root: Path, name: str, file: str, old: str, new: str, message: str
) -> None:
    edited(root / file, old, new)
    problems = MINIATURES[name].official.verify(root)
    assert any(message in problem for problem in problems), problems
    with pytest.raises(ValueError, match=name):
        MINIATURES[name].official.load(root)


@pytest.mark.parametrize("name", ["in_shop"])
def test_query_and_gallery_have_the_same_garments(root: Path, name: str) -> None:
    file = root / "in_shop" / "Eval" / "list_eval_partition.txt"
    file.write_text(file.read_text().replace("id_00000006   query", "id_00000008   query"))
    problems = MINIATURES[name].official.verify(root)
    assert any("2 in one of the two alone, e.g. 'id_00000006'" in found for found in problems)


@pytest.mark.parametrize("name", ["in_shop"])
def test_in_shop_is_a_data_set_of_pml_that_never_downloads(root: Path, name: str) -> None:
    found = InShop(str(root / "in_shop"), "query")
    assert [label for _, label in found] == found.labels == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(ValueError, match="download: expected False"):
        InShop(str(root / "new"), "query", download=True)
    with pytest.raises(ValueError, match="Supported splits are: train, query, gallery"):
        InShop(str(root / "in_shop"), "test")


@pytest.mark.parametrize("name", ["cub"])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_other_colours_come_in_rgb(root: Path, name: str, mode: str) -> None:
    path = root / "CUB_200_2011" / "images" / "001.Bird_1" / "Bird_1_0000.jpg"
    form = "JPEG" if mode in ("L", "CMYK") else "PNG"
    Image.new("RGB", (8, 8), (153, 153, 153)).convert(mode).save(path, format=form)
    doubled = RgbCUB(str(root), "train", target_transform=lambda label: 2 * label)
    picture, label = doubled[0]
    assert (picture.mode, label) == ("RGB", 2)
    assert np.abs(np.asarray(picture).astype(int) - 153).max() < 4


@pytest.mark.parametrize("name", ["cub"])
def test_only_takes_files_and_labels_together(root: Path, name: str) -> None:
    train = MINIATURES[name].official.load(root).train
    part = train.only(lambda bird: not bird.startswith("002"))
    assert part.classes == (train.classes[0], train.classes[2])
    assert part.paths == train.paths[:4] + train.paths[8:]
    assert part.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("name", ["cub"])
def test_labels_that_are_no_classes_are_refused(root: Path, name: str) -> None:
    data = MINIATURES[name].official.load(root)
    for label in (-1, 3):
        labels = torch.where(torch.arange(12) == 5, label, data.train.labels)
        with pytest.raises(ValueError, match=rf"cub train labels: .*0\.\.2 .* \[{label}\]"):
            replace(data, train=replace(data.train, labels=labels))
    with pytest.raises(ValueError, match="disjoint train and validation"):
        replace(data, validation=data.train)


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    files = Files.of([str(tmp_path / "b.jpg"), str(tmp_path / "a.jpg")], ["b", "a"])
    assert (files.classes, files.labels.tolist()) == (("a", "b"), [1, 0])
    pictures = Pictures(files, lambda picture: torch.tensor(picture.size))
    assert len(pictures) == 2
    with pytest.raises(ValueError, match=r"a\.jpg: expected a picture that can be read; got"):
        pictures[1]
    Image.new("L", (5, 7)).save(tmp_path / "a.jpg")
    assert (pictures[1][0].tolist(), pictures[1][1]) == ([5, 7], 0)
    assert open_rgb(tmp_path / "a.jpg").mode == "RGB"
    lines(tmp_path / "b.jpg", ["text"])
    with pytest.raises(ValueError, match=r"b\.jpg: expected a picture that can be read; got"):
        pictures[0]


def test_what_a_crop_draws_depends_on_seed_and_draw_alone(tmp_path: Path) -> None:
    path = str(photograph(tmp_path / "a.jpg", 1))
    files = Files.of([path, path], ["a", "a"])
    train = replace(POTENTIAL_FIELD, size=16).train()
    drawn = {
        (seed, index, draw): RandomPictures(files, train, seed)[index, draw][0]
        for seed in (0, 1)
        for index in (0, 1)
        for draw in (0, 1, 2)
    }
    for (seed, index, draw), picture in drawn.items():
        torch.randn(3)
        before = torch.get_rng_state()
        assert torch.equal(RandomPictures(files, train, seed)[index, draw][0], picture)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(drawn[seed, 1 - index, draw], picture)
        assert not torch.equal(drawn[1 - seed, index, draw], picture)
        assert not torch.equal(drawn[seed, index, (draw + 1) % 3], picture)


def test_indices_are_numbered_through_all_passes_of_a_sampler() -> None:
    numbered = Numbered([5, 7])
    assert [pair for _ in range(2) for pair in numbered] == [(5, 0), (7, 1), (5, 2), (7, 3)]
