"""Each paper's crops, of pictures whose pixels say where they come from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.crops import (
    CAFFE,
    CROPS,
    IMAGENET,
    INTRA_BATCH,
    LIFTED,
    POTENTIAL_FIELD,
    REALITY_CHECK,
    SUM_POOLING,
    Colours,
    Crops,
)

every = pytest.mark.parametrize("crops", CROPS.values(), ids=CROPS)
RESIZED = (POTENTIAL_FIELD, SUM_POOLING, REALITY_CHECK)
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def places(height: int = 256, width: int = 256) -> Image.Image:
    """Red is the column, green the row, from 0 to 255; blue is 0."""
    column, row = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([column, row, np.zeros_like(row)], axis=2).round().astype(np.uint8)
    return Image.fromarray(pixels)


def bytes_of(crops: Crops, made: torch.Tensor) -> torch.Tensor:
    """(3, size, size) in RGB from 0 to 255, as before normalisation."""
    colours = crops.colours
    mean, std = (torch.tensor(three)[:, None, None] for three in (colours.mean, colours.std))
    values = (made * std + mean) * (255 / colours.largest)
    return values if colours.order == "RGB" else values.flip(0)


@every
def test_the_test_crop_is_the_centre_of_a_picture_with_256_on_its_shorter_side(
    crops: Crops,
) -> None:
    picture = places(256, 512)
    made = crops.test()(picture)
    assert made.shape == (3, crops.size, crops.size)
    assert made.dtype == torch.float32
    top = round((256 - crops.size) / 2)
    red, green, blue = bytes_of(crops, made)
    torch.testing.assert_close(green[:, 0], torch.arange(top, top + crops.size).float())
    assert blue.abs().max() < 1e-4
    width = float(red[0, -1] - red[0, 0]) / 255 * 512  # of the picture, in its pixels
    assert width == pytest.approx(2 * crops.size if crops.warped else crops.size, abs=5)
    assert float(red.mean()) == pytest.approx(127.5, abs=0.6)
    assert crops.test()(picture.resize((1024, 512))).shape == made.shape


@every
def test_training_crops_are_inside_and_mirrored_half_of_the_time(crops: Crops) -> None:
    torch.manual_seed(0)
    picture, train = places(), crops.train()
    mirrored = [_columns_fall(crops, train(picture)) for _ in range(120)]
    assert 40 <= sum(mirrored) <= 80
    assert train(places(300, 500)).shape == (3, crops.size, crops.size)


def _columns_fall(crops: Crops, made: torch.Tensor) -> bool:
    red, green, _ = bytes_of(crops, made)
    assert made.dtype == torch.float32
    assert -0.01 <= float(red.min()) <= float(red.max()) <= 255.01 or crops.erasing
    across = red.diff(dim=1).median()  # a median, since a part may be erased
    assert green.diff(dim=0).median() >= 0
    return bool(red[:, :20].median() > red[:, -20:].median()) if across == 0 else bool(across < 0)


@pytest.mark.parametrize("crops", RESIZED, ids=lambda crops: crops.name)
def test_training_crops_take_the_parts_of_their_paper(crops: Crops) -> None:
    torch.manual_seed(0)
    picture, train = places(), crops.train()
    areas, aspects = [], []
    for _ in range(200):
        red, green, _ = bytes_of(crops, train(picture))
        width, height = float(red.max() - red.min()), float(green.max() - green.min())
        areas.append(width * height / 255**2)
        aspects.append(width / height)
    least = 0.16 if crops.name in ("generalized sum pooling", "reality check") else 0.08
    assert 0.85 * least < min(areas) < least + 0.05
    assert max(areas) > 0.85
    assert 0.7 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.4


def test_the_crop_of_the_lifted_structure_is_a_window_of_a_warped_square() -> None:
    torch.manual_seed(0)
    corners = set()
    for _ in range(40):
        red, green, _ = bytes_of(LIFTED, LIFTED.train()(places()))
        left, top = round(float(red.min())), round(float(green.min()))
        assert float(red.max()) - left == float(green.max()) - top == 226
        corners.add((left, top))
    assert len(corners) > 30
    assert {left for left, _ in corners} | {top for _, top in corners} <= set(range(30))


def test_half_of_the_crops_of_intra_batch_connections_have_an_erased_rectangle() -> None:
    torch.manual_seed(0)
    fill = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    shares = []
    for _ in range(200):
        erased = (INTRA_BATCH.train()(places()) == fill).all(dim=0)
        shares.append(float(erased.float().mean()))
    some = [share for share in shares if share > 0]
    assert 75 <= len(some) <= 125
    assert 0.015 < min(some) < 0.06
    assert 0.3 < max(some) < 0.41


def test_colours_are_normalised_as_the_weights_expect() -> None:
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    expected = (torch.tensor([1.0, 0.0, 0.2])[:, None, None] - MEAN) / STD
    torch.testing.assert_close(IMAGENET.of(pixels), expected.expand(3, 2, 2))
    assert CAFFE.of(pixels)[:, 0, 0].tolist() == [51 - 104, 0 - 117, 255 - 128]
    assert Colours(std=(1.0, 1.0, 1.0)).of(pixels)[0, 0, 0] == pytest.approx(1 - 0.485)
    shifted = SUM_POOLING.colours.of(pixels)[:, 0, 0] / 255  # its code leaves the division out
    torch.testing.assert_close(shifted, torch.tensor([0.2 - 0.406, 0.0 - 0.456, 1.0 - 0.485]))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("potential field", (1 - 0.485) / 0.229),
        ("generalized sum pooling", 255 * (1 - 0.406)),
        ("intra-batch connections", (1 - 0.485) / 0.299),
        ("ensemble of losses", 255 - 104),
        ("lifted structure", 255 - 104),
        ("reality check", (1 - 0.485) / 0.229),
        ("revisiting", (1 - 0.485) / 0.229),
    ],
)
def test_white_has_in_the_first_channel_what_it_has_in_each_paper(name: str, first: float) -> None:
    white = Image.new("RGB", (300, 300), "white")
    assert CROPS[name].test()(white)[0].unique().tolist() == pytest.approx([first], rel=1e-5)


def test_settings_tell_all_crops_apart() -> None:
    settings = [json.dumps(crops.settings()) for crops in CROPS.values()]
    assert len(set(settings)) == len(CROPS) == 7


def test_the_reality_check_takes_256_on_the_shorter_side_before_it_crops() -> None:
    fine = np.indices((1024, 1024)).sum(axis=0) // 3 % 2 * 255  # gone at a quarter of the size
    picture = Image.fromarray(fine.astype(np.uint8)).convert("RGB")
    spreads = []
    for crops in (REALITY_CHECK, replace(REALITY_CHECK, before=None)):
        torch.manual_seed(1)
        train = crops.train()
        spreads.append(max(float(bytes_of(crops, train(picture)).std()) for _ in range(10)))
    assert spreads[0] < 0.7 * spreads[1]
