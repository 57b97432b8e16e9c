"""Weights that balance the norms of the gradients and the rates of training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pml_extras._checks import check_non_negative
from pml_extras.weighting.base import LossWeighting, Weighted, gradients


class GradNorm(LossWeighting):
    r"""Weights whose gradients have norms that follow how slowly each loss trains.

    With :math:`g_j = \lVert \partial l_j / \partial x \rVert_2` at the shared embeddings x:

    .. math::
        w = m \, \mathrm{softmax}(a), \quad \bar G = \frac{1}{m} \sum_j w_j g_j, \quad
        r_j = \frac{l_j / l_j(0)}{\frac{1}{m} \sum_i l_i / l_i(0)}, \quad
        L_{grad} = \sum_j \big\lvert w_j g_j - \bar G r_j^{\alpha} \big\rvert

    where :math:`\bar G r_j^\alpha` is held constant. The network is trained on
    :math:`\sum_j w_j l_j` with w held constant; :math:`L_{grad}` trains a alone.

    Favours the loss that improved **least** since the first batch, and small gradients.

    Args:
        restoring_force: alpha >= 0 of the paper, without unit. 0 makes all norms equal, larger
            ones pull harder on losses that train slowly.

    Attributes:
        logits: Parameter (m,), a, 0 at the start. Give it to the optimizer **without weight
            decay**, which would pull the weights towards uniform.
        first_losses: buffer (m,), l(0): the first value other than 0 that each loss had in
            training. Until a loss has one its ratio is 1.

    The weights sum to m. The extra term, ``gradnorm_loss``, has the unit of a gradient of the
    losses. It is 0, attached to the graph, in eval mode and where no gradient can be taken; the
    weights then stay. Ratios come from raw values, gradients from those that the ensemble scaled.

    Where rates differ and alpha is neither 0 nor 1, the targets do not sum to the norms: no
    weights bring the extra term to 0.

    Source: Chen et al., GradNorm, ICML 2018, https://arxiv.org/abs/1711.02257. Departures:
    gradients at the embeddings instead of the last shared weights; softmax, as in LibMTL, instead
    of a division after each step; l(0) guarded.

    Raises:
        ValueError: ``restoring_force`` out of its range; in training, a raw loss below 0, by name
            (the check reads the values back from the device).
    """

    extra_name = "gradnorm_loss"
    takes_gradients = True
    first_losses: Tensor

    def __init__(self, restoring_force: float = 1.5) -> None:
        super().__init__()
        check_non_negative(restoring_force=restoring_force)
        self.restoring_force = restoring_force

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        weights = self._weights(losses.dtype)
        extra = 0.0 * weights.sum()
        if self.training:
            self._refuse_negative(raw)
            self._remember(raw)
            rows = gradients(losses, shared)
            if rows is not None:
                extra = self._imbalance(weights * rows.norm(dim=1), raw.to(losses.dtype))
        return Weighted(weights.detach() * losses, extra)

    def weights(self) -> Tensor:
        return self._weights(self.logits.dtype).detach()

    def _weights(self, dtype: torch.dtype) -> Tensor:
        return len(self.names) * self.logits.to(dtype).softmax(dim=0)

    def _build(self, num_losses: int) -> None:
        self.logits = nn.Parameter(torch.zeros(num_losses, dtype=torch.float32))
        self.register_buffer("first_losses", torch.zeros(num_losses, dtype=torch.float32))

    @torch.no_grad()
    def _remember(self, raw: Tensor) -> None:
        first = self.first_losses
        value = raw.to(first.dtype)
        new = (first == 0) & value.isfinite() & (value > 0)
        first.copy_(torch.where(new, value, first))

    def _imbalance(self, norms: Tensor, raw: Tensor) -> Tensor:
        """() L_grad of the weighted norms (m,)."""
        first = self.first_losses.to(raw.dtype)
        largest = torch.finfo(raw.dtype).max / len(raw)  # over a tiny start the ratio may overflow
        progress = torch.where(first == 0, 1.0, (raw.clamp(min=0) / first).clamp(max=largest))
        mean = progress.mean()
        rate = torch.where(mean == 0, 1.0, progress / mean)  # (m,)
        target = norms.detach().mean() * rate**self.restoring_force  # (m,)
        return (norms - target).abs().sum()
