"""A linear classifier on the embedding, with smoothed labels."""

import math
from typing import Any

import torch
from pytorch_metric_learning.losses import WeightRegularizerMixin
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor, nn

from pml_extras._checks import (
    check_count,
    check_non_negative,
    check_positive,
    check_rows,
    refuse,
)
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    anchor_weights,
    check_columns,
    class_indices,
    per_anchor,
    refuse_references,
)
from pml_extras.functional.precision import at_least_float32, call_in, no_autocast
from pml_extras.functional.smoothed_cross_entropy import smoothed_cross_entropy, smoothing_over_all


class ClassificationLoss(WeightRegularizerMixin, FullPrecisionLoss):
    r"""Cross-entropy of a linear classifier on raw embeddings, against smoothed labels.

    .. math::
        \ell_i = -\sum_c t_{ic} \log \mathrm{softmax}_c(W x_i + b), \qquad
        t_{ic} = \begin{cases} 1 - \epsilon & c = y_i \\ \epsilon / (C - 1) & c \ne y_i
        \end{cases}

    with :math:`W \max(0, V x_i + a) + b` for the logits where ``hidden_size`` is given. Unlike
    pml's ``NormalizedSoftmaxLoss`` it has a bias and normalises neither rows nor weights.

    Args:
        num_classes: C >= 2; labels lie in [0, C).
        embedding_size: D.
        label_smoothing: :math:`\epsilon` in [0, 1 - 1/C), what is taken from the true class and
            spread over the **other** ones, as the authors do. torch (and
            :class:`IntraBatchConnectionsLoss`) spreads over all C: this :math:`\epsilon` is
            torch's ``label_smoothing`` :math:`\epsilon C / (C - 1)`.
        hidden_size: units of a hidden layer with ReLU; None is a linear classifier, as published.
        **kwargs: ``reducer`` (one value a row), ``weight_regularizer`` and ``weight_init_func`` (of
            W, (C, D) or (C, hidden_size); default that of torch's linear layer),
            ``embedding_regularizer``, ``collect_stats``. No ``distance``: none is computed.

    Attributes:
        classifier: ``torch.nn.Linear``, W and b.
        hidden: the layer before it, or ``torch.nn.Identity``.

    A miner's tuple weighs rows, as in pml's classification losses: by how often each occurs over
    the largest count. The parameters are trained with those of the trunk: pass
    :meth:`param_groups` to the optimizer.

    Source: Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, the classification member of the authors' released code.

    Raises:
        ValueError: an argument out of its range; a distance; references; labels that are no
            classes; rows of another size.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        label_smoothing: float = 0.15,
        hidden_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "This loss classifies and compares no pairs.")
        super().__init__(**kwargs)
        check_count(2, num_classes=num_classes)
        check_count(1, embedding_size=embedding_size)
        smoothing_over_all(label_smoothing, num_classes)
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.label_smoothing = label_smoothing
        self.hidden_size = hidden_size
        self.hidden: nn.Module = nn.Identity()
        width = embedding_size
        if hidden_size is not None:
            check_count(1, hidden_size=hidden_size)
            self.hidden = nn.Sequential(nn.Linear(embedding_size, hidden_size), nn.ReLU())
            width = hidden_size
        self.classifier = nn.Linear(width, num_classes)
        self.weight_init_func(self.classifier.weight)
        names = ["num_classes", "embedding_size", "label_smoothing"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """One group of all parameters, for the optimizer that also trains the trunk.

        Args:
            lr: > 0, the rate of the trunk; the classifier gets 10 times it, the ratio of the paper
                (1e-3 to 1e-4).
            weight_decay: >= 0; the paper has 1e-4 everywhere.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        params = list(self.parameters())
        return [{"params": params, "lr": 10.0 * lr, "weight_decay": weight_decay}]

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """(B, D) raw rows to (B, C) logits.

        Raises:
            ValueError: rows of another size.
        """
        check_rows(embeddings=embeddings)
        check_columns(self.embedding_size, embeddings=embeddings)
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            dtype = torch.promote_types(x.dtype, self.classifier.weight.dtype)
            hidden = call_in(dtype, self.hidden, x.to(dtype))
            logits: Tensor = call_in(dtype, self.classifier, hidden)
        return logits

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        refuse_references(embeddings, ref_emb, "This loss classifies and compares no pairs.")
        labels = class_indices("labels", labels, self.num_classes)
        weight = anchor_weights(indices_tuple, labels, embeddings.dtype, has_ref=False)
        losses = smoothed_cross_entropy(
            self.get_logits(embeddings),
            labels,
            temperature=1.0,
            label_smoothing=smoothing_over_all(self.label_smoothing, self.num_classes),
        )
        loss_dict = per_anchor(losses * weight)
        self.add_weight_regularization_to_loss_dict(loss_dict, self.classifier.weight)
        return loss_dict

    def get_default_weight_init_func(self) -> Any:
        return c_f.TorchInitWrapper(nn.init.kaiming_uniform_, a=math.sqrt(5))  # as nn.Linear
