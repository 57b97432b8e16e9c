"""Zero-shot prediction of attributes, alone or beside a metric loss."""

from typing import Any

import torch
from pytorch_metric_learning.losses import WeightRegularizerMixin
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor, nn

from pml_extras._checks import (
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    refuse,
)
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    already_reduced_parts,
    class_indices,
    per_anchor,
    per_element,
    refuse_references,
)
from pml_extras.functional.zero_shot_prediction import zero_shot_prediction
from pml_extras.losses._members import (
    Groups,
    check_member,
    member_groups,
    member_value,
    without_repeats,
)

WEIGHT = 0.1  # of the zero-shot part, in all configurations of the authors


class ZeroShotPredictionLoss(WeightRegularizerMixin, FullPrecisionLoss):
    r"""Predict class vectors from attributes by a regression that saw other classes only.

    .. math::
        L = \frac{1}{B} \sum_b \ell_b \qquad \text{or, with a loss inside,} \qquad
        L = (1 - \lambda)\, L_{inner}(x, y) + \lambda \frac{1}{B} \sum_b \ell_b

    with :math:`\ell_b` = :func:`pml_extras.functional.zero_shot_prediction` of the attributes
    :math:`z_b`: a vector per image that says how much of each of m prototypes it shows, such as
    generalized sum pooling gives. The batch is split by class
    (:func:`pml_extras.functional.alternate_classes`), so any sampler will do that draws two classes
    or more; where there are fewer the zero-shot part is an attached 0.

    Without ``inner`` the loss is called with attributes, (B, m). With it, with the rows
    ``torch.cat([embedding, attributes], dim=1)``, (B, D + m): ``inner`` gets the first D columns,
    the zero-shot part the others. A miner outside is to get ``rows[:, :D]``, which pml's trainers
    do not do: there give ``inner`` a :class:`WeightedLossEnsemble` of one loss with its miner. At
    test time the embedding is compared alone.

    Args:
        num_classes: K >= 2, of training classes; labels lie in [0, K).
        embedding_size: D, of the class vectors, and of the embedding that ``inner`` gets.
        num_attributes: m.
        ridge: > 0, of the regression, in the squared unit of attributes.
        logit_scale: > 0.
        inner: a loss of pml or of this package, with its own distance and reducer; pml's
            ``CrossBatchMemory`` or a :class:`DelayedMemoryLoss` (which then store embeddings and
            never attributes), or a :class:`WeightedLossEnsemble`. Its value may be negative.
        weight: :math:`\lambda` in [0, 1), with ``inner`` only; None is 0.1.
        **kwargs: ``reducer`` of the zero-shot part, which is one value a row: the sub-loss ``loss``
            or, with ``inner``, ``zero_shot_loss`` times :math:`\lambda`, beside ``inner_loss``,
            which comes reduced by its own; ``weight_init_func`` of the class vectors (default
            normal with standard deviation :math:`\sqrt{2 / K}`) and their ``weight_regularizer``;
            ``embedding_regularizer`` of whole rows, attributes too (give one of the embedding to
            ``inner``); ``collect_stats``. No ``distance``: give it to ``inner``.

    Attributes:
        class_vectors: Parameter (K, D).
        inner: what was given.

    Class vectors and parameters of ``inner`` are trained with the trunk: pass :meth:`param_groups`
    to the optimizer, in pml's trainers as ``"metric_loss_optimizer"``.

    A miner's tuple and references are for ``inner``, and are refused without it. References have
    the width of the rows and give ``inner`` their embedding; the zero-shot part is of the batch
    alone.

    Departures from the paper's released code: halves by class, of any size, where it splits by
    position (see :func:`pml_extras.functional.alternate_classes`); the normal distribution of the
    class vectors is not truncated; no 1e-16 inside the logarithm.

    Source: Gürbüz, Şener, Alatan, "Generalized Sum Pooling for Metric Learning", ICCV 2023,
    https://arxiv.org/abs/2308.09228, Section 4.3, as in the authors' released code,
    https://github.com/yetigurbuz/generalized-sum-pooling.

    Raises:
        ValueError: an argument out of its range; a distance; ``weight`` without ``inner``; labels
            that are no classes; rows of another size; what ``inner`` refuses, with its name.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        num_attributes: int,
        ridge: float = 0.05,
        logit_scale: float = 9.5,
        inner: nn.Module | None = None,
        weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "Give it to the loss in `inner`.")
        self._has_inner = inner is not None  # before pml's constructor, which asks for sub-losses
        super().__init__(**kwargs)
        check_count(2, num_classes=num_classes)
        check_count(1, embedding_size=embedding_size, num_attributes=num_attributes)
        check_positive(ridge=ridge, logit_scale=logit_scale)
        names = ["num_classes", "embedding_size", "num_attributes", "ridge", "logit_scale"]
        if inner is not None:
            check_member("inner", inner)
            weight = WEIGHT if weight is None else weight
            check_fraction(weight=weight)
            names.append("weight")
        elif weight is not None:
            way_out = "Give the loss beside it as `inner`."
            raise refuse("weight", "None without `inner`", repr(weight), way_out)
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.num_attributes = num_attributes
        self.ridge = ridge
        self.logit_scale = logit_scale
        self.inner = inner
        self.weight = weight
        self.class_vectors = nn.Parameter(torch.empty(num_classes, embedding_size))
        self.weight_init_func(self.class_vectors)
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> Groups:
        """Groups for the optimizer that also trains the trunk.

        Args:
            lr: > 0, the rate of the trunk, at which the class vectors are trained as well. An
                ``inner`` with ``param_groups`` of its own says what it makes of it.
            weight_decay: >= 0; the released code decays all parameters alike.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        groups: Groups = [{"params": [self.class_vectors], "lr": lr, "weight_decay": weight_decay}]
        if self.inner is not None:
            groups += member_groups(self.inner, lr, weight_decay)
        return without_repeats(groups)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        self._check_width(embeddings)
        labels = class_indices("labels", labels, self.num_classes)
        if self.inner is None or self.weight is None:
            way_out = "Give `inner` the loss that compares pairs."
            refuse_references(embeddings, ref_emb, way_out)
            if indices_tuple is not None:
                raise refuse("indices_tuple", "None without `inner`", "a tuple", way_out)
            loss_dict = per_anchor(self._zero_shot(embeddings, labels))
        else:
            rows, attributes = embeddings.tensor_split([self.embedding_size], dim=1)
            references = []
            if ref_emb is not embeddings:
                references = [ref_emb[:, : self.embedding_size], ref_labels]
            value = member_value("inner", self.inner, [rows, labels], indices_tuple, references)
            value = (1 - self.weight) * value.to(embeddings.dtype)
            loss_dict = already_reduced_parts({"inner_loss": value})
            zero_shot = self.weight * self._zero_shot(attributes, labels)
            loss_dict["zero_shot_loss"] = per_element(zero_shot)
        self.add_weight_regularization_to_loss_dict(loss_dict, self.class_vectors)
        return loss_dict

    def get_default_weight_init_func(self) -> Any:
        return c_f.TorchInitWrapper(nn.init.kaiming_normal_, mode="fan_out")  # sqrt(2 / K)

    def _sub_loss_names(self) -> list[str]:
        return ["inner_loss", "zero_shot_loss"] if self._has_inner else ["loss"]

    def _zero_shot(self, attributes: Tensor, labels: Tensor) -> Tensor:
        losses = zero_shot_prediction(
            attributes,
            labels,
            self.class_vectors,
            ridge=self.ridge,
            logit_scale=self.logit_scale,
        )
        return losses.to(attributes.dtype)

    def _check_width(self, embeddings: Tensor) -> None:
        width, words = self.num_attributes, "num_attributes"
        if self.inner is not None:
            width, words = width + self.embedding_size, "embedding_size + num_attributes"
        if embeddings.shape[1] != width:
            way_out = "Pass attributes; num_attributes is the num_prototypes of the pooling."
            if self.inner is not None:
                way_out = (
                    "Pass torch.cat([embedding, attributes], dim=1): GeneralizedSumPooling with "
                    "concatenate_attributes=True gives it in training mode, and num_attributes "
                    "is its num_prototypes."
                )
            came = f"{embeddings.shape[1]} columns"
            raise refuse("embeddings", f"{words} = {width} columns", came, way_out)
