"""Validation classes from the training half, each once over the folds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import pytest
import torch

from benchmarks.datasets import Data
from benchmarks.datasets.folds import folds
from benchmarks.datasets.split import Split


def test_each_training_class_validates_in_one_fold_and_trains_in_the_others(digits: Data) -> None:
    found = [folds(digits, 3, fold) for fold in range(3)]
    validating = [data.validation.classes for data in found if data.validation is not None]
    assert validating == [("0", "3"), ("1", "4"), ("2",)]
    for data, classes in zip(found, validating, strict=True):
        assert sorted((*data.train.classes, *classes)) == list(digits.train.classes)
        assert data.test is digits.test
    assert len({data.name for data in found} | {digits.name}) == 4


def test_images_stay_with_their_classes(digits: Data) -> None:
    data = folds(digits, 2, 1)
    assert data.validation is not None
    for part in (data.train, data.validation):
        for label, name in enumerate(part.classes):
            expected = digits.train.images[digits.train.labels == int(name)]
            assert torch.equal(part.images[part.labels == label], expected)


def test_texts_stay_with_their_classes() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2])
    texts = ("c1", "a1", "b1", "a2", "c2")
    part = Split(torch.randn(5, 3), labels, ("a", "b", "c"), texts=texts)
    test = replace(part, classes=("d", "e", "f"))
    data = folds(Data("letters", part, test), 2, 0)
    assert data.validation is not None
    assert data.validation.texts == ("c1", "a1", "a2", "c2")
    assert data.train.texts == ("b1",)


def test_features_that_were_fitted_are_fitted_again_without_the_classes_that_validate() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2])
    part = Split(torch.zeros(5, 1), labels, ("a", "b", "c"), texts=("c1", "a1", "b1", "a2", "c2"))
    test = Split(torch.zeros(1, 1), torch.tensor([0]), ("d",), texts=("d1",))
    fitted_on: list[list[str]] = []

    def refit(texts: Sequence[str], trains: Sequence[bool]) -> torch.Tensor:
        fitted_on.append(list(compress(texts, trains)))
        return torch.tensor([[float(text[1])] for text in texts])

    data = folds(Data("letters", part, test, refit=refit), 2, 1)
    assert fitted_on == [["c1", "a1", "a2", "c2"]]
    assert data.validation is not None
    assert data.train.images.flatten().tolist() == [1, 1, 2, 2]
    assert data.validation.images.flatten().tolist() == [1]
    assert data.test is test


@pytest.mark.parametrize(
    ("k", "fold", "message"),
    [
        (1, 0, "k: expected 2 to 4, .* got 1"),
        (5, 0, "k: expected 2 to 4, .* got 5"),
        (2, 2, "fold: expected 0 to 1, .* got 2"),
        (2, -1, "fold: expected 0 to 1, .* got -1"),
    ],
)
def test_folds_that_cannot_be_are_refused(digits: Data, k: int, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folds(digits, k, fold)


def test_data_with_validation_classes_are_refused(parted: Data) -> None:
    with pytest.raises(ValueError, match="expected no validation classes yet; got parted with 2"):
        folds(parted, 2, 0)
