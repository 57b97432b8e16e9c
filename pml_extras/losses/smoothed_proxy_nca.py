"""Proxy-NCA with smoothed labels."""

from typing import Any

import torch
from pytorch_metric_learning.losses import ProxyNCALoss
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from pml_extras._checks import check_count, check_non_negative, check_positive, check_rows
from pml_extras._distances import distance_matrix
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    anchor_weights,
    check_columns,
    class_indices,
    per_anchor,
    refuse_references,
)
from pml_extras.functional.precision import at_least_float32, no_autocast
from pml_extras.functional.smoothed_cross_entropy import smoothed_cross_entropy, smoothing_over_all


class SmoothedProxyNCALoss(FullPrecisionLoss, ProxyNCALoss):
    r"""Cross-entropy over the distances to one proxy a class, against smoothed labels.

    .. math::
        \ell_i = -\sum_c t_{ic} \log \mathrm{softmax}_c\left(-\gamma
            \left\lVert \frac{x_i}{\lVert x_i \rVert} - \frac{p_c}{\lVert p_c \rVert}
            \right\rVert^2\right), \qquad
        t_{ic} = \begin{cases} 1 - \epsilon & c = y_i \\ \epsilon / (C - 1) & c \ne y_i
        \end{cases}

    The proxy of the true class is in the denominator. The authors write the exponent
    :math:`-\lVert x/\lVert x \rVert - 3 p/\lVert p \rVert \rVert^2`, which is
    :math:`6 \cos(x, p) - 10`; :math:`\gamma = 3` gives :math:`6 \cos(x, p) - 6`, the same softmax.

    pml's ``ProxyNCALoss`` where ``label_smoothing`` is 0.

    Args:
        num_classes: C >= 2; labels lie in [0, C).
        embedding_size: D.
        softmax_scale: :math:`\gamma > 0`, in 1 / unit of the distance.
        label_smoothing: :math:`\epsilon` in [0, 1 - 1/C), what is taken from the true class and
            spread over the **other** ones, as the authors do; torch's ``label_smoothing`` for it
            is :math:`\epsilon C / (C - 1)`.
        **kwargs: those of pml's class: ``distance`` (default ``LpDistance(power=2)``, of unit
            vectors), ``reducer`` (one value a row), ``weight_regularizer`` and
            ``weight_init_func`` of the proxies (default normal with standard deviation 1/8, the
            authors'), ``embedding_regularizer``, ``collect_stats``.

    Attributes:
        proxies: Parameter (C, D). The default distance normalises them, so only their directions
            matter, and their norm sets their speed. Pass :meth:`param_groups` to the optimizer.

    A miner's tuple weighs rows, as in pml's class: by how often each is an anchor over the largest
    count. Positives and negatives have no part: proxies stand for them.

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017,
    https://arxiv.org/abs/1703.07464, whose denominator leaves the true class out; this form is
    that of Zabihzadeh, Alitbi, Mousavirad, "Ensemble of Loss Functions to Improve Generalizability
    of Deep Metric Learning methods", Multimedia Tools and Applications 2023,
    https://arxiv.org/abs/2107.01130, in the authors' released code.

    Departures from pml 2.9.0 without smoothing: labels outside of [0, C) are refused; a row whose
    probability underflows has its loss (pml leaves it out of the mean); half inputs leave the
    dtype of the proxies; :meth:`get_logits` gives logits, larger is closer, where pml's gives
    distances; proxies start 8 times shorter.

    Raises:
        ValueError: an argument out of its range; references; labels that are no classes; rows of
            another size.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        softmax_scale: float = 3.0,
        label_smoothing: float = 0.1,
        **kwargs: Any,
    ) -> None:
        check_count(2, num_classes=num_classes)
        check_count(1, embedding_size=embedding_size)
        check_positive(softmax_scale=softmax_scale)
        smoothing_over_all(label_smoothing, num_classes)
        super().__init__(
            num_classes=num_classes,
            embedding_size=embedding_size,
            softmax_scale=softmax_scale,
            **kwargs,
        )
        self.num_classes = num_classes  # pml records 0
        self.embedding_size = embedding_size
        self.label_smoothing = label_smoothing
        names = ["embedding_size", "label_smoothing"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """One group, the proxies, for the optimizer that also trains the trunk.

        Args:
            lr: > 0, the rate of the trunk; proxies get 150 times it, the ratio of the paper (0.015
                to 1e-4). With Adam that turns a proxy of initial norm sqrt(D) / 8 by about 1200 lr
                radians a step, whatever D: for a trunk that learns faster, pass 1e-4 all the same.
            weight_decay: >= 0; the paper has 1e-4 everywhere. It shrinks proxies, and so only
                raises their speed.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        return [{"params": [self.proxies], "lr": 150.0 * lr, "weight_decay": weight_decay}]

    def get_logits(self, embeddings: Tensor) -> Tensor:
        r"""(B, D) rows to (B, C) logits, :math:`-\gamma` times the distance to each proxy.

        Raises:
            ValueError: rows of another size.
        """
        check_rows(embeddings=embeddings)
        check_columns(self.embedding_size, embeddings=embeddings)
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            dtype = torch.promote_types(x.dtype, self.proxies.dtype)
            matrix = distance_matrix(self.distance, x.to(dtype), self.proxies.to(dtype))
            closeness: Tensor = self.distance.margin(0.0, matrix)  # larger is closer
            return self.softmax_scale * closeness  # type: ignore[no-any-return]

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        refuse_references(embeddings, ref_emb, "Rows are compared with proxies alone.")
        labels = class_indices("labels", labels, self.num_classes)
        # As pml's class does: of a tuple anchors alone count, since proxies are the references.
        weight = anchor_weights(indices_tuple, labels, embeddings.dtype, has_ref=True)
        losses = smoothed_cross_entropy(
            self.get_logits(embeddings),
            labels,
            temperature=1.0,
            label_smoothing=smoothing_over_all(self.label_smoothing, self.num_classes),
        )
        loss_dict = per_anchor(losses * weight)
        self.add_weight_regularization_to_loss_dict(loss_dict, self.proxies)
        return loss_dict

    def get_default_weight_init_func(self) -> Any:
        return c_f.TorchInitWrapper(torch.nn.init.normal_, std=1 / 8)
