"""Weights drawn anew for every batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pml_extras._checks import check_count
from pml_extras.weighting.base import LossWeighting, Weighted


class RandomWeights(LossWeighting):
    r"""A baseline that any learned weighting has to beat: in each training batch

    .. math::
        w = \mathrm{softmax}(a), \qquad a \sim \mathcal{N}(0, I_m)

    and 1/m, its expectation, in eval mode. Favours no loss. The weights sum to 1.

    Args:
        seed: integer >= 0 of the strategy's own generator; the global one is neither read nor
            moved. Equal seeds draw equal weights, on every device and in every process.

    Attributes:
        current: buffer (m,), the last draw; 1/m before the first.

    It has no parameters. The state dict holds the state of the generator, so that a resumed run
    draws what the other would have drawn.

    Source: Lin et al., Reasonable effectiveness of random weighting: a litmus test for multi-task
    learning, TMLR 2022, https://arxiv.org/abs/2111.10603.

    Raises:
        ValueError: ``seed`` is no integer >= 0.
    """

    current: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        check_count(0, seed=seed)
        self.seed = seed
        # The state and not the generator: torch 2.4 can neither copy nor pickle that.
        self._state = torch.Generator("cpu").manual_seed(seed).get_state()

    def forward(
        self, losses: Tensor, raw: Tensor, shared: Tensor | Sequence[Tensor] | None
    ) -> Weighted:
        losses = self._vector(losses)
        if not self.training:
            return Weighted(losses / len(self.names))
        weights = self._draw().to(losses.dtype).to(losses.device)
        with torch.no_grad():
            self.current.copy_(weights)
        return Weighted(weights * losses)

    def weights(self) -> Tensor:
        uniform = torch.full_like(self.current, 1 / len(self.names))
        return self.current.clone() if self.training else uniform

    def get_extra_state(self) -> Tensor:
        return self._state

    def set_extra_state(self, state: Tensor) -> None:
        self._state = state.cpu()

    def _draw(self) -> Tensor:
        """(m,) float64."""
        generator = torch.Generator("cpu")
        generator.set_state(self._state)
        size = len(self.names)
        a = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
        self._state = generator.get_state()
        return a.softmax(dim=0)

    def _build(self, num_losses: int) -> None:
        uniform = torch.full((num_losses,), 1 / num_losses, dtype=torch.float32)
        self.register_buffer("current", uniform)
