"""Texts from small folders in the official layout: halves, features, and broken copies."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.datasets import DATASETS, banking77, clinc150, texts
from benchmarks.datasets.folds import training_half
from benchmarks.datasets.split import Split
from benchmarks.datasets.texts import Source
from benchmarks.datasets.tfidf import tfidf
from tests.benchmarks.text_folders import (
    CLASSES,
    HALF,
    banking_folder,
    clinc_folder,
    described,
    utterances,
    with_features,
)

MODULES = [(clinc150, clinc_folder), (banking77, banking_folder)]


@pytest.fixture
def clinc(tmp_path: Path) -> Source:
    return clinc_folder(tmp_path)


@pytest.fixture
def bank(tmp_path: Path) -> Source:
    return banking_folder(tmp_path)


def add_features(source: Source, root: Path) -> Path:
    found = texts.read(source, root)
    return with_features(found.folder, found.labels.tolist(), found.names)


def test_of_the_sorted_classes_the_first_half_trains(tmp_path: Path, clinc: Source) -> None:
    data = clinc150.load_tfidf(tmp_path, source=clinc)
    names = sorted({name for _, _, name in utterances(0)})
    assert data.name == "clinc150_tfidf"
    assert data.train.classes == tuple(names[: CLASSES // 2])
    assert data.test.classes == tuple(names[CLASSES // 2 :])
    for half in (data.train, data.test):
        assert (len(half.classes), len(half.labels)) == HALF
        assert half.images.shape == (HALF[1], 384)
        torch.testing.assert_close(half.images.norm(dim=1), torch.ones(HALF[1]))


def test_texts_keep_their_classes_and_the_order_of_the_files(tmp_path: Path, bank: Source) -> None:
    found = texts.read(bank, tmp_path)
    in_files = [
        (text, name)
        for wanted in (("train", "val"), ("test",))
        for part, text, name in utterances(1)
        if part in wanted
    ]
    read = [(t, found.names[k]) for t, k in zip(found.texts, found.labels.tolist(), strict=True)]
    assert read == in_files


def test_an_odd_number_of_classes_tests_one_more_than_it_trains(tmp_path: Path) -> None:
    source = banking_folder(tmp_path)
    folder = tmp_path / "banking77"
    lost = sorted({name for _, _, name in utterances(1)})[0]
    for path in folder.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if lost not in line), encoding="utf-8")
    fewer = described(source, folder / "train.csv", folder / "test.csv")
    data = banking77.load_tfidf(tmp_path, source=replace(fewer, train=(25, 400), test=(26, 416)))
    assert (len(data.train.classes), len(data.test.classes)) == (25, 26)


def test_tfidf_is_fitted_on_the_training_texts_alone() -> None:
    training = [text for _, text, _ in utterances(2)][:500]
    trains = [True] * 500 + [False] * 2
    one, other = (
        tfidf([*training, *extra], trains, width=20)
        for extra in (["hello there", "who is it"], ["zzz qqq", "hello there"])
    )
    np.testing.assert_array_equal(one[:500], other[:500])
    np.testing.assert_array_equal(one[500], other[501])


def test_other_texts_of_test_classes_leave_the_training_features_alone(
    tmp_path: Path, clinc: Source
) -> None:
    before = clinc150.load_tfidf(tmp_path, source=clinc)
    path = tmp_path / "clinc150" / "data_full.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    for part in ("train", "val", "test"):
        parts[part] = [
            [text if name in before.train.classes else f"{text} unheard of", name]
            for text, name in parts[part]
        ]
    path.write_text(json.dumps(parts), encoding="utf-8")
    after = clinc150.load_tfidf(tmp_path, source=described(clinc, path))
    assert torch.equal(after.train.images, before.train.images)
    assert not torch.equal(after.test.images, before.test.images)


def test_refitted_features_are_those_of_the_texts_that_train_in_the_fold(
    tmp_path: Path, clinc: Source
) -> None:
    again, once = texts.load_tfidf_refit(clinc, tmp_path), texts.load_tfidf(clinc, tmp_path)
    assert again.name == "clinc150_tfidf_refit"
    assert torch.equal(again.train.images, once.train.images)  # the final runs are the same
    refit, kept = (training_half(data, 25, 24).train for data in (again, once))
    assert isinstance(refit, Split)
    assert isinstance(kept, Split)
    assert refit.texts is not None
    alone = tfidf(refit.texts, [True] * len(refit.texts), width=384)
    np.testing.assert_allclose(refit.images, alone, atol=1e-6)
    assert not np.allclose(kept.images, alone, atol=1e-3)


@pytest.mark.parametrize("stored", ["npz", "root"])
def test_features_of_the_encoder_follow_the_texts_into_their_halves(
    stored: str, tmp_path: Path, clinc: Source
) -> None:
    path = add_features(clinc, tmp_path)
    root = tmp_path if stored == "npz" else tmp_path / "clinc150"
    data = clinc150.load(root, source=clinc)
    rows = dict(zip(texts.read(clinc, root).texts, np.load(path)["features"], strict=True))
    assert data.name == "clinc150"
    for half in (data.train, data.test):
        assert half.texts is not None
        expected = np.stack([rows[text] for text in half.texts])
        np.testing.assert_array_equal(half.images.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(("module", "make"), MODULES)
def test_without_files_the_message_says_where_from_and_nothing_is_downloaded(
    module: ModuleType, make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("downloads unasked")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    monkeypatch.delenv("PML_EXTRAS_DATA", raising=False)
    name, url = module.SOURCE.name, module.SOURCE.files[0].url
    with pytest.raises(ValueError, match=rf"{name}: expected .* got no folder\. Fetch {url}"):
        module.load_tfidf(None)
    with pytest.raises(ValueError, match=rf"{name}: .* got not all of them in .*{name}\. Fetch"):
        module.load(tmp_path)
    assert DATASETS[name].place(tmp_path) is DATASETS[f"{name}_tfidf"].place(tmp_path) is None


def test_one_of_two_files_is_not_enough(tmp_path: Path, bank: Source) -> None:
    (tmp_path / "banking77" / "test.csv").unlink()
    with pytest.raises(ValueError, match=r"expected train\.csv and test\.csv; got not all of them"):
        banking77.load_tfidf(tmp_path, source=bank)


def test_a_damaged_file_is_named(tmp_path: Path, clinc: Source) -> None:
    path = tmp_path / "clinc150" / "data_full.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"data_full\.json: expected SHA-256 .* got .* damaged"):
        clinc150.load_tfidf(tmp_path, source=clinc)


@pytest.mark.parametrize("content", ["<html>404</html>", '{"train": []}', '{"train": [["a"]]}'])
def test_a_json_file_of_another_layout_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "data_full.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"data_full\.json: expected texts with their classes in"):
        texts.read(described(clinc150.SOURCE, path), tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"question,intent\na,b\n", b"text,category\na\n", b"text,category\n\xff,b\n"]
)
def test_a_csv_file_of_another_layout_is_refused(content: bytes, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("train.csv", "test.csv")]
    for path in paths:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.csv: expected texts with their classes in the"):
        texts.read(described(banking77.SOURCE, *paths), tmp_path)


def test_other_counts_than_the_published_ones_are_refused(tmp_path: Path, clinc: Source) -> None:
    more = replace(clinc, test=(HALF[0], HALF[1] + 1))
    with pytest.raises(ValueError, match=r"clinc150_tfidf test: expected 26 classes and 417 texts"):
        clinc150.load_tfidf(tmp_path, source=more)


def test_texts_without_features_point_to_build_and_to_tfidf(tmp_path: Path, clinc: Source) -> None:
    wanted = r"got neither\. `python -m benchmarks data build clinc150 .*clinc150_tfidf needs none"
    with pytest.raises(ValueError, match=wanted):
        clinc150.load(tmp_path, source=clinc)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {**f, "labels": f["labels"][::-1]}, "expected the labels of the official files"),
        (lambda f: {**f, "names": f["names"][::-1]}, "expected the labels of the official files"),
        (
            lambda f: {**f, "features": f["features"][:, :128]},
            r"expected finite features \(832, 384\); got \(832, 128\)",
        ),
        (lambda f: {**f, "features": f["features"] * np.nan}, "got .* not all finite"),
        (lambda f: {"features": f["features"]}, "expected arrays `features`, `labels` and `names`"),
    ],
)
def test_features_of_other_texts_are_refused(
    change: object, message: str, tmp_path: Path, clinc: Source
) -> None:
    path = add_features(clinc, tmp_path)
    np.savez(path, **change(dict(np.load(path))))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        clinc150.load(tmp_path, source=clinc)


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 cut off"])
def test_a_damaged_features_file_is_named(content: bytes, tmp_path: Path, clinc: Source) -> None:
    add_features(clinc, tmp_path).write_bytes(content)
    with pytest.raises(ValueError, match=r"v2\.npz: expected arrays `features`.*Delete it"):
        clinc150.load(tmp_path, source=clinc)


def test_out_of_scope_texts_are_left_out(tmp_path: Path, clinc: Source) -> None:
    content = json.loads((tmp_path / "clinc150" / "data_full.json").read_text())
    assert len(content["oos_train"]) == 1
    assert "oos" not in texts.read(clinc, tmp_path).names


@pytest.mark.skipif("PML_EXTRAS_DATA" not in os.environ, reason="needs the official files")
@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("clinc150", "next_holiday", "next_song"),
        ("banking77", "fiat_currency_support", "get_disposable_virtual_card"),
    ],
)
def test_the_official_files_split_where_they_should(name: str, last: str, first: str) -> None:
    data = DATASETS[name].load(None)
    assert (data.train.classes[-1], data.test.classes[0]) == (last, first)
    assert data.train.images.shape[1] == data.test.images.shape[1] == 384
