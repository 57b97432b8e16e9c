"""Counts, disjoint classes, and a clear message for each broken file."""

import hashlib
import io
import os
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets import DATASETS, Data, omniglot
from benchmarks.datasets.omniglot import Archive
from benchmarks.datasets.split import Split

DRAWERS = 2
SMALL1 = {"Greek": 2, "Korean": 1}
SMALL2 = {"Greek": 3, "Tagalog": 2}


def drawing(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 2, (105, 105), dtype=np.uint8) * 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, format="PNG")
    return file.getvalue()


def archive_of(folder: Path, name: str, content: dict[str, int], *alphabets: str) -> Archive:
    """A zip file in the official layout, and what the loader has to know about it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        for alphabet, characters in content.items():
            for c in range(1, characters + 1):
                for d in range(1, DRAWERS + 1):
                    entry = f"{name}/{alphabet}/character{c:02}/{400 + c:04}_{d:02}.png"
                    file.writestr(entry, drawing(100 * len(alphabet) + 10 * c + d))
    return described(path, alphabets, sum(content[alphabet] for alphabet in alphabets))


def described(path: Path, alphabets: tuple[str, ...], classes: int) -> Archive:
    return Archive(
        f"https://example.invalid/{path.name}",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        alphabets,
        classes=classes,
        images=classes * DRAWERS,
    )


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Archive, Archive]:
    folder = tmp_path / "omniglot"
    return (
        archive_of(folder, "images_background_small1", SMALL1, "Greek", "Korean"),
        archive_of(folder, "images_background_small2", SMALL2, "Tagalog"),
    )


def test_digits_have_their_counts_and_no_class_on_both_sides(digits: Data) -> None:
    assert (len(digits.train.labels), len(digits.test.labels)) == (901, 896)
    assert set(digits.train.classes).isdisjoint(digits.test.classes)
    assert digits.train.images.shape[1:] == (1, 28, 28)
    assert 0 <= digits.train.images.min() < 0.1 < 0.9 < digits.train.images.max() <= 1


def test_two_halves_that_share_a_class_are_refused(digits: Data) -> None:
    overlapping = replace(digits.test, classes=("5", "6", "7", "8", "4"))
    with pytest.raises(ValueError, match=r"disjoint train and test classes; got 1 in both.*'4'"):
        Data("digits", digits.train, overlapping)


def test_validation_classes_are_in_neither_half(digits: Data) -> None:
    for half in (digits.train, digits.test):
        validation = half.only(lambda name: name in "49")
        with pytest.raises(ValueError, match="and validation classes; got 1 in both"):
            Data("digits", digits.train, digits.test, validation)


def test_chosen_classes_keep_their_images_under_new_labels(digits: Data) -> None:
    some = digits.train.only(lambda name: name in "13")
    assert some.classes == ("1", "3")
    for new, old in enumerate((1, 3)):
        images = digits.train.images[digits.train.labels == old]
        assert torch.equal(some.images[some.labels == new], images)
    assert len(some.labels) == sum(digits.train.labels.eq(old).sum() for old in (1, 3))


def test_labels_that_skip_a_class_are_refused(digits: Data) -> None:
    skipping = replace(digits.test, labels=digits.test.labels.clamp(min=1))
    with pytest.raises(ValueError, match=r"digits test labels: expected each of 0\.\.4"):
        Data("digits", digits.train, skipping)


def test_omniglot_takes_the_named_alphabets_with_ink_as_one(
    tmp_path: Path, archives: tuple[Archive, Archive]
) -> None:
    data = omniglot.load(tmp_path, train=archives[0], test=archives[1])
    assert data.train.classes == ("Greek/character01", "Greek/character02", "Korean/character01")
    assert data.test.classes == ("Tagalog/character01", "Tagalog/character02")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    black = io.BytesIO()
    Image.new("1", (105, 105), 0).save(black, format="PNG")
    assert omniglot._pixels(black.getvalue()).min() == 1


def test_drawings_of_another_size_keep_their_ink(
    tmp_path: Path, archives: tuple[Archive, Archive]
) -> None:
    sizes = [
        omniglot.load(tmp_path, train=archives[0], test=archives[1], size=size).train.images
        for size in (28, 20)
    ]
    assert [tuple(images.shape) for images in sizes] == [(6, 1, 28, 28), (6, 1, 20, 20)]
    ink = [images.mean(dim=(1, 2, 3)) for images in sizes]
    torch.testing.assert_close(ink[0], ink[1], atol=1 / 255, rtol=0)


def test_files_may_lie_in_the_root_itself(
    tmp_path: Path, archives: tuple[Archive, Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PML_EXTRAS_DATA", str(tmp_path / "omniglot"))
    assert len(omniglot.load(None, train=archives[0], test=archives[1]).test.labels) == 4


def test_a_named_root_without_the_file_is_an_error_and_no_download(
    tmp_path: Path, archives: tuple[Archive, Archive]
) -> None:
    (tmp_path / "omniglot" / archives[1].name).unlink()
    with pytest.raises(ValueError, match=r"--data-root: expected images_background_small2.zip in"):
        omniglot.load(tmp_path, train=archives[0], test=archives[1])


def test_a_damaged_file_is_named(tmp_path: Path, archives: tuple[Archive, Archive]) -> None:
    path = tmp_path / "omniglot" / archives[0].name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"small1.zip: expected SHA-256 .* got .* damaged"):
        omniglot.load(tmp_path, train=archives[0], test=archives[1])


def test_a_file_that_is_no_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images_background_small1.zip"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"small1\.zip: expected a zip file of PNG drawings"):
        omniglot.decode(path, described(path, ("Greek",), 2))


def test_a_drawing_that_is_no_png_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "images_background_small1.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images_background_small1/Greek/character01/0401_01.png", b"no picture")
    with pytest.raises(ValueError, match=r"small1\.zip: expected a zip file of PNG drawings"):
        omniglot.decode(path, described(path, ("Greek",), 1))


@pytest.mark.parametrize("content", [{"Greek": 3}, {"Greek": 1}, {"Korean": 2}])
def test_another_number_of_characters_is_an_error(tmp_path: Path, content: dict[str, int]) -> None:
    archive_of(tmp_path, "images_background_small1", content)
    path = tmp_path / "images_background_small1.zip"
    with pytest.raises(ValueError, match="expected 2 classes and 4 images; got"):
        omniglot.decode(path, described(path, ("Greek",), 2))


def test_a_download_is_checked_before_it_gets_its_name(
    tmp_path: Path, archives: tuple[Archive, Archive]
) -> None:
    source = (tmp_path / "omniglot" / archives[0].name).as_uri()
    cache = tmp_path / "cache"
    assert omniglot.download(replace(archives[0], url=source), cache).parent == cache
    other = replace(archives[1], url=(tmp_path / "omniglot" / archives[1].name).as_uri())
    with pytest.raises(ValueError, match="expected SHA-256"):
        omniglot.download(replace(other, sha256="0" * 64), cache)
    assert [path.name for path in cache.iterdir()] == [archives[0].name]


def test_offline_the_message_says_what_to_do(
    tmp_path: Path, archives: tuple[Archive, Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    monkeypatch.setattr(omniglot, "CACHE", tmp_path / "cache")
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ValueError, match=r"no route to host.*--data-root FOLDER.*--dataset digits"):
        omniglot.load(None, train=archives[0], test=archives[1])
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif("PML_EXTRAS_DATA" not in os.environ, reason="needs the official files")
def test_the_official_omniglot_files_have_the_published_counts() -> None:
    data = DATASETS["omniglot"].load(None)
    halves: list[Split] = [data.train, data.test]
    assert [(len(h.classes), len(h.labels)) for h in halves] == [(136, 2720), (106, 2120)]
    assert {name.split("/")[0] for name in data.test.classes} == {
        "Japanese_(katakana)",
        "Sanskrit",
        "Tagalog",
    }
    ink = torch.stack([half.images.mean() for half in halves])
    assert ((ink > 0.02) & (ink < 0.2)).all()


@pytest.mark.skipif("PML_EXTRAS_DATA" not in os.environ, reason="needs the official files")
def test_the_validation_alphabet_is_neither_trained_nor_tested() -> None:
    data, whole = (DATASETS[name].load(None) for name in ("omniglot_validation", "omniglot"))
    assert data.validation is not None
    parts = [data.train, data.validation, data.test]
    alphabets = [{name.split("/")[0] for name in part.classes} for part in parts]
    assert alphabets[:2] == [{"Balinese", "Early_Aramaic", "Greek", "Korean"}, {"Latin"}]
    assert [len(part.classes) for part in parts] == [110, 26, 106]
    assert [len(part.labels) for part in parts] == [2200, 520, 2120]
    assert torch.equal(data.test.images, whole.test.images)
    assert whole.validation is None
