"""Where targets and backgrounds of a collage come from, and where they lie."""

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.datasets import CIFAR100

from benchmarks.datasets import DATASETS, Data, cifar_collage, omniglot, omniglot_collage
from benchmarks.datasets.collage import collage
from benchmarks.datasets.split import Split

HEIGHT, WIDTH = 2, 3


def numbered(count: int, first: int, *classes: str) -> Split:
    """Image k holds first + k at every place, and a class follows another."""
    values = torch.arange(first, first + count, dtype=torch.float32)
    images = values[:, None, None, None].expand(count, 2, HEIGHT, WIDTH).contiguous()
    return Split(images, torch.arange(count) % len(classes), classes)


def quadrants(split: Split) -> Tensor:
    """(N, 4, channels, h, w) in reading order, cut out by hand."""
    height, width = (size // 2 for size in split.images.shape[2:])
    top, bottom = split.images[:, :, :height], split.images[:, :, height:]
    return torch.stack([part for row in (top, bottom) for part in row.split(width, dim=3)], dim=1)


def apart(split: Split) -> tuple[Tensor, Tensor]:
    """Value of each target, and of its three backgrounds in reading order; each of one value."""
    tiles = quadrants(split).flatten(2)  # (N, 4, channels * h * w)
    assert (tiles == tiles[:, :, :1]).all()
    assert split.target_quadrant is not None
    of_target = torch.nn.functional.one_hot(split.target_quadrant, 4).bool()
    return tiles[of_target][:, 0], tiles[~of_target][:, 0].view(-1, 3)


@given(st.integers(1, 30), st.integers(1, 13), st.integers(0, 2**32))
def test_targets_keep_order_and_labels_and_every_background_comes_before_any_comes_again(
    count: int, population: int, seed: int
) -> None:
    targets = numbered(count, 0, "a", "b", "c")
    made = collage(targets, numbered(population, 1000, "x", "y"), seed=seed)
    assert made.images.shape == (count, 2, 2 * HEIGHT, 2 * WIDTH)
    assert torch.equal(made.labels, targets.labels)
    assert made.classes == targets.classes
    found, backgrounds = apart(made)
    assert found.tolist() == list(range(count))
    drawn = (backgrounds.flatten() - 1000).int().tolist()
    for start in range(0, len(drawn), population):
        shuffle = drawn[start : start + population]
        assert len(set(shuffle)) == len(shuffle)
        assert set(shuffle) <= set(range(population))


def test_copies_of_a_target_lie_among_other_backgrounds() -> None:
    targets = numbered(30, 0, "a", "b")
    made = collage(targets, numbered(7, 100, "x"), seed=0, copies=3)
    found, backgrounds = apart(made)
    assert found.tolist() == list(range(30)) * 3
    assert made.labels.tolist() == targets.labels.tolist() * 3
    assert made.target_quadrant is not None
    for what in (backgrounds, made.target_quadrant):
        first, second, third = what.split(30)
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)
    assert sorted(backgrounds[:7].flatten().tolist()) == [k for k in range(100, 107) for _ in "123"]


def test_pictures_are_neither_turned_nor_moved() -> None:
    targets = numbered(40, 0, "a")
    pictures = torch.randn(targets.images.shape, generator=torch.Generator().manual_seed(0))
    made = collage(replace(targets, images=pictures), numbered(5, 9, "x"), seed=0)
    assert made.target_quadrant is not None
    assert torch.equal(quadrants(made)[torch.arange(40), made.target_quadrant], pictures)


def test_every_quadrant_has_its_share_and_every_shuffle_is_another() -> None:
    made = collage(numbered(4000, 0, "a"), numbered(5, 0, "x"), seed=3)
    assert made.target_quadrant is not None
    shares = made.target_quadrant.bincount(minlength=4) / 4000
    assert ((shares - 0.25).abs() < 0.03).all()  # 4 standard deviations
    shuffles = apart(made)[1].reshape(-1, 5)
    assert len(shuffles.unique(dim=0)) == 120  # all orders of 5, in 2,400 shuffles


def test_the_seed_says_everything_and_the_global_generator_nothing() -> None:
    made = []
    for chaos, seed in ((0, 0), (1, 0), (1, 7)):
        torch.manual_seed(chaos)
        before = torch.get_rng_state()
        made.append(collage(numbered(50, 0, "a"), numbered(9, 100, "x"), seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (one.images for one in made)
    assert torch.equal(first, again)
    assert made[0].target_quadrant.tolist() == made[1].target_quadrant.tolist()  # type: ignore[union-attr]
    assert made[0].target_quadrant.tolist() != made[2].target_quadrant.tolist()  # type: ignore[union-attr]
    assert sorted(apart(made[0])[1][0].tolist()) != sorted(apart(made[2])[1][0].tolist())
    assert not torch.equal(first, other)


def test_backgrounds_of_target_classes_of_another_shape_or_none_are_refused() -> None:
    targets = numbered(4, 0, "a", "b")
    with pytest.raises(ValueError, match=r"backgrounds: expected classes .* got 1 in both.*'b'"):
        collage(targets, numbered(4, 0, "b", "x"), seed=0)
    small = numbered(4, 0, "x")
    with pytest.raises(ValueError, match=r"expected \(M, 2, 2, 3\) with M > 0.*got \(4, 2, 2, 2\)"):
        collage(targets, replace(small, images=small.images[..., :2]), seed=0)
    with pytest.raises(ValueError, match=r"backgrounds\.images: .*got \(0, 2, 2, 3\)"):
        collage(targets, replace(small, images=small.images[:0], labels=small.labels[:0]), seed=0)


def test_chosen_classes_keep_their_quadrants() -> None:
    made = collage(numbered(30, 0, "a", "b", "c"), numbered(5, 100, "x"), seed=0)
    some = made.only(lambda name: name != "b")
    assert some.target_quadrant is not None
    assert apart(some)[0].tolist() == [k for k in range(30) if k % 3 != 1]
    assert numbered(4, 0, "a", "b").only(lambda name: name == "a").target_quadrant is None


ALPHABETS = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}


def drawings(alphabets: dict[str, int], first: int) -> Split:
    """Twenty drawings a character, each of one value that tells alphabet and character."""
    names = [(a, c) for a, count in alphabets.items() for c in range(1, count + 1)]
    values = torch.arange(first, first + len(names)).repeat_interleave(20).float()
    return Split(
        values[:, None, None, None].expand(-1, 1, 20, 20),
        torch.arange(len(names)).repeat_interleave(20),
        tuple(f"{alphabet}/character{c:02}" for alphabet, c in names),
    )


def test_latin_is_in_the_way_of_the_other_alphabets(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def made_up(root: Path | None, *, size: int) -> Data:
        sizes.append(size)
        tested = {"Japanese_(katakana)": 47, "Sanskrit": 42, "Tagalog": 17}
        return Data("omniglot", drawings(ALPHABETS, 0), drawings(tested, 200))

    monkeypatch.setattr(omniglot, "load", made_up)
    data = omniglot_collage.load(None)
    assert sizes == [20]
    latin = {"train": range(110, 126), "test": range(126, 136)}  # the first 16 characters of 26
    for half, targets in (("train", range(110)), ("test", range(200, 306))):
        split = getattr(data, half)
        copies = {"train": 8, "test": 1}[half]
        assert split.images.shape == (copies * 20 * len(targets), 1, 40, 40)
        found, backgrounds = apart(split)
        assert found.tolist() == [value for value in targets for _ in range(20)] * copies
        assert set(backgrounds.flatten().int().tolist()) == set(latin[half])
    assert data.train.target_quadrant is not None
    assert data.test.target_quadrant is not None
    assert (data.train.target_quadrant[:2120] != data.test.target_quadrant).any()


def test_other_counts_of_omniglot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for alphabet, part in (("Greek", "train"), ("Latin", "train backgrounds")):
        fewer = drawings({**ALPHABETS, alphabet: 20}, 0)
        whole = Data("omniglot", fewer, drawings({"Tagalog": 17}, 200))
        monkeypatch.setattr(omniglot, "load", lambda root, size, whole=whole: whole)
        with pytest.raises(ValueError, match=f"omniglot_collage {part}: expected"):
            omniglot_collage.load(None)


@pytest.mark.skipif("PML_EXTRAS_DATA" not in os.environ, reason="needs the official files")
def test_the_official_files_make_the_same_collages_every_time() -> None:
    data, again = (DATASETS["omniglot_collage"].load(None) for _ in range(2))
    assert [len(half.labels) for half in (data.train, data.test)] == [17600, 2120]
    assert torch.equal(data.train.images, again.train.images)
    ink = quadrants(data.test).mean(dim=(0, 2, 3, 4))
    assert ((ink > 0.03) & (ink < 0.15)).all()


SUPER_CLASSES = sorted([*cifar_collage.BACKGROUNDS, *(f"kind_{k:02}" for k in range(16))])
OF_SUB_CLASS = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 5)).tolist()


def pictures(images: int, seed: int) -> dict[str, Any]:
    """One official file: red tells the sub-class, blue the file, and green is full."""
    fine = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), images))
    pixels = np.zeros((len(fine), 3, 32, 32), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = fine[:, None, None], 255, seed
    return {
        "data": pixels.reshape(len(fine), -1),
        "fine_labels": fine.tolist(),
        "coarse_labels": [OF_SUB_CLASS[label] for label in fine],
    }


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photographs a sub-class in the file ``train``, two in ``test``."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = {
        "train": pictures(3, 1),
        "test": pictures(2, 2),
        "meta": {
            "fine_label_names": [f"sub_{fine:02}" for fine in range(100)],
            "coarse_label_names": SUPER_CLASSES,
        },
    }
    sums = {}
    for name, what in content.items():
        (folder / name).write_bytes(pickle.dumps(what))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return tmp_path


@pytest.mark.parametrize("half", ["train", "test"])
def test_super_classes_train_on_their_first_sub_classes_and_test_on_the_others(
    half: str, cifar_root: Path
) -> None:
    data = cifar_collage.load(cifar_root, train_images=3, test_images=2)
    split: Split = getattr(data, half)
    assert split.images.dtype == torch.float32
    assert (split.images[:, 1] == 1).all()
    assert split.images.shape == ({"train": 16 * 9, "test": 16 * 4}[half], 3, 64, 64)
    values = (quadrants(split) * 255).round().int()[..., 5, 7]  # (N, 4, 3), each of one colour
    assert (values[..., 2] == {"train": 1, "test": 2}[half]).all()
    members = {k: [f for f in range(100) if OF_SUB_CLASS[f] == k] for k in range(20)}
    expected = {
        SUPER_CLASSES[k]: set(fine[:3] if half == "train" else fine[3:])
        for k, fine in members.items()
    }
    targets: dict[str, set[int]] = {}
    around: set[int] = set()
    assert split.target_quadrant is not None
    for row, label, place in zip(
        values[..., 0].tolist(), split.labels, split.target_quadrant.tolist(), strict=True
    ):
        name, said = split.classes[label].split(" ", 1)
        assert said == f"({half} sub-classes)"
        targets.setdefault(name, set()).add(row.pop(place))
        around |= set(row)
    assert around == set().union(*(expected.pop(name) for name in cifar_collage.BACKGROUNDS))
    assert targets == expected
    assert list(split.classes) == sorted(split.classes)


def test_other_counts_and_a_damaged_file_of_cifar_are_refused(cifar_root: Path) -> None:
    with pytest.raises(
        ValueError, match="train targets: expected 48 classes and 24000 images; got 48"
    ):
        cifar_collage.load(cifar_root)
    with pytest.raises(
        ValueError, match="test targets: expected 32 classes and 3200 images; got 32"
    ):
        cifar_collage.load(cifar_root, train_images=3)
    assert cifar_collage.place(cifar_root) == str(cifar_root)
    (cifar_root / "cifar-100-python" / "train").write_bytes(b"damaged")
    with pytest.raises(
        ValueError, match=r"cifar_collage: expected the official files in .*corrupted"
    ):
        cifar_collage.load(cifar_root, train_images=3, test_images=2)
