"""Several losses as one: a common scale, weights that may learn, heads of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pml_extras._checks import (
    check_non_negative,
    check_positive,
    check_rows,
    refuse,
)
from pml_extras._pml import FullPrecisionLoss, LossDict, already_reduced_parts
from pml_extras.functional.loss_ensemble import (
    head_diversity,
    weighted_concatenation,
)
from pml_extras.functional.precision import (
    at_least_float32,
    call_in_widest,
    no_autocast,
)
from pml_extras.losses._loss_ensemble_arguments import (
    check_names,
    check_scale,
    members_by_name,
    miners_by_name,
    sizes_or_modules,
)
from pml_extras.losses._members import member_groups, member_value, without_repeats
from pml_extras.losses._running_scale import batch_factors
from pml_extras.weighting import LearnedSimplex, LossWeighting, Weighted

Modules = Mapping[str, nn.Module]
DIVERSITY = "diversity_loss"


class WeightedLossEnsemble(FullPrecisionLoss):
    r"""Weighted sum of losses on one embedding, or on one head a loss.

    .. math::
        L = \sum_j w_j \hat\ell_j(x_j) + \lambda\, L_{div} + \text{extra}, \qquad
        x_j = g_j(x)

    with :math:`\hat\ell_j` on a common scale (:func:`pml_extras.functional.scale_factors`), weights
    and an extra term from a strategy of :mod:`pml_extras.weighting`, and
    :math:`L_{div}` = :func:`pml_extras.functional.head_diversity`. To get pml's ``MultipleLosses``:
    ``weighting=FixedWeights([1] * m), scale=None``, since its weights are 1 unless given.

    Args:
        losses: name -> loss of pml or of this package, each with its own distance, reducer and
            regularizers; or a list, whose losses are called loss_0, loss_1, ...; or a list of
            (name, loss).
        miners: name -> miner, for some or all losses; or a list with None for those without. A loss
            with a miner of its own uses that one on its own head; others use the tuple that the
            ensemble is called with.
        heads: None, all losses see the embedding; name -> module, or a list of modules, each loss
            sees what its module makes of it; or a list of sizes, each sees as many columns, from
            left to right.
        weighting: a strategy, ``LearnedSimplex()`` if None. It may have parameters.
        scale: "cumulative", by the mean of all training batches so far; a momentum in (0, 1), by a
            bias-corrected exponential mean with this share of the past; None, not scaled. Means
            are taken after the batch is counted, in training mode only. Each batch waits for the
            device once, to read the values. A loss that may be negative, such as the energy of
            :class:`PotentialFieldLoss`, has no such scale: pass None and weigh by hand.
        max_scale: cap >= 1 of the factor of a loss, None without: a loss that stays at 0 for n
            batches enters with n times its share. A loss that is by its nature smaller than the
            common mean by more than the cap then counts, and looks, smaller than the others.
        diversity_weight: :math:`\lambda` >= 0.
        diversity_margin: > 0, of :math:`L_{div}`.
        **kwargs: ``reducer`` (of no effect on the values, which the losses reduce themselves; with
            ``DoNothingReducer`` the weighted terms come as a dictionary), ``embedding_regularizer``
            (on the embedding before heads), ``collect_stats``. No ``distance``: losses have theirs.

    Attributes:
        losses, miners, heads, weighting: what was given, as modules.
        running_mean: buffer (m,), mean of each loss, never of a half type; ``num_batches``: buffer
            (m,), of how many. A value that is not finite is not counted, and is returned.

    The state dict holds the names and is refused by an ensemble of others, or in another order.
    It does not hold fixed weights, which are an argument.

    Recorded statistics (``collect_stats=True``): ``value_<name>`` and ``weight_<name>`` of the last
    batch, and ``value_<term>`` of an extra term and of ``diversity_loss``.

    The parameters of losses (proxies), heads and strategy are the ensemble's: pass
    :meth:`param_groups` to the optimizer. Those of the strategy are to have no weight decay.

    References go through the heads to every loss; one that takes none refuses them, and is named.

    Which losses grow? That depends on the strategy: the default moves weight to the loss that has
    fallen most against its own mean; see :mod:`pml_extras.weighting`.

    Departures from the paper: the default strategy has the paper's set of weights and no penalty
    (:class:`pml_extras.weighting.SquaredWeights` is the published one); losses at 0 have a scale;
    the cap. On several processes pml's ``DistributedLossWrapper`` (``efficient=False``) gives each
    process all rows, and so equal means and weights. Otherwise each process counts its own rows;
    ``DistributedDataParallel`` sets buffers to those of the first process before every batch.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, Eq. 8 and 11.

    Raises:
        ValueError: names that repeat, are reserved or do not match; a loss that returns no number,
            or a negative one where losses are scaled; an argument out of its range; whatever a loss
            refuses, with its name.
    """

    def __init__(
        self,
        losses: Modules | Sequence[nn.Module] | Sequence[tuple[str, nn.Module]],
        miners: Modules | Sequence[nn.Module | None] | None = None,
        heads: Modules | Sequence[nn.Module] | Sequence[int] | None = None,
        weighting: LossWeighting | None = None,
        scale: str | float | None = "cumulative",
        max_scale: float | None = None,
        diversity_weight: float = 0.0,
        diversity_margin: float = 2.0,
        **kwargs: Any,
    ) -> None:
        members = members_by_name(losses)
        weighting = LearnedSimplex() if weighting is None else weighting
        if not isinstance(weighting, LossWeighting):
            expected, way_out = "a strategy of pml_extras.weighting", "FixedWeights([...]) is one."
            raise refuse("weighting", expected, repr(weighting), way_out)
        if "weights" in kwargs:
            way_out = "Pass weighting=FixedWeights(weights)."
            raise refuse("weights", "no such argument", repr(kwargs["weights"]), way_out)
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "Give it to the losses.")
        check_non_negative(diversity_weight=diversity_weight)
        check_positive(diversity_margin=diversity_margin)
        self._names = tuple(members)  # before pml's constructor, which asks for the sub-losses
        self._extra_name = weighting.extra_name
        self.diversity_weight = diversity_weight
        self.diversity_margin = diversity_margin
        super().__init__(**kwargs)
        check_names(self.sub_loss_names())
        check_scale(scale, max_scale)
        self.losses = nn.ModuleDict(members)
        self.miners = nn.ModuleDict(miners_by_name(miners, self._names))
        self.sizes, modules = sizes_or_modules(heads, self._names)
        self.heads = nn.ModuleDict(modules)
        self.weighting = weighting
        self.scale = scale
        self.max_scale = max_scale
        if diversity_weight > 0 and (heads is None or len(members) < 2):
            expected = "0 without heads, and with a single loss"
            raise refuse("diversity_weight", expected, diversity_weight)
        if diversity_weight > 0 and self.sizes is not None and len(set(self.sizes)) > 1:
            raise refuse("heads", "one size for all, to measure diversity", self.sizes)
        weighting.bind(self._names)
        self.running_mean: Tensor
        self.num_batches: Tensor
        self.register_buffer("running_mean", torch.zeros(len(members)))
        self.register_buffer("num_batches", torch.zeros(len(members), dtype=torch.int64))
        self.add_to_recordable_attributes(
            list_of_names=["diversity_weight", "diversity_margin"], is_stat=False
        )
        statistics = [f"value_{name}" for name in self._sub_loss_names()]
        statistics += [f"weight_{name}" for name in self._names]
        self.add_to_recordable_attributes(list_of_names=statistics, is_stat=True)

    def loss_weights(self) -> dict[str, float]:
        """Name -> weight of the last batch, or as it is now; see the strategy."""
        return dict(zip(self._names, self.weighting.weights().tolist(), strict=True))

    def reset_scale(self) -> None:
        """Forget the running means: for new data, or after a change of a loss."""
        self.running_mean.zero_()
        self.num_batches.zero_()

    def embed(self, features: Tensor) -> Tensor:
        """(B, F) what the ensemble is called with, to the (B, E) vector to retrieve with.

        With heads it is :func:`pml_extras.functional.weighted_concatenation` of theirs at the
        weights as they are; without, ``features`` itself.
        """
        check_rows(features=features)
        if not self.heads and self.sizes is None:
            return features
        with no_autocast(features):
            rows = [at_least_float32(features)] * len(self._names)
            outputs = self._outputs("features", rows)
            return weighted_concatenation(outputs, self.weighting.weights())

    def param_groups(
        self, lr: float, weight_decay: float = 0.0, weighting_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups for the optimizer that also trains the trunk.

        Args:
            lr: > 0, the rate of the trunk. A loss with ``param_groups`` of its own says what it
                makes of it; parameters of other losses and of heads get it as it is.
            weight_decay: >= 0, for parameters that decay.
            weighting_lr: > 0, of the strategy's parameters, which do not decay; None is ``lr``.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        if weighting_lr is not None:
            check_positive(weighting_lr=weighting_lr)
        groups: list[dict[str, Any]] = []
        for module in (*self.losses.values(), self.heads):
            if isinstance(module, WeightedLossEnsemble):
                groups += module.param_groups(lr, weight_decay, weighting_lr)
            else:
                groups += member_groups(module, lr, weight_decay)
        learned = list(self.weighting.parameters())
        groups.append({"params": learned, "lr": weighting_lr or lr, "weight_decay": 0.0})
        return without_repeats(groups)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        if indices_tuple is not None and len(self.miners) == len(self.losses):
            raise refuse("indices_tuple", "None where every loss has a miner of its own", "a tuple")
        shared: Tensor | list[Tensor] = embeddings
        views = [embeddings] * len(self._names)
        if self.weighting.takes_gradients:
            shared = views = [self._view(embeddings) for _ in self._names]
        outputs = self._outputs("embeddings", views)
        references = (
            None if ref_emb is embeddings else self._outputs("ref_emb", [ref_emb] * len(views))
        )
        values, miners = [], dict(self.miners.items())
        for j, name in enumerate(self._names):
            given = [outputs[j], labels]
            others = [] if references is None else [references[j], ref_labels]
            loss, miner = self.losses[name], miners.get(name)
            values.append(
                member_value(f"losses[{name!r}]", loss, given, indices_tuple, others, miner)
            )
        losses = torch.stack(values)  # (m,)
        raw = losses.detach()
        scaled = losses
        if self.scale is not None:
            scaled = losses * self._factors(raw)
        weighted = self.weighting(scaled, raw, shared)
        self._check_weighted(weighted)
        parts = dict(zip(self._names, weighted.terms.unbind(), strict=True))
        if self._extra_name is not None:
            parts[self._extra_name] = weighted.extra
        if self.diversity_weight > 0:
            diversity = head_diversity(outputs, margin=self.diversity_margin)
            parts[DIVERSITY] = self.diversity_weight * diversity
        if self.collect_stats:
            own = dict(zip(self._names, raw.tolist(), strict=True))
            for name, part in parts.items():
                setattr(self, f"value_{name}", own.get(name, part.item()))
            for name, weight in self.loss_weights().items():
                setattr(self, f"weight_{name}", weight)
        return already_reduced_parts(parts)

    def get_extra_state(self) -> list[str]:
        return list(self._names)

    def set_extra_state(self, state: list[str]) -> None:
        if state != list(self._names):
            raise refuse("state_dict", f"that of losses {list(self._names)}, in this order", state)

    def _apply(self, fn: Any, recurse: bool = True) -> "WeightedLossEnsemble":
        means = self.running_mean
        super()._apply(fn, recurse)
        if at_least_float32(self.running_mean) is not self.running_mean:
            self.running_mean = means.to(self.running_mean.device)  # a half type may not hold them
        return self

    def _sub_loss_names(self) -> list[str]:
        names = [*self._names]
        names += [] if self._extra_name is None else [self._extra_name]
        return names + [DIVERSITY] * (self.diversity_weight > 0)

    def _view(self, embeddings: Tensor) -> Tensor:
        """Of its own for each loss, so that one backward pass has the gradient of each.

        In training it has a gradient also where the trunk is frozen and heads alone learn.
        """
        if self.training and torch.is_grad_enabled() and not embeddings.requires_grad:
            return embeddings.detach().requires_grad_()
        return embeddings.view_as(embeddings)

    def _check_weighted(self, weighted: Any) -> None:
        fits = isinstance(weighted, Weighted) and weighted.terms.shape == (len(self._names),)
        if not fits or (weighted.extra is None) != (self._extra_name is None):
            expected = f"Weighted terms ({len(self._names)},), and an extra term if it names one"
            raise refuse("weighting", expected, f"{type(weighted).__name__} {weighted}")

    def _outputs(self, name: str, rows: list[Tensor]) -> list[Tensor]:
        """What each loss sees of the rows that it is given."""
        if self.sizes is not None:
            if rows[0].shape[1] != sum(self.sizes):
                expected = f"{sum(self.sizes)} columns, the sum of the sizes of heads"
                raise refuse(name, expected, f"{rows[0].shape[1]} columns")
            return [x.split(self.sizes, dim=1)[j] for j, x in enumerate(rows)]
        if not self.heads:
            return rows
        return [
            call_in_widest(self.heads[head], x) for head, x in zip(self._names, rows, strict=True)
        ]

    def _factors(self, raw: Tensor) -> Tensor:
        """Factor of each loss; in training mode this batch is counted first."""
        momentum = None if isinstance(self.scale, str) else self.scale
        return batch_factors(
            raw,
            self.running_mean,
            self.num_batches,
            names=self._names,
            momentum=momentum,
            max_scale=self.max_scale,
            training=self.training,
        )
