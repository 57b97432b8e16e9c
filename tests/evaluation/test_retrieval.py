"""Retrieval metrics: those of pml where pml is right, Recall@K by a plain loop."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester, WithSameParentLabelTester
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.utils.data import TensorDataset

from pml_extras.evaluation import RetrievalAccuracyCalculator, retrieval
from tests.largest import Largest

CPU = torch.device("cpu")
OF_PML = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision_at_r",
    "mean_average_precision",
    "mean_reciprocal_rank",
)
RECALL_AT = (1, 2, 5, 40)
RECALLS = tuple(f"recall_at_{at}" for at in RECALL_AT)


def ours(**args):
    args = {"include": (*OF_PML, *RECALLS), "recall_at": RECALL_AT, "device": CPU, **args}
    return RetrievalAccuracyCalculator(**args)


def theirs(**args):
    return AccuracyCalculator(**{"include": OF_PML, "device": CPU, **args})


def rows_and_labels(num, num_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    rows = torch.randn(num, 6, generator=generator)
    return rows + torch.nn.functional.one_hot(labels % 6, 6), labels


def plain_recalls(query, of_query, reference, of_reference, at, *, itself):
    """One query after another, by distances from their coordinates."""
    hits = []
    for i, point in enumerate(query.double().tolist()):
        others = [j for j in range(len(reference)) if not (itself and i == j)]
        if not any(of_reference[j] == of_query[i] for j in others):
            continue
        others.sort(key=lambda j: math.dist(point, reference[j].double().tolist()))
        hits.append(any(of_reference[j] == of_query[i] for j in others[:at]))
    return sum(hits) / len(hits) if hits else math.nan


def assert_same(found, expected):
    """To 1e-12; pml computes the reciprocal rank in float32."""
    for name, value in expected.items():
        tolerance = 1e-6 if name == "mean_reciprocal_rank" else 1e-12
        assert found[name] == pytest.approx(value, rel=0, abs=tolerance, nan_ok=True), name


@settings(max_examples=200)
@given(
    num=st.integers(2, 60),
    num_classes=st.integers(1, 40),
    gallery=st.integers(0, 40),
    included=st.booleans(),
    k=st.sampled_from([None, "max_bin_count", 1, 7]),
    average=st.sampled_from([{}, {"avg_of_avgs": True}, {"return_per_class": True}]),
    seed=st.integers(0, 2**16),
)
def test_metrics_of_pml_are_those_of_pml(num, num_classes, gallery, included, k, average, seed):
    rows, labels = rows_and_labels(num + gallery, num_classes, seed)
    query, references = (rows[:num], labels[:num]), ()
    if gallery > 0:
        first = 0 if included else num
        references = (rows[first:], labels[first:], included)
        if (
            not included
            and k == "max_bin_count"
            and not torch.isin(labels[:num], labels[num:]).any()
        ):
            k = None  # pml would ask for no neighbours, which faiss refuses
    if isinstance(k, int):  # pml would take more than there are, each time the last one
        k = min(k, (len(references[0]) if references else num) - (not references or included))
    given_ = (*query, *references)
    assert_same(
        ours(k=k, **average).get_accuracy(*given_), theirs(k=k, **average).get_accuracy(*given_)
    )


@settings(max_examples=60)
@given(
    num=st.integers(2, 25),
    num_classes=st.integers(1, 12),
    gallery=st.integers(0, 12),
    seed=st.integers(0, 2**16),
)
def test_recall_is_that_of_a_plain_loop(num, num_classes, gallery, seed):
    rows, labels = rows_and_labels(num + gallery, num_classes, seed)
    query, references = (rows[:num], labels[:num]), (rows[num:], labels[num:])
    found = ours().get_accuracy(*query, *(references if gallery else ()))
    for at in RECALL_AT:
        expected = plain_recalls(
            *query, *(references if gallery else query), at, itself=gallery == 0
        )
        assert found[f"recall_at_{at}"] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("average", [{}, {"avg_of_avgs": True}, {"return_per_class": True}])
@pytest.mark.parametrize("included", [True, False])
def test_queries_some_at_a_time_are_queries_all_at_once(average, included, monkeypatch):
    rows, labels = rows_and_labels(150, 40, 0)
    given_ = (rows[:90], labels[:90], *((rows, labels, True) if included else (rows, labels)))
    whole = ours(**average).get_accuracy(*given_)
    monkeypatch.setattr(retrieval, "_NEIGHBOURS_AT_A_TIME", 151 * 25)
    monkeypatch.setattr(retrieval, "_ROWS_AT_A_TIME", 8)
    assert ours(**average).get_accuracy(*given_) == whole


def test_averages_of_recall_are_by_query_by_class_or_a_list():
    rows = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.5], [100.0], [11.4]])
    labels = torch.tensor([0, 0, 1, 1, 1, 7, 0])  # 7 is alone: it counts nowhere
    right = [1, 1, 1, 0, 0, 0]  # queries 0, 1, 10, 11, 12.5 and 11.4
    found = {"include": ("recall_at_1",), "recall_at": (1,)}
    assert ours(**found).get_accuracy(rows, labels) == {"recall_at_1": sum(right) / 6}
    classes = [2 / 3, 1 / 3]
    listed = ours(**found, return_per_class=True).get_accuracy(rows, labels)["recall_at_1"]
    assert listed == pytest.approx(classes)
    by_class = ours(**found, avg_of_avgs=True).get_accuracy(rows, labels)["recall_at_1"]
    assert by_class == pytest.approx(sum(classes) / 2)


def test_a_reciprocal_rank_is_no_float32():
    rows = torch.tensor([[0.0], [1.0], [1.5], [3.0]])
    found = ours(return_per_class=True).get_accuracy(rows, torch.tensor([0, 1, 1, 0]))
    assert found["mean_reciprocal_rank"] == [1 / 3, 1.0]


def test_neighbouring_large_labels_are_two_classes():
    rows, _ = rows_and_labels(64, 3, 0)
    labels = torch.arange(64) % 2
    expected = ours().get_accuracy(rows, labels)
    assert ours().get_accuracy(rows, labels + 2**24) == expected
    assert ours().get_accuracy(rows, (labels + 2**24).double()) == expected
    assert ours().get_accuracy(rows, labels + 2**62) == expected
    assert 0.2 < expected["precision_at_1"] < 0.8
    assert theirs().get_accuracy(rows, labels + 2**24)["precision_at_1"] == 1.0


def test_no_query_with_a_class_in_the_gallery_gives_nan(caplog):
    rows, labels = rows_and_labels(12, 4, 0)
    one = ours().get_accuracy(rows, labels, rows, labels + 10)
    assert caplog.messages == ["None of the query labels are in the reference set."]  # as pml says
    assert set(one) == {*OF_PML, *RECALLS}
    assert all(map(math.isnan, one.values()))
    listed = ours(return_per_class=True).get_accuracy(rows, labels, rows, labels + 10)
    for values in listed.values():
        assert len(values) == len(labels.unique())
        assert all(map(math.isnan, values))
    assert math.isnan(ours().get_accuracy(rows[:1], labels[:1])["recall_at_1"])


def test_a_function_that_compares_labels_is_asked_as_in_pml():
    rows, labels = rows_and_labels(60, 9, 0)

    def near(a, b):
        return (a - b).abs() <= 1

    found = ours(label_comparison_fn=near).get_accuracy(rows, labels)
    expected = theirs(label_comparison_fn=near).get_accuracy(rows, labels)
    assert_same(found, expected)
    assert found["recall_at_1"] == found["precision_at_1"]
    halves = (rows[:30], labels[:30], rows[30:35], labels[30:35])  # one reference of most classes
    assert_same(
        ours(label_comparison_fn=near).get_accuracy(*halves),
        theirs(label_comparison_fn=near).get_accuracy(*halves),
    )
    strict = ours().get_accuracy(rows, labels)
    assert found["recall_at_5"] > strict["recall_at_5"]


@pytest.mark.parametrize("columns", [1, 2])
def test_labels_of_columns_go_to_that_function_whole(columns):
    rows, labels = rows_and_labels(40, 4, 0)
    stacked = torch.stack([labels, labels % 2], dim=1)[:, :columns]

    def first(a, b):
        return (a == b)[..., 0]

    found = ours(label_comparison_fn=first, include=("recall_at_2", "r_precision"))
    assert found.get_accuracy(rows, stacked) == ours(
        include=("recall_at_2", "r_precision")
    ).get_accuracy(rows, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_that_function_may_answer_in_numbers(dtype):
    rows, labels = rows_and_labels(60, 9, 0)

    def equal(a, b):
        return (a == b).to(dtype)

    assert ours(label_comparison_fn=equal).get_accuracy(rows, labels) == ours().get_accuracy(
        rows, labels
    )


LABEL_TYPES = [np.bool_, np.uint8, np.int8, np.uint16, np.uint32, np.uint64, np.float16, np.float64]


@pytest.mark.parametrize("dtype", LABEL_TYPES)
def test_labels_of_every_type_are_those_of_pml(dtype):
    rows, labels = rows_and_labels(60, 9, 0)
    typed = (labels % 2 if dtype is np.bool_ else labels).numpy().astype(dtype)

    def near(a, b):  # wraps around where there is nothing below 0
        return (a - b).abs() <= 1

    for function in (None, near):
        found = ours(label_comparison_fn=function).get_accuracy(rows, typed)
        assert_same(found, theirs(label_comparison_fn=function).get_accuracy(rows, typed))
    assert ours().get_accuracy(rows[:20], typed[:20], rows, labels) == ours().get_accuracy(
        rows[:20], labels[:20] % 2 if dtype is np.bool_ else labels[:20], rows, labels
    )


@pytest.mark.parametrize("name", [*OF_PML, *RECALLS])
def test_every_metric_can_be_asked_for_alone(name):
    rows, labels = rows_and_labels(50, 8, 1)
    alone = ours(include=(name,)).get_accuracy(rows, labels)
    assert alone == {name: ours().get_accuracy(rows, labels)[name]}
    assert ours().get_accuracy(rows, labels, include=(name,)) == alone


def test_only_as_many_neighbours_are_searched_as_the_metrics_need():
    asked = []

    class Spy:
        def __call__(self, query, k, reference, ref_includes_query):
            asked.append((k, ref_includes_query))
            return torch.cdist(query, reference).topk(k, largest=False)

    rows, labels = rows_and_labels(50, 5, 0)
    largest = int(labels.bincount().max())
    for name, depth in {
        "precision_at_1": 1,
        "recall_at_5": 5,
        "r_precision": largest - 1,
        "mean_average_precision_at_r": largest - 1,
        "mean_average_precision": 49,
        "mean_reciprocal_rank": 49,
    }.items():
        ours(include=(name,), knn_func=Spy()).get_accuracy(rows, labels)
        assert asked.pop() == (depth + 1, False), name  # and the query itself


@given(st.integers(2, 60), st.sampled_from([None, "max_bin_count", 1, 3]), st.integers(0, 2**16))
def test_of_points_that_coincide_those_are_taken_that_pml_takes(num, k, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(2, (num, 2), generator=generator).float()
    labels = torch.randint(6, (num,), generator=generator)
    k = min(k, num - 1) if isinstance(k, int) else k
    found = ours(k=k, include=OF_PML).get_accuracy(rows, labels)
    assert_same(found, theirs(k=k).get_accuracy(rows, labels))


def test_coinciding_points_never_find_themselves():
    rows, labels = torch.zeros(30, 2), torch.arange(30) // 2
    values = ours(include=("precision_at_1",), return_per_class=True).get_accuracy(rows, labels)
    assert sum(values["precision_at_1"]) <= 2  # 30 ties: two neighbours at most are partners


def test_clustering_and_metrics_of_a_subclass_see_what_pml_shows_them():
    seen = {}

    class WithOwn(RetrievalAccuracyCalculator):
        def calculate_precision_at_1(self, **given):
            seen.update(given)
            return -1.0

        def calculate_mean_distance(self, knn_distances, **_):
            return knn_distances.mean().item()

        def calculate_recall_at_2(self, **_):
            return -2.0

        def requires_knn(self):
            return [*super().requires_knn(), "mean_distance"]

    rows, labels = rows_and_labels(40, 5, 0)
    names = ("precision_at_1", "mean_distance", "recall_at_2", "recall_at_5", "NMI")
    calculator = WithOwn(include=names, recall_at=(2, 5), k=6, device=CPU)
    found = calculator.get_accuracy(rows, labels)
    assert set(found) == set(names)
    assert (found["precision_at_1"], found["recall_at_2"]) == (-1.0, -2.0)
    assert found["recall_at_5"] == ours(k=6).get_accuracy(rows, labels)["recall_at_5"]
    assert 0 <= found["NMI"] <= 1
    distances = torch.cdist(rows, rows).square().sort(dim=1).values[:, 1:7]
    assert found["mean_distance"] == pytest.approx(float(distances.mean()), rel=1e-4)

    class Theirs(AccuracyCalculator):
        def calculate_precision_at_1(self, **given):
            expected.update(given)
            return -1.0

    expected = {}
    Theirs(include=("precision_at_1", "NMI"), k=6, device=CPU).get_accuracy(rows, labels)
    assert set(seen) == set(expected)
    for name in ("knn_labels", "not_lone_query_mask", "lone_query_labels", "query_labels"):
        assert torch.equal(seen[name].float(), expected[name].float()), name
    for mine, pml in zip(seen["label_counts"], expected["label_counts"], strict=True):
        assert torch.equal(mine.float(), pml.float())


def test_a_recall_called_by_its_name_takes_what_pml_hands_to_metrics():
    kept = {}

    class Keeping(RetrievalAccuracyCalculator):
        def calculate_precision_at_1(self, **given):
            kept.update(given)
            return 0.0

    rows, labels = rows_and_labels(40, 15, 0)
    calculator = Keeping(include=("precision_at_1",), recall_at=(5,), k=10, device=CPU)
    calculator.get_accuracy(rows, labels)
    expected = ours(include=("recall_at_5",)).get_accuracy(rows, labels)
    assert calculator.calculate_recall_at_5(**kept) == expected["recall_at_5"]
    kept["knn_labels"] = kept["knn_labels"][:, :4]
    with pytest.raises(ValueError, match="knn_labels: expected 5 neighbours of each query; got 4"):
        calculator.calculate_recall_at_5(**kept)
    few = Keeping(include=("precision_at_1",), recall_at=(5,), device=CPU)
    few.get_accuracy(rows[:3], torch.tensor([0, 0, 1]))  # there are two others
    assert few.calculate_recall_at_5(**kept) == 1.0


def test_no_tensor_of_classes_by_rows_or_of_rows_by_neighbours_is_made(monkeypatch):
    num = 4000
    rows = torch.randn(num, 4)
    labels = torch.randperm(num) // 2
    monkeypatch.setattr(retrieval, "_NEIGHBOURS_AT_A_TIME", 2**16)
    with Largest() as largest:
        found = ours(include=("r_precision", "recall_at_40"), k="max_bin_count").get_accuracy(
            rows, labels
        )
    assert 0 <= found["r_precision"] <= found["recall_at_40"] <= 1
    assert largest.elements <= 2**16


def test_arrays_lists_and_columns_of_labels_are_taken():
    rows, labels = rows_and_labels(30, 4, 0)
    expected = ours().get_accuracy(rows, labels)
    assert ours().get_accuracy(rows.numpy(), labels.numpy()) == expected
    assert ours().get_accuracy(rows.double(), labels[:, None]) == expected
    assert ours().get_accuracy(rows.clone().requires_grad_(), labels.int()) == expected


def test_a_tester_of_pml_reports_recalls():
    rows, labels = rows_and_labels(30, 4, 0)
    names = ("recall_at_1", "recall_at_2")
    tester = GlobalEmbeddingSpaceTester(
        accuracy_calculator=ours(include=names),
        normalize_embeddings=False,
        data_device=CPU,
        dataloader_num_workers=0,
    )
    found = tester.test({"val": TensorDataset(rows, labels)}, 0, torch.nn.Identity())["val"]
    expected = ours(include=names).get_accuracy(rows, labels)
    assert {name: found[f"{name}_level0"] for name in names} == expected


@pytest.mark.parametrize("kind", [GlobalEmbeddingSpaceTester, WithSameParentLabelTester])
@pytest.mark.parametrize("references", [["val"], ["train"], ["train", "val"]])
def test_a_tester_of_pml_asks_level_after_level_without_a_warning(kind, references):
    rows, labels = rows_and_labels(60, 8, 1)
    levels = torch.stack([labels, labels // 3], dim=1)
    parts = {
        "val": TensorDataset(rows[:30], levels[:30]),
        "train": TensorDataset(rows[30:], levels[30:]),
    }

    def found(calculator):
        tester = kind(
            accuracy_calculator=calculator,
            label_hierarchy_level="all",
            data_device=CPU,
            dataloader_num_workers=0,
        )
        to_eval = [("val", list(references))]
        return tester.test(parts, 0, torch.nn.Identity(), splits_to_eval=to_eval)["val"]

    torch.set_warn_always(True)
    try:
        metrics = found(ours(include=OF_PML))
    finally:
        torch.set_warn_always(False)
    expected = found(theirs())
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


def test_it_travels_in_a_pickle():
    rows, labels = rows_and_labels(30, 4, 0)
    copy = pickle.loads(pickle.dumps(ours(include=("recall_at_5", "r_precision"))))
    assert copy.get_accuracy(rows, labels) == ours(
        include=("recall_at_5", "r_precision")
    ).get_accuracy(rows, labels)


ROWS, LABELS = rows_and_labels(8, 2, 0)
NAN, INFINITE = ROWS.clone(), ROWS.clone()
NAN[3, 1], INFINITE[5, 0] = math.nan, -math.inf


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ((ROWS[0], LABELS), "query: expected embeddings of shape"),
        ((ROWS[:0], LABELS[:0]), "query: expected embeddings of shape"),
        ((ROWS, LABELS[:5]), "query_labels: expected one label for each of 8 rows"),
        ((ROWS, torch.stack([LABELS, LABELS], 1)), "need a label_comparison_fn"),
        ((NAN, LABELS), "query: expected finite numbers; got others in 1 of 8 rows"),
        ((ROWS, LABELS, NAN, LABELS), "reference: expected finite numbers; got others in 1 of 8"),
        ((INFINITE, LABELS), "query: expected finite numbers; got others in 1 of 8 rows"),
        ((ROWS.double() * 1e200, LABELS), "query: expected finite numbers; got others in 8 of 8"),
        ((ROWS * 1e25, LABELS), "knn_func: expected 8 neighbours of each query; got fewer"),
        ((ROWS, LABELS, ROWS[:, :3], LABELS), "reference: expected embeddings of size 6"),
        ((ROWS, LABELS, ROWS), "reference: expected embeddings together with their labels"),
        ((ROWS, LABELS, ROWS + 1, LABELS, True), "reference: expected the queries"),
        ((ROWS, LABELS, ROWS, 1 - LABELS, True), "reference: expected the queries"),
        ((ROWS, LABELS, ROWS[:4], LABELS[:4], True), "reference: expected the queries"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given_, text):
    with pytest.raises(ValueError, match=text):
        ours().get_accuracy(*given_)


def test_a_single_number_is_no_list_of_recalls():
    with pytest.raises(ValueError, match=r"recall_at: expected .* as in \(1, 10\); got 10"):
        RetrievalAccuracyCalculator(recall_at=10)


@pytest.mark.parametrize("at", [0, -1, 1.5, True])
def test_a_recall_at_what_is_no_number_of_neighbours_is_refused(at):
    with pytest.raises(ValueError, match="recall_at: expected an integer >= 1"):
        RetrievalAccuracyCalculator(recall_at=(1, at))
