"""Recall@K against a plain loop; MAP@R is pml's."""

from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor

from benchmarks.datasets import Data
from benchmarks.datasets.split import Split
from benchmarks.evaluate import METRICS, RECALLS, RetrievalCalculator, evaluate
from benchmarks.neighbours import NEIGHBOURS, QUERIES, nearest, tiles

CPU = torch.device("cpu")


def recall(embeddings: Tensor, labels: Tensor, k: int) -> float:
    """Over queries whose class has another member."""
    hits = []
    for i, query in enumerate(embeddings):
        others = [j for j in range(len(labels)) if j != i]
        if not any(labels[j] == labels[i] for j in others):
            continue
        others.sort(key=lambda j: float((embeddings[j] - query).pow(2).sum()))
        hits.append(any(labels[j] == labels[i] for j in others[:k]))
    return sum(hits) / len(hits)


@pytest.fixture
def gallery() -> tuple[Tensor, Tensor]:
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 2 + [3] + [4] * 12)
    return torch.randn(len(labels), 3), labels


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_recall_is_that_of_a_plain_loop(gallery: tuple[Tensor, Tensor], k: int) -> None:
    name = f"recall_at_{k}"
    calculator = RetrievalCalculator(include=(name,), k=12, device=CPU)
    found = calculator.get_accuracy(*gallery, include=(name,))
    assert found == {name: pytest.approx(recall(*gallery, k), abs=1e-12)}


def test_recall_grows_with_k_on_this_gallery(gallery: tuple[Tensor, Tensor]) -> None:
    found = RetrievalCalculator(include=RECALLS, k=12, device=CPU).get_accuracy(*gallery)
    values = [found[name] for name in RECALLS]
    assert values == sorted(values)
    assert values[0] < values[-1]


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
