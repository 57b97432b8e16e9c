"""Potential field loss: samples and proxies as charges that attract and repel."""

from typing import Any

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import WeightRegularizerMixin
from pytorch_metric_learning.reducers import DoNothingReducer
from torch import Tensor

from pml_extras._checks import (
    check_count,
    check_flag,
    check_non_negative,
    check_one_of,
    check_positive,
    refuse,
)
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    already_reduced,
    anchor_weights,
    check_columns,
    class_indices,
    required_labels,
)
from pml_extras.functional.close_pairs import Search, close_pairs
from pml_extras.functional.dense_field import dense_field_energy
from pml_extras.functional.field import check_field
from pml_extras.functional.field_energy import Points, Term, field_energy
from pml_extras.functional.neighbour_list import NeighbourList

_MANY_PROXIES = 4096  # a search among fewer costs no more than asking whether a list still holds


class PotentialFieldLoss(WeightRegularizerMixin, FullPrecisionLoss):
    r"""Potential energy of a batch and of all proxies, each a source and a test charge.

    Formula and source: :func:`pml_extras.functional.potential_field_energy`. Points of one class
    attract with a pull that decays with distance and ends inside ``delta``; points of two classes
    repel inside ``delta_rep`` alone. Proxies stand for the samples that the batch does not hold:

    .. math::
        U_0 = \sum_{a \in z \cup p} \sum_{b \in z \cup p,\, b \ne a} \psi_{y_a y_b}(r_{ab})

    over the B samples z and all proxies p of all classes, on the unit sphere; Eq. 6 of the paper
    without the self terms and the constant of repulsion, neither of which has a gradient.

    Args:
        num_classes: number of training classes; labels lie in [0, num_classes).
        embedding_size: D.
        proxies_per_class: 15 in the paper, 2 on the 11,318 classes of Stanford Online Products,
            where 15 take 50 times longer; 0 is samples only (then any labels will do).
        alpha: decay exponent >= 0 of the potential; 0 is its logarithmic limit.
        delta: radius of the flat well of attraction, in units of distance on the sphere, where
            random pairs lie near the square root of 2.
        delta_rep: radius of repulsion; None is ``delta``. Larger ones lose accuracy in the paper.
        reduction: "sum", Eq. 6, which reaches millions; "batch_mean" divides it by B; "pair_mean"
            by the number of ordered pairs. Under Adam without decay the three train alike.
        core_radius: below it repulsion goes on as its tangent; 0 is the published singular form.
        neighbour_lists: keep from step to step which pairs of proxies may come close, which
            changes nothing but the time, see below; used from 4,096 proxies on, where it pays.
        **kwargs: ``weight_init_func`` (default standard normal), ``weight_regularizer`` (on the
            proxies), ``embedding_regularizer``, ``collect_stats``. ``distance`` may only be the
            default, ``LpDistance()`` on unit vectors; ``reducer`` only None or
            ``DoNothingReducer()``, since the energy of a batch is one number.

    Attributes:
        proxies: Parameter (num_classes * proxies_per_class, D), class-major: row
            ``c * proxies_per_class + k`` is proxy k of class c. Normalised in forward, so only
            the direction of a row matters, and its norm sets its speed: a step of Adam at rate
            lr moves each coordinate by about lr, hence a row of initial norm sqrt(D) (standard
            normal) by about lr radians. Keep that well below ``delta``. Pass ``param_groups`` to
            the optimizer: parameters that no optimizer sees are never trained.

    A miner's tuple weighs the outer sum: the field at sample a counts :math:`w_a`, how often a
    occurs in the tuple over the largest count, the field at a proxy counts 1; so a pair counts
    (w_a + w_b) / 2 of its two directions. An empty tuple weighs 1, as in pml.

    References (``ref_emb``) are sources and no test charges: samples and proxies feel the field of
    references and proxies. So a memory of past batches may be used with its gradient detached; a
    row of the batch that is in the memory too is at distance 0 of its copy, inside the well.

    Memory above the proxies: three arrays of their size (their directions, the gradient, ``.grad``)
    and a tile, however many pairs there are. Time: the products of all pairs of proxies, unless
    a :class:`~pml_extras.functional.neighbour_list.NeighbourList` holds: it lists the pairs that
    can come within ``delta_rep`` before some proxies have moved far enough, which is measured
    at each step, so that an optimizer, a loaded state and a write into ``.data`` are all seen. It
    takes the place of one of the three arrays and is neither in the state dict nor in copies.

    Under ``torch.compile`` the same energy is taken from matrices of all pairs in float64, without
    lists, a check of the labels or recorded statistics: one graph, for up to some thousand proxies.

    Recorded statistics (``collect_stats=True``), in the unit of the loss: ``excess_*``, attraction
    above the bottom of the well, and ``repulsion_*``, both >= 0, of sample-sample,
    sample-proxy and proxy-proxy pairs. They sum to the loss up to a constant. The total is
    dominated by proxies and says little.

    In float16 the gradient of points of two classes that almost coincide, up to
    :math:`\alpha r_c^{-(\alpha + 1)}`, may exceed the type, as any gradient may: train with a
    ``GradScaler`` or in bfloat16. pml's ``DistributedLossWrapper`` multiplies by the number of
    processes, which also multiplies the gradient of proxies averaged by DDP.

    Departures from the paper: those of the formula, and where the paper is silent proxies are
    normalised and start from a normal distribution.

    Raises:
        ValueError: a hyper-parameter out of its range, another distance or reducer, labels that
            are no classes.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        proxies_per_class: int = 15,
        alpha: float = 3.0,
        delta: float = 0.2,
        delta_rep: float | None = None,
        reduction: str = "sum",
        core_radius: float = 0.01,
        neighbour_lists: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count(1, num_classes=num_classes, embedding_size=embedding_size)
        check_count(0, proxies_per_class=proxies_per_class)
        check_field(alpha, delta, delta_rep, core_radius)
        check_one_of(("sum", "batch_mean", "pair_mean"), reduction=reduction)
        check_flag(neighbour_lists=neighbour_lists)
        _check_distance(self.distance)
        _check_reducer(kwargs.get("reducer"))
        if proxies_per_class == 0 and self.weight_regularizer is not None:
            raise refuse("weight_regularizer", "None with proxies_per_class=0", "a regularizer")
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.proxies_per_class = proxies_per_class
        self.alpha = alpha
        self.delta = delta
        self.delta_rep = delta_rep
        self.reduction = reduction
        self.core_radius = core_radius
        self.neighbour_lists = neighbour_lists
        self._neighbours = NeighbourList()
        num_proxies = num_classes * proxies_per_class
        self.proxies = torch.nn.Parameter(torch.empty(num_proxies, embedding_size))
        if num_proxies > 0:
            self.weight_init_func(self.proxies)
        names = ["num_classes", "embedding_size", "proxies_per_class", "alpha", "delta"]
        names += ["core_radius"] if delta_rep is None else ["core_radius", "delta_rep"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)
        self.add_to_recordable_attributes(list_of_names=list(_STATISTICS), is_stat=True)

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for the optimizer that also trains the trunk.

        Args:
            lr: rate of the trunk, > 0; proxies get 100 times it, the ratio of the paper, whose
                trunk learns at 1e-4. What counts is the angular speed of proxies against
                ``delta``: for a trunk that learns faster, pass 1e-4 all the same.
            weight_decay: for parameters that decay, of which this loss has none: decay would
                shrink proxies and so only raise their speed.

        Returns:
            One group, the proxies, without decay; no group without proxies. pml's trainers take
            them in an optimizer of their own, ``"metric_loss_optimizer"``.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        if self.proxies_per_class == 0:
            return []
        return [{"params": [self.proxies], "lr": 100.0 * lr, "weight_decay": 0.0}]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._neighbours = NeighbourList()  # its points would stay on the device of before
        return super()._apply(fn, recurse)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        has_ref = ref_emb is not embeddings
        labels, ref_labels = self._classes(embeddings, labels, ref_emb, ref_labels)
        dtype = torch.promote_types(embeddings.dtype, self.proxies.dtype)
        weight = anchor_weights(indices_tuple, labels, dtype, has_ref=has_ref)
        p_labels = torch.arange(len(self.proxies), device=embeddings.device)
        sets = [
            Points(embeddings.to(dtype), labels),
            Points(self.proxies.to(dtype), p_labels // max(1, self.proxies_per_class)),
        ]
        if has_ref:
            sets.append(Points(ref_emb.to(dtype), ref_labels))
            terms = [
                ("sample_sample", Term(0, 2, weight)),
                ("sample_proxy", Term(0, 1, weight)),
                ("sample_proxy", Term(1, 2)),
            ]
        else:
            terms = [
                ("sample_sample", Term(0, None, weight)),
                # The field at the sample counts its weight, the one at the proxy counts 1.
                ("sample_proxy", Term(0, 1, weight + 1)),
            ]
        terms.append(("proxy_proxy", Term(1, None, search=self._search())))
        divisor = self._divisor(*map(len, (embeddings, ref_emb, self.proxies)), has_ref=has_ref)
        energy = self._energy(sets, terms, divisor)
        self.distance.reset_stats()
        if self.distance.collect_stats and not torch.compiler.is_compiling():
            with torch.no_grad():
                unit = map(self.distance.normalize, (embeddings, ref_emb))
                self.distance.set_default_stats(embeddings, ref_emb, *unit)
        loss_dict = already_reduced(energy / divisor)
        self.add_weight_regularization_to_loss_dict(loss_dict, self.proxies)
        return loss_dict

    def get_default_distance(self) -> LpDistance:
        return LpDistance()

    def _search(self) -> Search:
        if self.neighbour_lists and len(self.proxies) >= _MANY_PROXIES:
            return self._neighbours
        return close_pairs

    def _energy(self, sets: list[Points], named: list[tuple[str, Term]], divisor: int) -> Tensor:
        field = check_field(self.alpha, self.delta, self.delta_rep, self.core_radius)
        terms = [term for _, term in named]
        if torch.compiler.is_compiling():
            return dense_field_energy(sets, terms, field)
        energy, *parts = field_energy(sets, terms, field, unit=True)
        if self.collect_stats:
            for part, values in zip(("excess", "repulsion"), parts, strict=True):
                for (pairs, _), value in zip(named, values.tolist(), strict=True):
                    name = f"{part}_{pairs}"
                    setattr(self, name, getattr(self, name) + value / divisor)
        return energy

    def _divisor(self, samples: int, sources: int, proxies: int, *, has_ref: bool) -> int:
        if self.reduction == "sum":
            return 1
        if self.reduction == "batch_mean":
            return samples
        with_themselves = proxies if has_ref else samples + proxies
        return max(1, (samples + proxies) * (sources + proxies) - with_themselves)

    def _classes(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        check_columns(self.embedding_size, embeddings=embeddings, ref_emb=ref_emb)
        if self.proxies_per_class == 0:
            return required_labels(labels, ref_labels)
        if torch.compiler.is_compiling():  # to read a label would break the graph
            labels, ref_labels = required_labels(labels, ref_labels)
            return labels.long(), ref_labels.long()
        labels = class_indices("labels", labels, self.num_classes)
        if ref_emb is embeddings:
            return labels, labels
        return labels, class_indices("ref_labels", ref_labels, self.num_classes)


_STATISTICS = tuple(
    f"{part}_{pairs}"
    for part in ("excess", "repulsion")
    for pairs in ("sample_sample", "sample_proxy", "proxy_proxy")
)


def _check_distance(distance: Any) -> None:
    if (
        type(distance) is not LpDistance
        or (distance.p, distance.power) != (2, 1)
        or not distance.normalize_embeddings
    ):
        came = {k: getattr(distance, k, None) for k in ("p", "power", "normalize_embeddings")}
        raise refuse(
            "distance",
            "LpDistance() on unit vectors",
            f"{type(distance).__name__} with {came}",
            "The radii are lengths on the unit sphere; functional.potential_field_energy takes "
            "points as they are.",
        )


def _check_reducer(reducer: Any) -> None:
    if reducer is not None and not isinstance(reducer, DoNothingReducer):
        raise refuse(
            "reducer",
            "None or DoNothingReducer()",
            type(reducer).__name__,
            "The energy of a batch is one number: choose `reduction` "
            '("sum", "batch_mean", "pair_mean").',
        )
