"""The ensemble of four losses that Zabihzadeh et al. publish, with their constants."""

from typing import Any

from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn

from pml_extras._checks import check_count, check_non_negative, check_positive
from pml_extras.functional.rows import unit_rows
from pml_extras.losses.binomial_deviance import BinomialDevianceLoss
from pml_extras.losses.classification import ClassificationLoss
from pml_extras.losses.loss_ensemble import WeightedLossEnsemble
from pml_extras.losses.smoothed_proxy_nca import SmoothedProxyNCALoss
from pml_extras.weighting import LossWeighting, SquaredWeights

PRIOR = {"classification": 2, "triplet": 1, "binomial": 2, "proxy_nca": 3}
"""Initial weights of the members, up to a factor."""


def zabihzadeh_ensemble(
    num_classes: int,
    feature_size: int,
    embedding_size: int = 64,
    *,
    diversity_weight: float = 0.01,
    weighting: LossWeighting | None = None,
    scale: str | float | None = "cumulative",
    max_scale: float | None = None,
    **kwargs: Any,
) -> WeightedLossEnsemble:
    r"""Four losses, each on a head of its own, with weights that learn.

    ================  ==========================================================  ============
    name              loss                                                        prior weight
    ================  ==========================================================  ============
    classification    ClassificationLoss, :math:`\epsilon` = 0.15                 2/8
    triplet           pml's TripletMarginLoss, margin 1, on the triplets with     1/8
                      :math:`0 < D_{an} - D_{ap} \le 0.1`
    binomial          BinomialDevianceLoss, scales 2 and 25, threshold 0.5        2/8
    proxy_nca         SmoothedProxyNCALoss, scale 3, :math:`\epsilon` = 0.1       3/8
    ================  ==========================================================  ============

    A head is a linear layer whose output is divided by its norm. The embedding to retrieve with is
    ``ensemble.embed(features)``, 4 ``embedding_size`` columns. Each mined triplet costs between 0.9
    and 1, so the triplet member is nearly constant, or 0 where nothing is mined.

    Args:
        num_classes: C >= 2; labels lie in [0, C).
        feature_size: columns of what the ensemble is called with, the output of the trunk.
        embedding_size: of each head; published: 64.
        diversity_weight: >= 0, :math:`\lambda`; released: 0.01, and 0.1 in one of the stored runs.
        weighting: a strategy of :mod:`pml_extras.weighting` for four losses; None is the published
            one, ``SquaredWeights`` from the prior.
        scale: as for :class:`WeightedLossEnsemble`; released: "cumulative".
        max_scale: as for :class:`WeightedLossEnsemble`; released: None. With few rows a class the
            triplet member is often 0 and then enters with all it has missed: a cap of 10 or so
            keeps that from setting the step.
        **kwargs: those of :class:`WeightedLossEnsemble` and of pml's losses.

    Returns:
        The ensemble. Published training: ``torch.optim.Adam([{"params": trunk.parameters()},
        *zabihzadeh_param_groups(ensemble)], lr=1e-4, eps=0.01, weight_decay=1e-4)``, batches of 64
        drawn without regard to classes.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, with the members and constants of the authors' released code.
    Departures: heads are linear layers on one feature vector, where the authors' are attention
    heads of a network whose file is not published; that heads are normalised is inferred.

    Raises:
        ValueError: an argument out of its range.

    >>> import torch
    >>> ensemble = zabihzadeh_ensemble(num_classes=3, feature_size=5)
    >>> ensemble.embed(torch.randn(6, 5)).shape
    torch.Size([6, 256])
    """
    check_count(2, num_classes=num_classes)
    check_count(1, feature_size=feature_size, embedding_size=embedding_size)
    return WeightedLossEnsemble(
        losses={
            "classification": ClassificationLoss(num_classes, embedding_size, label_smoothing=0.15),
            "triplet": TripletMarginLoss(margin=1.0),
            "binomial": BinomialDevianceLoss(scale_pos=2.0, scale_neg=25.0, threshold=0.5),
            "proxy_nca": SmoothedProxyNCALoss(
                num_classes, embedding_size, softmax_scale=3.0, label_smoothing=0.1
            ),
        },
        miners={"triplet": TripletMarginMiner(margin=0.1, type_of_triplets="semihard")},
        heads={
            name: nn.Sequential(nn.Linear(feature_size, embedding_size), _UnitRows())
            for name in PRIOR
        },
        weighting=SquaredWeights(prior=PRIOR) if weighting is None else weighting,
        scale=scale,
        max_scale=max_scale,
        diversity_weight=diversity_weight,
        **kwargs,
    )


def zabihzadeh_param_groups(
    ensemble: WeightedLossEnsemble, lr: float = 1e-4, weight_decay: float = 1e-4
) -> list[dict[str, Any]]:
    """Groups at the published rates, for the optimizer that also trains the trunk at ``lr``.

    Heads and classifier learn at 10 ``lr``, proxies at 150 ``lr``, the weights of the losses at
    ``lr``, and all decay alike. ``ensemble.param_groups`` has the rate of the trunk for heads and
    no decay of the weights, which pulls them to their floor.

    Args:
        ensemble: what :func:`zabihzadeh_ensemble` made.
        lr: > 0, the rate of the trunk.
        weight_decay: >= 0.

    Raises:
        ValueError: an argument out of its range.
    """
    check_positive(lr=lr)
    check_non_negative(weight_decay=weight_decay)
    heads = {id(p) for p in ensemble.heads.parameters()}
    groups = ensemble.param_groups(lr)  # of proxies, the classifier, all heads, the weights
    for group in groups:
        group["weight_decay"] = weight_decay
        if heads & {id(p) for p in group["params"]}:
            group["lr"] = 10.0 * lr
    return groups


class _UnitRows(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return unit_rows(rows)
