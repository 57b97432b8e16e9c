"""Metrics of a trunk on a split, and its nearest neighbours."""

from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from benchmarks.datasets import Data
from benchmarks.datasets.split import Split
from benchmarks.evaluate import METRICS, evaluate
from benchmarks.neighbours import NEIGHBOURS, QUERIES, nearest, tiles

CPU = torch.device("cpu")


def test_metrics_of_pml_are_those_of_pml(digits: Data) -> None:
    images = digits.test.images[::3]
    split = Split(images, digits.test.labels[::3], digits.test.classes)
    trunk = torch.nn.Flatten()
    ours = evaluate(trunk, split, device=CPU)
    flat = torch.nn.functional.normalize(trunk(images))
    pml = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r", "r_precision"),
        k="max_bin_count",
        device=CPU,
    ).get_accuracy(flat, split.labels)
    assert set(ours.metrics) == set(METRICS)
    assert ours.metrics["recall_at_1"] == pytest.approx(pml["precision_at_1"])
    for name in ("mean_average_precision_at_r", "r_precision"):
        assert ours.metrics[name] == pytest.approx(pml[name])
    torch.testing.assert_close(ours.embeddings, flat)


def test_nmi_comes_on_request(digits: Data) -> None:
    split = replace(digits.test, images=digits.test.images[::9], labels=digits.test.labels[::9])
    assert 0 < evaluate(torch.nn.Flatten(), split, device=CPU, nmi=True).metrics["NMI"] <= 1


def test_neighbours_are_marked_right_where_classes_agree(digits: Data) -> None:
    flat = torch.nn.functional.normalize(digits.test.images.flatten(1))
    found = nearest(digits.test, flat)
    assert [[name == row[0] for name in row[1:]] for row in found["classes"]] == found["correct"]
    pictures = tiles(found["png"], QUERIES, NEIGHBOURS + 1)
    assert pictures.shape == (QUERIES, NEIGHBOURS + 1, 28, 28)
    first = torch.from_numpy(pictures[0, 0].copy()).float() / 255
    closest = (digits.test.images[:, 0] - first).abs().amax(dim=(1, 2)).min()
    assert closest <= 0.5 / 15 + 1e-3  # the query itself, in 16 grey levels
    assert (pictures[0, 0] != pictures[0, 1]).any()  # nobody is its own neighbour


def test_neighbours_of_texts_are_texts(digits: Data) -> None:
    flat = digits.test.images.flatten(1)
    texts = tuple(
        f"{digits.test.classes[label]} text {number}"
        for number, label in enumerate(digits.test.labels)
    )
    found = nearest(Split(flat, digits.test.labels, digits.test.classes, texts=texts), flat)
    assert set(found) == {"texts", "correct", "classes"}
    assert [[text.split()[0] for text in row] for row in found["texts"]] == found["classes"]
    assert all(len(set(row)) == NEIGHBOURS + 1 for row in found["texts"])
    assert len(found["texts"]) == QUERIES


def test_neighbours_of_features_without_texts_are_classes_alone(digits: Data) -> None:
    flat = digits.test.images.flatten(1)
    found = nearest(Split(flat, digits.test.labels, digits.test.classes), flat)
    assert set(found) == {"correct", "classes"}
