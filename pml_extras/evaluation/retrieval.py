"""Retrieval metrics of large sets: pml's, and Recall@K, with memory that does not grow with
classes x rows or with rows x neighbours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.utils.accuracy_calculator import (
    EQUALITY,
    AccuracyCalculator,
    get_label_match_counts,
)
from pytorch_metric_learning.utils.common_functions import LOGGER
from torch import Tensor

from pml_extras._checks import check_count, refuse
from pml_extras.evaluation._metrics import METRICS, Found, Metric, recall

_NEIGHBOURS_AT_A_TIME = 2**22
"""Queries x neighbours that are held at a time: 48 MiB, and as much again for one metric."""

_ROWS_AT_A_TIME = 2**14
"""Rows that are compared, or searched for what is no number, at a time."""


class _Classes(NamedTuple):
    """The classes of the queries, C of them.

    Args:
        labels: (C,) their labels, ascending.
        of_query: (Q,) positions in ``labels``.
        of_reference: (N,) likewise, -1 for a class that no query has; None where labels are
            compared by somebody's function.
        counts: (C,) references of each.
        relevant: (C,) the same, without the query itself.
    """

    labels: Tensor
    of_query: Tensor
    of_reference: Tensor | None
    counts: Tensor
    relevant: Tensor


class RetrievalAccuracyCalculator(AccuracyCalculator):
    r"""pml's ``AccuracyCalculator`` with Recall@K, for sets of any size and any number of classes.

    For query i, with R_i references of its class and rel_i(k) = 1 where its k-th nearest reference
    is one of them:

    - ``precision_at_1``: rel_i(1);
    - ``recall_at_K``: 1 where any of rel_i(1), ..., rel_i(K) is, else 0, as retrieval papers report
      it (Stanford Online Products: K = 1, 10, 100, 1000; In-Shop, with a gallery: 1, 10, 20, 30);
    - ``r_precision``: (1 / R_i) sum_{k <= R_i} rel_i(k);
    - ``mean_average_precision_at_r``: (1 / R_i) sum_{k <= R_i} rel_i(k) P_i(k), where P_i(k) is the
      share of relevant ones among the first k;
    - ``mean_average_precision``: the same sum over all ``k`` neighbours, over R_i;
    - ``mean_reciprocal_rank``: 1 / the first k with rel_i(k) = 1, 0 without;
    - ``NMI``, ``AMI``: of a k-means clustering, as in pml; slow, so name the metrics in
      ``include``.

    Each is the mean over queries that have a reference of their class; a query among its own
    references is left out of them. Every name, argument and result of pml's holds. What departs:

    - Classes are counted once and looked up, where pml builds a (classes, rows) matrix and walks
      through the classes for every metric: 6.6 GB at 60,502 rows of 11,316 classes.
    - Neighbours are asked for and judged some queries at a time, and only as many as the metrics
      need: ``k`` bounds what ``mean_average_precision``, ``mean_reciprocal_rank`` and the R of the
      others see, as in pml, but not the K of a recall. Whoever adds metrics in a subclass, as pml
      documents it (``calculate_NAME``, ``requires_knn``), gets all of pml's arguments, whole.
    - Labels are int64, or float64 where they come as floats; pml rounds them to float32, where 2^24
      and 2^24 + 1 are one class.
    - ``mean_reciprocal_rank`` is float64, and can be asked for alone (a KeyError in pml).
    - More neighbours than references are never asked for; embeddings that are not finite, or whose
      squared distances are not, are refused: pml takes what faiss does not find for the last
      reference.

    Args:
        include, exclude, avg_of_avgs, return_per_class, k, label_comparison_fn, device, knn_func,
            kmeans_func: as pml's.
        recall_at: the K of the recalls.

    Example:
        >>> calculator = RetrievalAccuracyCalculator(
        ...     include=("recall_at_1", "recall_at_10"),
        ...     recall_at=(1, 10),
        ...     device=torch.device("cpu"),
        ... )
        >>> rows, labels = torch.eye(4).repeat_interleave(2, 0), torch.arange(8) // 2
        >>> calculator.get_accuracy(rows, labels)
        {'recall_at_1': 1.0, 'recall_at_10': 1.0}
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        avg_of_avgs: bool = False,
        return_per_class: bool = False,
        k: int | str | None = None,
        label_comparison_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | None = None,
        knn_func: Callable[..., tuple[Tensor, Tensor]] | None = None,
        kmeans_func: Callable[..., Tensor] | None = None,
        *,
        recall_at: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        if not isinstance(recall_at, Iterable):
            raise refuse("recall_at", "integers >= 1, as in (1, 10)", repr(recall_at))
        self.recall_at = tuple(recall_at)
        for at in self.recall_at:
            check_count(1, recall_at=at)
            if not hasattr(self, f"calculate_recall_at_{at}"):  # where pml looks for metrics
                setattr(self, f"calculate_recall_at_{at}", partial(self._recall, at))
        super().__init__(
            include, exclude, avg_of_avgs, return_per_class, k, label_comparison_fn, device,
            knn_func, kmeans_func,
        )  # fmt: skip

    def requires_knn(self) -> list[str]:
        """Names of the metrics that need neighbours."""
        recalls = [f"recall_at_{at}" for at in self.recall_at]
        return [*super().requires_knn(), "mean_reciprocal_rank", *recalls]

    def get_accuracy(
        self,
        query: Any,
        query_labels: Any,
        reference: Any = None,
        reference_labels: Any = None,
        ref_includes_query: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Metrics of queries against references, or against each other.

        Args:
            query: (Q, D) tensor or array.
            query_labels: (Q,) integers, or what ``label_comparison_fn`` takes.
            reference: (N, D); the queries if left out.
            reference_labels: (N,).
            ref_includes_query: the first Q references are the queries.
            include, exclude: of the metrics of this calculator, for this call.

        Returns:
            Metric -> value in [0, 1], or a list of them a class with ``return_per_class``; NaN
            where no query has a reference of its class.

        Raises:
            ValueError: shapes that do not fit, embeddings that are no finite numbers, references
                that do not begin with the queries although ``ref_includes_query`` says so, or
                fewer neighbours found than there are.
        """
        if (reference is None) != (reference_labels is None):
            raise refuse("reference", "embeddings together with their labels", "one of the two")
        query, query_labels = self._rows("query", query, query_labels)
        if reference is None:
            reference, reference_labels, ref_includes_query = query, query_labels, True
        else:
            reference, reference_labels = self._rows("reference", reference, reference_labels)
            if query.shape[1] != reference.shape[1]:
                raise refuse("reference", f"embeddings of size {query.shape[1]}, as the queries",
                             tuple(reference.shape))  # fmt: skip
            if ref_includes_query:
                _check_beginning(query, query_labels, reference, reference_labels)
        self.curr_function_dict = self.get_function_dict(include, exclude)
        given = {
            "query": query,
            "reference": reference,
            "query_labels": query_labels,
            "reference_labels": reference_labels,
            "ref_includes_query": ref_includes_query,
            "label_comparison_fn": self.label_comparison_fn,
        }
        names = self.get_curr_metrics()
        values: dict[str, Any] = {}
        if any(name in self.requires_knn() for name in names):
            values, of_neighbours = self._of_neighbours(**given)
            given |= of_neighbours
        if any(name in self.requires_clustering() for name in names):
            given["cluster_labels"] = self.get_cluster_labels(**given)
        others = {k: v for k, v in self.curr_function_dict.items() if k not in values}
        values |= self._get_accuracy(others, **given)
        return {name: values[name] for name in names}

    def _rows(self, name: str, rows: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """Embeddings in float32, as faiss wants them, and labels that are exact."""
        rows, labels = (torch.as_tensor(x) for x in (rows, labels))
        if rows.ndim != 2 or len(rows) == 0:
            raise refuse(name, "embeddings of shape (rows, size)", tuple(rows.shape))
        plain = self.label_comparison_fn is EQUALITY
        if plain and labels.shape == (len(rows), 1):
            labels = labels[:, 0]
        if len(labels) != len(rows) or (plain and labels.ndim != 1):
            raise refuse(f"{name}_labels", f"one label for each of {len(rows)} rows",
                         f"shape {tuple(labels.shape)}",
                         "Labels of several columns need a label_comparison_fn.")  # fmt: skip
        rows = rows.detach().to(self.device, torch.float32)
        parts = rows.split(_ROWS_AT_A_TIME)
        good = sum(int(part.isfinite().all(dim=1).sum()) for part in parts)
        if good < len(rows):
            raise refuse(name, "finite numbers", f"others in {len(rows) - good} of {len(rows)} "
                         "rows", "Has the training diverged?")  # fmt: skip
        exact = torch.float64 if labels.is_floating_point() else torch.int64
        return rows, labels.to(self.device, exact).contiguous()

    def _of_neighbours(
        self,
        query: Tensor,
        reference: Tensor,
        query_labels: Tensor,
        reference_labels: Tensor,
        ref_includes_query: bool,
        **_: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values of the metrics above, and what somebody's other metrics are called with."""
        classes = self._classes(query_labels, reference_labels, ref_includes_query)
        known = classes.relevant > 0
        if not bool(known.any()):
            LOGGER.warning("None of the query labels are in the reference set.")
        asked = [name for name in self.get_curr_metrics() if name in self.requires_knn()]
        ours = {name: metric for name in asked if (metric := self._metric(name)) is not None}
        others = len(ours) < len(asked)
        k = self.determine_k(classes.counts, len(reference), ref_includes_query)
        largest = int(classes.relevant.max())
        depth = max(1, k if others else 1, *(m.depth(k, largest) for m in ours.values()))
        per_query: dict[str, list[Tensor]] = {name: [] for name in ours}
        whole: list[tuple[Tensor, Tensor]] = []
        for here, distances, indices in self._neighbours(
            query, reference, depth, ref_includes_query
        ):
            same = (
                self.label_comparison_fn(query_labels[here, None], reference_labels[indices]).bool()
                if classes.of_reference is None
                else classes.of_query[here, None] == classes.of_reference[indices]
            )
            found = Found(same, classes.relevant[classes.of_query[here], None], k)
            for name, metric in ours.items():
                per_query[name].append(metric.of(found))
            if others:
                whole.append((distances[:, :k], indices[:, :k]))
        values = {name: self._mean(torch.cat(parts), classes) for name, parts in per_query.items()}
        if not others:
            return values, {}
        distances, indices = (torch.cat(parts) for parts in zip(*whole, strict=True))
        return values, {
            "label_counts": (classes.labels, classes.counts),
            "knn_labels": reference_labels[indices],
            "knn_distances": distances,
            "lone_query_labels": classes.labels[~known],
            "not_lone_query_mask": known[classes.of_query],
        }

    def _classes(self, query_labels: Tensor, reference_labels: Tensor, itself: bool) -> _Classes:
        if self.label_comparison_fn is not EQUALITY:
            labels, of_query = query_labels.unique(dim=0, return_inverse=True)
            _, counts = get_label_match_counts(
                query_labels, reference_labels, self.label_comparison_fn
            )
            own = self.label_comparison_fn(labels, labels).long() * itself
            return _Classes(labels, of_query, None, counts, counts - own)
        labels, of_query = query_labels.unique(return_inverse=True)
        place = torch.searchsorted(labels, reference_labels).clamp(max=len(labels) - 1)
        of_reference = torch.where(labels[place] == reference_labels, place, -1)
        counts = of_reference[of_reference >= 0].bincount(minlength=len(labels))
        return _Classes(labels, of_query, of_reference, counts, counts - int(itself))

    def _neighbours(
        self, query: Tensor, reference: Tensor, k: int, itself: bool
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some queries, and distances and positions of the references next to them."""
        k = min(k + itself, len(reference))
        step = max(1, _NEIGHBOURS_AT_A_TIME // k)
        for start in range(0, len(query), step):
            here = slice(start, min(start + step, len(query)))
            distances, indices = self.knn_func(query[here], k, reference, False)
            if bool((indices < 0).any()):
                raise refuse("knn_func", f"{k} neighbours of each query", "fewer", "Are distances "
                             "too large for float32? Normalize the embeddings.")  # fmt: skip
            if itself:  # which is not among them where many others are as near
                own = indices == torch.arange(start, here.stop, device=indices.device)[:, None]
                own[~own.any(dim=1), -1] = True
                distances, indices = (x[~own].view(len(x), k - 1) for x in (distances, indices))
            yield here, distances, indices

    def _metric(self, name: str) -> Metric | None:
        """Of this name, unless a subclass has its own."""
        theirs = getattr(AccuracyCalculator, f"calculate_{name}", None)
        if getattr(type(self), f"calculate_{name}", None) is not theirs:
            return None
        return METRICS.get(name) or recall(int(name.removeprefix("recall_at_")))

    def _mean(self, values: Tensor, classes: _Classes) -> Any:
        """Of (Q,) values: over queries with a reference of their class, or class by class."""
        known = classes.relevant > 0
        if not bool(known.any()):
            return [torch.nan] * len(known) if self.return_per_class else torch.nan
        if not (self.return_per_class or self.avg_of_avgs):
            return values[known[classes.of_query]].mean().item()
        sums = classes.of_query.bincount(values, minlength=len(known))
        means = (sums / classes.of_query.bincount(minlength=len(known)))[known]
        return means.tolist() if self.return_per_class else means.mean().item()

    def _recall(self, at: int, *, knn_labels: Tensor, query_labels: Tensor, **others: Any) -> Any:
        """Recall@K from pml's arguments, for whoever calls a metric by its name."""
        reference_labels, itself = others["reference_labels"], others["ref_includes_query"]
        needed = min(at, len(reference_labels) - itself)
        if knn_labels.shape[1] < needed:
            raise refuse("knn_labels", f"{needed} neighbours of each query", knn_labels.shape[1],
                         "Give the calculator a larger k.")  # fmt: skip
        classes = self._classes(query_labels, reference_labels, itself)
        same = self.label_comparison_fn(query_labels[:, None], knn_labels[:, :at])
        return self._mean(same.any(dim=1).double(), classes)


def _check_beginning(
    query: Tensor, of_query: Tensor, reference: Tensor, of_reference: Tensor
) -> None:
    """Refuse references that do not begin with the queries, as pml does, a part at a time."""
    for start in range(0, len(query), _ROWS_AT_A_TIME):
        part = slice(start, min(start + _ROWS_AT_A_TIME, len(query)))
        if len(reference) < len(query) or not (
            torch.allclose(query[part], reference[part])
            and torch.equal(of_query[part], of_reference[part])
        ):
            raise refuse("reference", "the queries and their labels as its first rows, since "
                         "ref_includes_query is True", "others")  # fmt: skip
