"""NT-Xent loss: a drop-in for pytorch-metric-learning's, at memory linear in the batch."""

from typing import Any

import torch
from torch import Tensor, nn

from pml_extras._checks import check_positive, refuse
from pml_extras.functional.ntxent import ntxent
from pml_extras.losses._against_negatives import AgainstNegatives, Formulas


class NTXentLoss(AgainstNegatives):
    r"""Each positive pair as one class among itself and all negatives of its anchor.

    Formula and source: :func:`pml_extras.functional.ntxent`, with :math:`s = -d` for a distance.

    A drop-in for ``pytorch_metric_learning.losses.NTXentLoss``, equal to it in value and gradient.

    ========= ================ ========== =========
    Distances A tuple          References Reduction
    ========= ================ ========== =========
    any       lists its pairs  accepted   pos_pair
    ========= ================ ========== =========

    Args:
        temperature: :math:`\tau > 0`, in the unit of the similarity or distance: a number, or a
            0-dim tensor; an ``nn.Parameter`` is learned.
        tile: rows of the pairwise matrix that are held at a time; None chooses by size and device.
        **kwargs: pml's ``distance`` (default ``CosineSimilarity()``), ``reducer`` (default
            ``MeanReducer()``), ``embedding_regularizer`` and ``collect_stats``; and ``match_fn``,
            a relation in place of equal labels: :class:`pml_extras.losses._pair_loss.PairLoss`.

    A miner's tuple: (a1, p) are the positive pairs, (a2, n) negatives of the anchor a2; a pair
    listed twice counts twice. References (``ref_emb``) are the other side of the pairs.

    Memory: O(B D + tile R + P) for P positive pairs. With a tuple, with a distance that is not one
    of pml's own and with a learned temperature the whole (B, R) matrix is held.

    Output: "pos_pair", one loss a positive pair, shape (P,); both orders of a pair are listed.

    Departures from pml 2.9.0: a loss beyond 87 in float32 (708 in float64) goes on with its
    gradient (pml: constant); a tuple of one pair is computed (pml: 0); gradients of nearly
    coincident points are right with ``LpDistance``.

    Raises:
        ValueError: an argument out of its range, or the batch has neither labels nor a tuple.
    """

    def __init__(
        self, temperature: float | Tensor = 0.07, tile: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(tile, **kwargs)
        _check_temperature(temperature)
        self.temperature = temperature
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)

    def formulas(self) -> Formulas:
        temperature, similarities = self.temperature, self.distance.is_inverted

        def score(compared: Tensor) -> Tensor:
            return (compared if similarities else -compared) / temperature

        return Formulas(score, lambda compared, negatives: ntxent(score(compared), negatives))


def _check_temperature(temperature: float | Tensor) -> None:
    if not torch.is_tensor(temperature):
        check_positive(temperature=temperature)
        return
    constant_or_learned = isinstance(temperature, nn.Parameter) or not temperature.requires_grad
    if temperature.ndim > 0 or not constant_or_learned:
        expected = "a number, a constant 0-dim tensor or a 0-dim nn.Parameter"
        raise refuse("temperature", expected, repr(temperature))
    check_positive(temperature=temperature.item())
