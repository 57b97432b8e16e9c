"""Sum over the batch size."""

from typing import Any

from pytorch_metric_learning.reducers import BaseReducer
from torch import Tensor

from pml_extras.functional.precision import at_least_float32


class BatchSizeReducer(BaseReducer):
    r"""The sum of losses of rows, pairs or triplets, over the number of rows of the batch.

    .. math::
        L = \frac{1}{B} \sum_t \ell_t

    pml's ``MeanReducer`` divides by the number of pairs, ``AvgNonZeroReducer`` (the default of
    ``ContrastiveLoss``) by that of pairs whose loss is not 0, so that their weight grows as they
    become few; here a pair always weighs 1 / B. Each sub-loss is divided by B, and pml adds them:

    >>> from pytorch_metric_learning.distances import CosineSimilarity
    >>> from pytorch_metric_learning.losses import ContrastiveLoss
    >>> loss = ContrastiveLoss(
    ...     0.9, 0.5, distance=CosineSimilarity(), reducer=BatchSizeReducer()
    ... )

    sums over ordered pairs: (i, j) and (j, i) both count. B is the number of embeddings that the
    loss is called with: references are not counted, nor are rows without a pair. A batch without
    losses gives an attached 0; a sub-loss that comes reduced (a regularizer) stays as it is. The
    sum of half losses is float32.

    Args:
        **kwargs: ``collect_stats``.
    """

    def element_reduction(
        self, losses: Tensor, loss_indices: Any, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        if len(embeddings) == 0:
            zero: Tensor = self.zero_loss(embeddings)
            return zero
        return at_least_float32(losses).sum() / len(embeddings)

    def pos_pair_reduction(self, *args: Any) -> Tensor:
        return self.element_reduction(*args)

    def neg_pair_reduction(self, *args: Any) -> Tensor:
        return self.element_reduction(*args)

    def triplet_reduction(self, *args: Any) -> Tensor:
        return self.element_reduction(*args)
