"""Intra-batch connections: a message passing network and an auxiliary classifier on a batch."""

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
    check_rows,
    refuse,
)
from pml_extras._pml import (
    FullPrecisionLoss,
    LossDict,
    anchor_weights,
    check_columns,
    class_indices,
    per_element,
    refuse_references,
)
from pml_extras.functional.precision import at_least_float32, call_in, no_autocast
from pml_extras.functional.smoothed_cross_entropy import smoothed_cross_entropy
from pml_extras.nn.message_passing import MessagePassingNetwork, check_options


class IntraBatchConnectionsLoss(WeightRegularizerMixin, FullPrecisionLoss):
    r"""Classify a batch after its rows have exchanged messages, and each row alone.

    .. math::
        L = w_{aux} \frac{1}{B} \sum_i \ell(W_a x_i + b_a, y_i)
          + w_{mpn} \frac{1}{B} \sum_i \ell(W_c\, \mathrm{BN}(z_i), y_i)

    with the raw rows :math:`x_i`, their refined vectors :math:`z_i` from
    :class:`pml_extras.nn.MessagePassingNetwork`, which takes directions only, and
    :math:`\ell` = :func:`pml_extras.functional.smoothed_cross_entropy`. BN is a batch norm with a
    learned scale and no shift. At test time the embeddings of the trunk are compared, without any
    of this; :func:`pml_extras.inference.refine_with_neighbours` is the optional other way.

    Give it the **raw** output of the trunk: after an L2 normalisation the auxiliary logits are
    confined to a small range. There is nothing to mine: the paper draws classes and images at
    random (``MPerClassSampler``, or :class:`pml_extras.samplers.EpochMPerClassSampler`, that of
    the released recipe).

    Args:
        num_classes: C, of training classes; labels lie in [0, C).
        embedding_size: D.
        num_heads: of attention; divides ``embedding_size``. Released configurations: 2 (CUB), 8
            (Cars196), 4 (In-Shop); that of SOP has the auxiliary classifier alone.
        num_layers: message passing steps; released: 1, on Cars196 2.
        feedforward_size: hidden units of a step; None is 4 D.
        dropout: in [0, 1), at four places of a step.
        temperature: T > 0 of both branches; released: 0.2 (CUB), 0.111 (Cars196), 0.186 (In-Shop),
            0.605 (SOP).
        label_smoothing: in [0, 1), of both branches.
        mpn_weight: >= 0; 0 leaves the network, its batch norm and its classifier out.
        aux_weight: >= 0; 0 leaves the auxiliary classifier out.
        add_zero_attn: False is the softmax of the paper; True is that of the released code.
        concat_layers: classify the nodes after all steps side by side.
        attention_dropout: None is ``dropout``; see :class:`~pml_extras.nn.MessagePassingNetwork`
            for its memory: on a CPU, 0 keeps the growth with B linear.
        **kwargs: ``reducer`` (both sub-losses ``mpn_loss`` and ``aux_loss`` are one value a row,
            each times its weight), ``weight_regularizer`` and ``weight_init_func`` (of the
            classifier :math:`W_c`, default normal with standard deviation 0.001; of :math:`W_a`,
            default that of torch's linear layer, where it is the only one),
            ``embedding_regularizer``, ``collect_stats``. No ``distance``: none is computed.

    Attributes:
        network: the :class:`~pml_extras.nn.MessagePassingNetwork`, None without its branch.
        neck: the batch norm, which has no ``bias``, None without its branch.
        classifier: Parameter (C, Z), :math:`W_c`; Z is D, or L D with ``concat_layers``.
        auxiliary: ``torch.nn.Linear``, :math:`W_a` and :math:`b_a`, None without its branch.

    The parameters are trained with those of the trunk, in the released recipe at the same rate and
    decay: pass :meth:`param_groups` to the optimizer, in pml's trainers as
    ``"metric_loss_optimizer"``. That recipe's optimizer is
    ``torch.optim.RAdam(..., decoupled_weight_decay=True)``.

    The loss has modes: dropout and batch norm follow ``train()`` and ``eval()``, which pml's
    trainers call. In training mode the loss and :meth:`refine` draw masks of dropout, and the loss
    and :meth:`get_refined_logits` update the running statistics of batch norm, which the state
    dict holds; a row that is not finite spoils those for good. Second derivatives, as of a gradient
    penalty, are not supported.

    A miner's tuple weighs rows, as in pml's classification losses: by how often each occurs over
    the largest count, and by 1 if the tuple is empty. All rows stay nodes of the graph.

    On several processes, pml's ``DistributedLossWrapper`` (``efficient=False``) makes one graph of
    all their rows; wrap it in ``DistributedDataParallel``, since the loss has parameters. It
    multiplies by the number of processes, which is right for the trunk, but the averaged gradient
    of the loss's own parameters comes multiplied too: divide their ``grad`` by that number before
    the optimizer's step. Masks of dropout differ between the processes.

    Departures from the paper, or from what is known of it: these are of the authors' released code
    (https://github.com/dvl-tum/intra_batch): the input projection, the batch norm without shift,
    the auxiliary classifier with bias on raw rows, the places of dropout, the smoothing of labels,
    and, as an option, the null neighbour.

    Raises:
        ValueError: a hyper-parameter out of its range; a distance; references; labels that are no
            classes; one row in training mode, which batch norm cannot normalise.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        num_heads: int = 2,
        num_layers: int = 1,
        feedforward_size: int | None = None,
        dropout: float = 0.1,
        temperature: float = 0.2,
        label_smoothing: float = 0.1,
        mpn_weight: float = 1.0,
        aux_weight: float = 1.0,
        add_zero_attn: bool = False,
        concat_layers: bool = False,
        attention_dropout: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_non_negative(mpn_weight=mpn_weight, aux_weight=aux_weight)
        if mpn_weight == aux_weight == 0:
            raise refuse("mpn_weight, aux_weight", "one above 0", "0 and 0")
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "This loss classifies and compares no pairs.")
        branches = {"mpn_loss": mpn_weight, "aux_loss": aux_weight}
        # Before pml's constructor, which asks for the sub-losses.
        self._branches = [name for name, weight in branches.items() if weight > 0]
        super().__init__(**kwargs)
        check_count(1, num_classes=num_classes, embedding_size=embedding_size)
        check_positive(temperature=temperature)
        check_fraction(label_smoothing=label_smoothing)
        check_options(
            num_heads,
            num_layers,
            feedforward_size,
            dropout,
            attention_dropout,
            add_zero_attn,
            concat_layers,
        )
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.feedforward_size = feedforward_size
        self.dropout = dropout
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.mpn_weight = mpn_weight
        self.aux_weight = aux_weight
        self.add_zero_attn = add_zero_attn
        self.concat_layers = concat_layers
        self.attention_dropout = attention_dropout
        self.network: MessagePassingNetwork | None = None
        self.neck: nn.BatchNorm1d | None = None
        self.classifier: nn.Parameter | None = None
        self.auxiliary: nn.Linear | None = None
        if mpn_weight > 0:
            self.network = MessagePassingNetwork(
                embedding_size,
                num_heads=num_heads,
                num_layers=num_layers,
                feedforward_size=feedforward_size,
                dropout=dropout,
                attention_dropout=attention_dropout,
                add_zero_attn=add_zero_attn,
                concat_layers=concat_layers,
            )
            self.neck = nn.BatchNorm1d(self.network.output_size)
            self.neck.register_parameter("bias", None)
            self.classifier = nn.Parameter(torch.empty(num_classes, self.network.output_size))
            self.weight_init_func(self.classifier)
        if aux_weight > 0:
            self.auxiliary = nn.Linear(embedding_size, num_classes)
            if mpn_weight == 0 and kwargs.get("weight_init_func") is not None:
                self.weight_init_func(self.auxiliary.weight)
        names = ["num_classes", "embedding_size", "num_heads", "num_layers", "dropout"]
        names += ["temperature", "label_smoothing", "mpn_weight", "aux_weight"]
        self.add_to_recordable_attributes(list_of_names=names, is_stat=False)

    def param_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """One group of all parameters, for the optimizer that also trains the trunk.

        Args:
            lr: > 0, the rate of the trunk, at which the released recipe trains these as well.
            weight_decay: >= 0; that recipe decays all parameters alike.
        """
        check_positive(lr=lr)
        check_non_negative(weight_decay=weight_decay)
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def refine(self, embeddings: Tensor) -> Tensor:
        """(B, D) raw rows to (B, Z) refined vectors, before batch norm and not normalised.

        Raises:
            ValueError: rows of another size, or ``mpn_weight`` 0.
        """
        if self.network is None:
            raise _without_branch("refine", "mpn_weight")
        check_rows(embeddings=embeddings)
        refined: Tensor = self.network(embeddings)
        return refined

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """(B, D) raw rows to (B, C) auxiliary logits over T: each row's depend on it alone.

        Raises:
            ValueError: rows of another size, or ``aux_weight`` 0.
        """
        return self._auxiliary_logits(embeddings) / self.temperature

    def get_refined_logits(self, embeddings: Tensor) -> Tensor:
        """(B, D) raw rows to (B, C) logits of the refined vectors over T.

        In training mode they sum to 0 over the batch for every class.

        Raises:
            ValueError: rows of another size, ``mpn_weight`` 0, or one row in training mode.
        """
        return self._refined_logits(embeddings) / self.temperature

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        refuse_references(embeddings, ref_emb, "The graph has the rows of the batch alone.")
        labels = class_indices("labels", labels, self.num_classes)
        weight = anchor_weights(indices_tuple, labels, embeddings.dtype, has_ref=False)
        losses = {}
        if self.network is not None:
            losses["mpn_loss"] = self.mpn_weight * self._cross_entropy(
                self._refined_logits(embeddings), labels
            )
        if self.auxiliary is not None:
            losses["aux_loss"] = self.aux_weight * self._cross_entropy(
                self._auxiliary_logits(embeddings), labels
            )
        loss_dict = {
            name: per_element((loss * weight).to(embeddings.dtype)) for name, loss in losses.items()
        }
        self.add_weight_regularization_to_loss_dict(loss_dict, self._class_weights())
        return loss_dict

    def get_default_weight_init_func(self) -> Any:
        return c_f.TorchInitWrapper(nn.init.normal_, std=0.001)

    def _sub_loss_names(self) -> list[str]:
        return list(self._branches)

    def _class_weights(self) -> Tensor | None:
        """(C, Z) of the refined classifier, or (C, D) of the auxiliary one if that is alone."""
        if self.classifier is None and self.auxiliary is not None:
            return self.auxiliary.weight
        return self.classifier

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return smoothed_cross_entropy(
            logits, labels, temperature=self.temperature, label_smoothing=self.label_smoothing
        )

    def _refined_logits(self, embeddings: Tensor) -> Tensor:
        if self.network is None or self.neck is None or self.classifier is None:
            raise _without_branch("get_refined_logits", "mpn_weight")
        if self.neck.training and len(embeddings) == 1:
            raise refuse(
                "embeddings",
                "at least 2 rows in training mode",
                "1",
                "Batch norm has no spread of one row: use drop_last=True in the loader, or call "
                ".eval() on the loss.",
            )
        refined = self.refine(embeddings)
        with no_autocast(refined):
            normalised: Tensor = call_in(refined.dtype, self.neck, refined)
            return nn.functional.linear(normalised, self.classifier.to(refined.dtype))

    def _auxiliary_logits(self, embeddings: Tensor) -> Tensor:
        if self.auxiliary is None:
            raise _without_branch("get_logits", "aux_weight")
        check_rows(embeddings=embeddings)
        check_columns(self.embedding_size, embeddings=embeddings)
        with no_autocast(embeddings):
            x = at_least_float32(embeddings)
            dtype = torch.promote_types(x.dtype, self.auxiliary.weight.dtype)
            logits: Tensor = call_in(dtype, self.auxiliary, x.to(dtype))
        return logits


def _without_branch(method: str, weight: str) -> ValueError:
    return refuse(weight, f"above 0 for {method}", "0", f"Construct the loss with {weight} > 0.")
