"""Compression: a short embedding that keeps the distances of a long one."""

from typing import Any

from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from pml_extras._checks import check_flag, check_rows, refuse
from pml_extras._pml import LossDict, already_reduced
from pml_extras.functional.distance_preserving import distance_preserving
from pml_extras.functional.precision import at_least_float32, no_autocast


class DistancePreservingLoss(BaseMetricLossFunction):
    """Squared distances inside a batch proportional to those of a teacher.

    Formula and source: :func:`pml_extras.functional.distance_preserving`.

    ``loss(student, ref_emb=teacher)`` with the student's (B, Z) and the teacher's (B, X) embeddings
    of the same B samples, of any two widths. No gradient reaches the teacher. In the paper the
    teacher is the weighted concatenation of the heads of an ensemble and the student is a
    :class:`pml_extras.nn.CompressionHead` of it, trained with an optimizer of its own::

        teacher = ensemble.embed(features).detach()
        loss = DistancePreservingLoss()(head(teacher), ref_emb=teacher)

    Args:
        normalize_by_batch: divide by B; the paper does not.
        **kwargs: ``embedding_regularizer`` (of the student), ``collect_stats``, and ``reducer``,
            which gets one number a batch ("already_reduced"). No ``distance``: it is the squared
            Euclidean distance of rows as they are.

    ``labels`` and ``ref_labels`` are accepted, since pml's trainers give them, and have no effect.
    Half inputs and autocast regions are computed in float32. An empty batch, a single row and a
    student without distances have finite values and zero gradient: a student of one point for all
    samples is a stationary point that training does not leave.

    Raises:
        ValueError: an argument that is not True or False, a distance, a missing teacher or one
            with another number of rows, a miner's tuple.
    """

    def __init__(self, normalize_by_batch: bool = False, **kwargs: Any) -> None:
        if kwargs.get("distance") is not None:
            came = type(kwargs["distance"]).__name__
            raise refuse("distance", "None", came, "It is the squared Euclidean one.")
        super().__init__(**kwargs)
        check_flag(normalize_by_batch=normalize_by_batch)
        self.normalize_by_batch = normalize_by_batch

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """Compute the loss.

        Args:
            embeddings: (B, Z) floating, the student.
            labels: of no effect.
            indices_tuple: None: all pairs of the batch are compared.
            ref_emb: (B, X) floating, the teacher; row i is of the sample of row i of the student.
            ref_labels: of no effect.

        Returns:
            What the reducer makes of it, by default a 0-dim tensor.

        Raises:
            ValueError: an argument has another form.
        """
        check_rows(embeddings=embeddings)
        if ref_emb is None:
            raise refuse(
                "ref_emb",
                "the teacher's (B, X) embeddings",
                "None",
                "Call loss(student, ref_emb=teacher).",
            )
        check_rows(ref_emb=ref_emb)
        if len(ref_emb) != len(embeddings):
            raise refuse(
                "ref_emb",
                f"{len(embeddings)} rows, as `embeddings`",
                f"{len(ref_emb)} rows",
                "Row i of both is of one sample.",
            )
        if indices_tuple is not None:
            way_out = "All pairs of the batch are compared: leave the miner out."
            raise refuse("indices_tuple", "None", type(indices_tuple).__name__, way_out)
        with no_autocast(embeddings):
            student, teacher = at_least_float32(embeddings), at_least_float32(ref_emb).detach()
            return super().forward(student, labels, None, teacher, ref_labels)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> LossDict:
        return already_reduced(
            distance_preserving(embeddings, ref_emb, normalize_by_batch=self.normalize_by_batch)
        )
