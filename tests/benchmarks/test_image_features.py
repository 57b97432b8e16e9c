"""Features of image files are built once, belong to files and weights, and train as data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from benchmarks import data_commands, encoders
from benchmarks.command_line import app
from benchmarks.datasets import DATASETS, image_features
from benchmarks.datasets.image_files import Files, ImageFiles, open_rgb
from benchmarks.encoders import torchvision_file_encoder
from benchmarks.features import Encoder
from benchmarks.recipes import BUDGETS
from benchmarks.records import read
from tests.benchmarks.few_features import BUDGET
from tests.benchmarks.miniatures import CLASSES, IMAGES, MINIATURES, photograph

OFFICIAL = MINIATURES["cub"].official
SHA256 = f"{image_features.WEIGHTS}{'0' * 56}"


def colours(sha256: str = SHA256) -> Callable[[str, Path, Path], Encoder]:
    """Six features of a picture: its mean colour and the square of that."""

    def made(trunk: str, weights: Path, folder: Path) -> Encoder:
        def encode(names: list[str]) -> Any:
            means = np.array([np.asarray(open_rgb(folder / n)).mean((0, 1)) / 255 for n in names])
            return np.concatenate([means, means**2], axis=1)

        return Encoder({"trunk": trunk, "weights_sha256": sha256}, 6, encode)

    return made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_command_line: object) -> Path:
    MINIATURES["cub"].make(tmp_path)
    monkeypatch.setattr(data_commands, "torchvision_file_encoder", colours())
    return tmp_path


def build(root: Path) -> Result:
    command = ["data", "build", "cub", "--trunk", "resnet50", "--weights", "w.pth"]
    return CliRunner().invoke(app, [*command, "--data-root", str(root)])


def test_features_are_of_the_files_in_their_order_and_split_as_they_are(root: Path) -> None:
    assert image_features.place(OFFICIAL, root) is None
    built = build(root)
    assert built.exit_code == 0, built.output
    assert f"{2 * CLASSES * IMAGES} rows of 6 features" in built.output
    assert image_features.place(OFFICIAL, root) == str(root / "cub" / "resnet50.npy")
    files, data = OFFICIAL.load(root), image_features.load(OFFICIAL, root)
    assert data.name == "cub_features"
    for part, split in ((files.train, data.train), (files.test, data.test)):
        assert torch.equal(part.labels, split.labels)
        assert part.classes == split.classes
        for path, row in zip(part.paths, split.images, strict=True):
            mean = torch.tensor(np.asarray(open_rgb(path)).mean((0, 1)) / 255)
            torch.testing.assert_close(row[:3], mean.half().float())


def test_a_copy_of_the_folder_elsewhere_has_the_same_features(root: Path, tmp_path: Path) -> None:
    build(root)
    before = image_features.load(OFFICIAL, root).test.images
    moved = root.rename(tmp_path.parent / f"{tmp_path.name}_moved")
    assert torch.equal(image_features.load(OFFICIAL, moved).test.images, before)


def test_names_are_those_of_all_parts_in_order() -> None:
    train, test, gallery = (
        Files.of([f"root/sub/{number}.jpg"], [name]) for number, name in enumerate("abb")
    )
    data = ImageFiles("made up", train, test, gallery)
    assert data.names(Path("root")) == ("sub/0.jpg", "sub/1.jpg", "sub/2.jpg")
    assert replace(data, gallery=None).names(Path("root/sub")) == ("0.jpg", "1.jpg")


def test_what_is_missing_or_of_other_weights_is_explained(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"cub_features: expected features in .*data build cub --t"
    ):
        image_features.load(OFFICIAL, root)
    monkeypatch.setattr(data_commands, "torchvision_file_encoder", colours("1" * 64))
    build(root)
    with pytest.raises(ValueError, match=r"begins with 0676ba61; got 11111111\. Delete it"):
        image_features.load(OFFICIAL, root)


def test_features_of_another_list_of_files_are_refused(root: Path) -> None:
    build(root)
    sidecar = root / "cub" / "resnet50.json"
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**about, "inputs_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="got those of others"):
        image_features.load(OFFICIAL, root)


@pytest.mark.parametrize("protocol", [[], ["--protocol", "reality-check", "--trials", 1]])
def test_losses_train_on_features_of_images(
    protocol: list[object],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(root)
    data = image_features.load(OFFICIAL, root)
    repeated = replace(
        data,
        train=replace(
            data.train,
            images=data.train.images.repeat(3, 1),
            labels=torch.cat([data.train.labels + CLASSES * k for k in range(3)]),
            classes=tuple(f"{name} {k}" for k in range(3) for name in data.train.classes),
        ),
    )  # enough classes for four folds
    loaded = replace(DATASETS["cub_features"], load=lambda root: repeated)
    monkeypatch.setitem(DATASETS, "cub_features", loaded)
    monkeypatch.setitem(BUDGETS, "cub_features", BUDGET)
    command = ["run", "--dataset", "cub_features", "--recipes", "proxy_anchor", "untrained"]
    given = [*command, "--seeds", 0, "--results", tmp_path / "results", *protocol]
    done = CliRunner().invoke(app, list(map(str, given)))
    assert done.exit_code == 0, done.output
    trained, floor = read(tmp_path / "results", "cub_features")
    assert floor["metrics"]["recall_at_1"] == 1.0  # pictures of one colour a class
    assert trained["recipe"] == "proxy_anchor"
    report = ["report", "--results", str(tmp_path / "results"), "--output", str(tmp_path)]
    assert CliRunner().invoke(app, report).exit_code == 0


def test_the_encoder_of_files_sees_their_central_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "BATCH", 1)
    model = torchvision.models.resnet18(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = torchvision_file_encoder("resnet18", tmp_path / "weights.pth", tmp_path)
    photograph(tmp_path / "a" / "one.jpg", 3)
    wide = Image.new("RGB", (320, 256), (250, 10, 10))
    wide.paste((10, 200, 10), (48, 16, 272, 240))  # all that the crop holds
    wide.save(tmp_path / "a" / "two.png")
    found = torch.from_numpy(encoder.encode(["a/one.jpg", "a/two.png"]))
    assert (encoder.width, found.shape) == (512, (2, 512))
    assert encoder.about["crops"] == "revisiting"
    green = torch.tensor([10, 200, 10])[:, None, None].expand(3, 224, 224) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normed = (green - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = nn.Sequential(*list(model.children())[:-1])(normed[None]).flatten(1)
    assert expected.max() > 0.1
    torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
