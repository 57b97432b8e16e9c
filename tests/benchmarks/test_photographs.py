"""Flowers and pets from a small folder in the official layout."""

import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from benchmarks.datasets import DATASETS, Data, cifar_collage, flowers, pets
from benchmarks.datasets.split import Split
from benchmarks.recipes import RECIPES, Budget
from benchmarks.run import run

CPU = torch.device("cpu")


def photograph(path: Path, label: int, size: tuple[int, int] = (90, 100)) -> None:
    """Of one colour, which tells the class, with a white border that the crop cuts off."""
    pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    pixels[4:-4, 4:-4] = (2 * label, 100, 200 - label)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def flower_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs of each of 102 kinds: image 2 k - 1 and 2 k are of kind k."""
    folder = tmp_path / "flowers-102"
    labels = [1 + k // 2 for k in range(204)]
    for number, label in enumerate(labels, start=1):
        photograph(folder / "jpg" / f"image_{number:05d}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    numbers = np.arange(1, 205, dtype=np.uint16)
    parts = {
        "trnid": numbers[::4],
        "valid": numbers[1::4],
        "tstid": np.sort(np.concatenate([numbers[2::4], numbers[3::4]])),
    }
    savemat(folder / "setid.mat", {name: ids[None] for name, ids in parts.items()})
    sums = {
        key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(Flowers102, "_file_dict", {**Flowers102._file_dict, **sums})
    return tmp_path


@pytest.fixture
def pet_root(tmp_path: Path) -> Path:
    """One photograph of each of 37 breeds in each published part."""
    folder = tmp_path / "oxford-iiit-pet"
    for part, number in (("trainval", 1), ("test", 2)):
        lines = []
        for breed in range(1, 38):
            name = f"{chr(64 + (37 - breed) % 26 + 1)}breed_{breed}_{number}"
            photograph(folder / "images" / f"{name}.jpg", breed)
            lines.append(f"{name} {breed} 1 1\n")
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))
    return tmp_path


def check(split: Split, numbers: range, images: int) -> None:
    """Every class has its photographs, cropped to their one colour."""
    assert [int(name.split()[-1]) for name in split.classes] == list(numbers)
    assert split.images.shape == (images, 3, 64, 64)
    assert split.images.dtype == torch.float32
    assert split.labels.bincount().tolist() == [2] * len(numbers)
    for picture, label in zip(split.images, split.labels, strict=True):
        number = numbers[int(label)]
        expected = torch.tensor([2 * number, 100, 200 - number]) / 255
        assert (picture - expected[:, None, None]).abs().max() < 0.04


def test_the_first_51_flowers_train_and_the_others_test(flower_root: Path) -> None:
    data = flowers.load(flower_root, images=204)
    check(data.train, range(1, 52), 102)
    check(data.test, range(52, 103), 102)


def test_the_first_19_breeds_train_and_the_other_18_test(pet_root: Path) -> None:
    data = pets.load(pet_root, images=74)
    check(data.train, range(1, 20), 38)
    check(data.test, range(20, 38), 36)


def test_photographs_are_cropped_at_the_centre_and_not_squeezed(pet_root: Path) -> None:
    path = pet_root / "oxford-iiit-pet" / "images"
    wide = sorted(path.iterdir())[0]
    pixels = np.zeros((90, 360, 3), dtype=np.uint8)
    pixels[:, 140:220] = 255  # the central 80 of 360 columns; the crop takes 64 / 72 * 90 = 80
    Image.fromarray(pixels).save(wide, quality=95)
    data = pets.load(pet_root, images=74)
    pictures = torch.cat([data.train.images, data.test.images])
    assert pictures[:, :, :, 3:-3].mean(dim=(1, 2, 3)).max() > 0.97


def test_a_network_for_colour_trains_on_them(pet_root: Path) -> None:
    data = pets.load(pet_root, images=74)
    budget = Budget(epochs=1, iterations=1, batch_size=8, images_per_class=2)
    result = run(RECIPES["ensemble_simplex"], data, 0, budget, device=CPU)
    assert [point["epoch"] for point in result.curve] == [0, 1]
    assert result.dataset == "pets"


@pytest.mark.parametrize(
    ("module", "name"),
    [(flowers, "flowers"), (pets, "pets"), (cifar_collage, "cifar_collage")],
)
def test_missing_files_are_an_error_that_says_how_to_get_them(
    module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("downloads unasked")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    wanted = rf"--data-root FOLDER .*{name}\.load\(Path\('FOLDER'\), download=True\)"
    with pytest.raises(ValueError, match=rf"{name}: expected the official files in .*{wanted}"):
        module.load(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}: expected a folder .* got none\. .*{wanted}"):
        module.load(None)
    assert module.place(tmp_path) is None
    assert DATASETS[name].place(None) is None


def test_a_missing_photograph_and_other_counts_are_errors(pet_root: Path) -> None:
    with pytest.raises(ValueError, match="expected 37 classes and 7349 images; got 37 and 74"):
        pets.load(pet_root)
    sorted((pet_root / "oxford-iiit-pet" / "images").iterdir())[5].unlink()
    with pytest.raises(ValueError, match="pets: expected the official files in"):
        pets.load(pet_root, images=74)


def test_downloads_come_on_request_alone(pet_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    make = pets.OxfordIIITPet

    def watched(*args: object, download: bool, **named: object) -> object:
        asked.append(download)
        return make(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pets, "OxfordIIITPet", watched)
    pets.load(pet_root, images=74)
    pets.load(pet_root, images=74, download=True)
    assert asked == [False] * 2 + [True] * 2


def test_the_environment_names_the_folder(pet_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PML_EXTRAS_DATA", str(pet_root))
    assert pets.place(None) == str(pet_root)
    assert isinstance(pets.load(None, images=74), Data)


def test_parts_of_two_image_sizes_are_refused(pet_root: Path) -> None:
    data = pets.load(pet_root, images=74)
    small = Split(data.test.images[..., :28], data.test.labels, data.test.classes)
    with pytest.raises(ValueError, match=r"pets test images: expected shape .* \(36, 3, 64, 64\)"):
        Data("pets", data.train, small)
    flat = Split(data.train.images[:, 0], data.train.labels, data.train.classes)
    with pytest.raises(ValueError, match=r"pets train images: expected shape \(N, channels"):
        Data("pets", flat, data.test)
