"""Features are computed once, go on after an interruption, and belong to their inputs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from benchmarks import encoders, features
from benchmarks.datasets import Data
from benchmarks.encoders import sentence_encoder, torchvision_encoder
from benchmarks.features import Encoder

TEXTS = tuple(f"text number {number}" for number in range(10))


def lengths(log: list[str], weights: str = "abc") -> Encoder:
    """Three features of a text, from its last letter; writes down what it was asked for."""

    def encode(texts: list[str]) -> Any:
        log.extend(texts)
        return np.array([[float(text[-1]), 1.0, -0.5] for text in texts])

    return Encoder({"library": "made up 1.0", "weights_sha256": weights}, 3, encode)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(features, "CHUNK", 4)
    return tmp_path / "new folder" / "encoder.npy"


def test_features_are_mapped_from_the_file_in_the_order_of_the_rows(path: Path) -> None:
    done: list[int] = []
    features.build(path, TEXTS, lengths([]), on_rows=done.append)
    found = features.read(path, TEXTS)
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found[:, 0], np.arange(10))
    assert done == [0, 4, 8, 10]


def test_an_interrupted_build_goes_on_and_a_finished_one_is_left(path: Path) -> None:
    first: list[str] = []

    def stop(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.build(path, TEXTS, lengths(first), on_rows=stop)
    with pytest.raises(ValueError, match=r"expected 10 rows of features; got 8, an interrupted"):
        features.read(path, TEXTS)
    rest: list[str] = []
    features.build(path, TEXTS, lengths(rest))
    assert (tuple(first), tuple(rest)) == (TEXTS[:8], TEXTS[8:])
    np.testing.assert_array_equal(features.read(path, TEXTS)[:, 0], np.arange(10))
    again: list[str] = []
    features.build(path, TEXTS, lengths(again))
    assert again == []


def test_a_build_that_lost_one_of_its_files_starts_anew(path: Path) -> None:
    for lost in (path, path.with_suffix(".json")):
        features.build(path, TEXTS, lengths([]))
        lost.unlink()
        log: list[str] = []
        features.build(path, TEXTS, lengths(log))
        assert tuple(log) == TEXTS


def test_features_of_other_rows_or_another_encoder_are_never_mixed(path: Path) -> None:
    features.build(path, TEXTS, lengths([]))
    before = path.read_bytes()
    for rows, encoder in ((TEXTS[::-1], lengths([])), (TEXTS, lengths([], weights="other"))):
        with pytest.raises(ValueError, match=r"encoder\.json of others\. Delete both files"):
            features.build(path, rows, encoder)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"expected features of these 10 rows; got those of other"):
        features.read(path, TEXTS[::-1])


def test_the_file_beside_them_says_where_they_come_from(path: Path) -> None:
    features.build(path, TEXTS, lengths([]))
    about = json.loads(path.with_suffix(".json").read_text())
    assert about == {
        "encoder": {"library": "made up 1.0", "weights_sha256": "abc"},
        "inputs_sha256": features.checksum(TEXTS),
        "shape": [10, 3],
        "done": 10,
    }


def test_the_checksum_is_of_content_order_and_shape() -> None:
    images = torch.arange(24.0).view(2, 1, 3, 4)
    rows = [images, images.flip(0), images.view(2, 1, 4, 3), images.double(), TEXTS, TEXTS[1:]]
    assert len({features.checksum(one) for one in rows}) == len(rows)
    assert features.checksum(images) == features.checksum(images.clone())


def test_a_build_anew_that_is_killed_at_once_leaves_nothing_that_counts(path: Path) -> None:
    def killed(rows: Any) -> Any:
        raise KeyboardInterrupt

    features.build(path, TEXTS, lengths([]))
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        features.build(path, TEXTS, replace(lengths([]), encode=killed))
    with pytest.raises(ValueError, match=r"expected features and encoder\.json beside them"):
        features.read(path, TEXTS)
    features.build(path, TEXTS, lengths([]))
    np.testing.assert_array_equal(features.read(path, TEXTS)[:, 0], np.arange(10))


@pytest.mark.parametrize("damage", ["cut", "other shape", "other type", "no array"])
def test_a_build_never_goes_on_with_damaged_features(damage: str, path: Path) -> None:
    features.build(path, TEXTS, lengths([]))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "no array":
        path.write_bytes(b"no array")
    else:
        kind = np.float64 if damage == "other type" else np.float16
        np.save(path, np.zeros((10 if damage == "other type" else 9, 3), kind))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"encoder\.npy: expected .* Delete both files"):
        features.build(path, TEXTS, lengths([]))
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no json", "cut", "half a json", "other shape"])
def test_damaged_features_are_refused(damage: str, path: Path) -> None:
    features.build(path, TEXTS, lengths([]))
    sidecar = path.with_suffix(".json")
    if damage == "no json":
        sidecar.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "half a json":
        sidecar.write_text(sidecar.read_text()[:20])
    else:
        np.save(path, np.zeros((9, 3), np.float16))
    with pytest.raises(ValueError, match=r"encoder\.npy: expected features"):
        features.read(path, TEXTS)


def test_features_that_half_precision_cannot_hold_are_refused(path: Path) -> None:
    large = Encoder({}, 2, lambda texts: np.full((len(texts), 2), np.inf))
    with pytest.raises(ValueError, match=r"finite as float16; got others in rows 0 to 3"):
        features.build(path, TEXTS, large)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"expected a folder to write features to; got .*Copy the"):
        features.build(tmp_path / "file" / "encoder.npy", TEXTS, lengths([]))


def test_a_trunk_of_torchvision_gives_what_goes_into_its_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "BATCH", 2)
    model = torchvision.models.resnet18(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = torchvision_encoder("resnet18", tmp_path / "weights.pth")
    images = torch.rand(3, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normed = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = nn.Sequential(*list(model.children())[:-1])(normed).flatten(1)
    assert encoder.width == 512
    assert expected.max() > 0.1  # where a mobile network at random gives 1e-8
    torch.testing.assert_close(
        torch.from_numpy(encoder.encode(images)), expected, rtol=1e-4, atol=1e-5
    )
    grey = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(encoder.encode(grey), encoder.encode(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_weights_that_are_none_are_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match="--weights: expected a file with the state_dict of alexn"):
        torchvision_encoder("alexnet", tmp_path / "weights.pth")


def test_weights_of_another_trunk_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="--weights: expected a file with the state_dict of alexn"):
        torchvision_encoder("alexnet", tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"--trunk: expected a classifier of .*'alexnot'"):
        torchvision_encoder("alexnot", tmp_path / "weights.pth")


def test_a_folder_without_a_sentence_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--weights: expected the folder of a model of sen"):
        sentence_encoder(tmp_path)


def test_features_take_the_place_of_the_images_they_were_made_of(path: Path, parted: Data) -> None:
    def ink(images: torch.Tensor) -> Any:
        return torch.stack([images.mean(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))], dim=1)

    features.build(path, features.images_of(parted), Encoder({}, 2, ink))
    found = features.in_place_of_images(parted, path)
    assert found.name == "parted_encoder"
    for before, after in (
        (parted.train, found.train),
        (parted.validation, found.validation),
        (parted.test, found.test),
    ):
        assert before is not None
        assert after is not None
        assert torch.equal(after.images, ink(before.images).half().float())
        assert (after.labels, after.classes) == (before.labels, before.classes)
    without = replace(parted, validation=None)
    with pytest.raises(ValueError, match="got those of others"):
        features.in_place_of_images(without, path)
